#include "thaw/train/options.h"

#include "thaw/core/error.h"
#include "toy.h"

namespace thaw::options_test {
namespace {

std::string refusal(const TrainOptions& options) {
  return toy::message_of<UsageError>([&] { options.validate(); });
}

TEST(TrainOptions, DefaultsAreValid) { EXPECT_NO_THROW(TrainOptions{}.validate()); }

TEST(TrainOptions, EachFieldOutOfRangeIsNamedWithItsValueAndRange) {
  const std::vector<std::pair<TrainOptions, std::vector<std::string>>> cases = {
      {{.steps = 0}, {"steps", "at least 1", "0"}},
      {{.batch_size = -3}, {"batch_size", "at least 1", "-3"}},
      {{.accumulation = 0}, {"accumulation", "at least 1"}},
      {{.workers = 1000}, {"workers", "0 to 256", "1000"}},
      {{.optimizer = {.learning_rate = 0.0}}, {"optimizer.learning_rate", "positive"}},
      {{.optimizer = {.beta1 = 1.0}}, {"optimizer.beta1", "in [0, 1)", "1"}},
      {{.optimizer = {.layer_decay = 0.0}}, {"optimizer.layer_decay", "in (0, 1]"}},
      {{.optimizer = {.weight_decay = std::nan("")}}, {"optimizer.weight_decay", "nan"}},
      {{.grad_clip_norm = -1.0}, {"grad_clip_norm", "at least 0", "-1"}},
      {{.schedule = {.decay_steps = 0}}, {"schedule.decay_steps", "at least 1"}},
      {{.ema = {.decay = 1.5}}, {"ema.decay", "in [0, 1)", "1.5"}},
      {{.max_consecutive_skips = 0}, {"max_consecutive_skips", "at least 1"}},
      {{.resume = true}, {"output", "resume"}},
      {{.save_every = -1}, {"save_every", "at least 0"}},
      {{.keep_last = 1}, {"keep_last", "at least 2", "1"}},
      {{.eval_split = 1.0}, {"eval_split", "in [0, 1)"}},
      {{.eval_split = 0.5, .eval_episodes = {1}}, {"eval_split", "eval_episodes"}},
      {{.eval_episodes = {1, 1}}, {"eval_episodes", "once", "1"}},
  };
  for (const auto& [options, parts] : cases) {
    const std::string message = refusal(options);
    for (const std::string& part : parts) EXPECT_THAT(message, testing::HasSubstr(part));
  }
}

TEST(TrainOptions, MisspeltPrecisionIsAnsweredWithTheNearest) {
  EXPECT_EQ(parse_precision("bf16"), Precision::bf16);
  EXPECT_EQ(precision_name(parse_precision("auto")), "auto");
  EXPECT_THAT(toy::message_of<UsageError>([] { (void)parse_precision("bf61"); }), testing::HasSubstr("bf16"));
}

TEST(TrainOptions, MisspeltScheduleIsAnsweredWithTheNearest) {
  EXPECT_EQ(parse_schedule_kind("linear"), ScheduleKind::linear);
  EXPECT_THAT(toy::message_of<UsageError>([] { (void)parse_schedule_kind("cosin"); }), testing::HasSubstr("cosine"));
}

}  // namespace
}  // namespace thaw::options_test
