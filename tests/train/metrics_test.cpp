#include "thaw/train/metrics.h"

#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/train/progress_observer.h"
#include "toy.h"

namespace thaw::metrics_test {
namespace {

TEST(Metrics, OneLinePerEventAndNoNan) {
  const toy::Folder folder;
  const auto path = folder.path() / "metrics.jsonl";
  {
    MetricsFile file(path);
    file.on_log({.step = 10, .loss = std::nan(""), .grad_norm = 2.0, .learning_rate = 1e-4, .skipped_steps = 10});
    file.on_evaluation(10, {.loss = 0.5, .metrics = {{"action_mse", 0.25}}, .samples = 8});
    file.on_save({.step = 10, .folder = "run/checkpoints/000010", .bytes = 123, .seconds = 0.5});
  }
  const auto lines = read_json_lines(path);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_TRUE(lines[0].at("loss").is_null());
  EXPECT_EQ(lines[0].at("grad_norm"), 2.0);
  EXPECT_EQ(lines[0].at("skipped_steps"), 10);
  EXPECT_EQ(lines[1].at("action_mse"), 0.25);
  EXPECT_EQ(lines[2].at("folder"), "000010");
}

TEST(Metrics, LinesAfterTheResumedStepAndAHalfWrittenOneAreForgotten) {
  const toy::Folder folder;
  const auto path = folder.path() / "metrics.jsonl";
  toy::overwrite(path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st");
  forget_metrics_after(path, 2);
  EXPECT_EQ(toy::file_bytes(path), "{\"step\":1}\n{\"step\":2}\n");
  forget_metrics_after(folder.path() / "none", 2);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "none"));
}

TEST(Metrics, FolderThatDoesNotExistIsNamed) {
  EXPECT_THAT(toy::message_of<IoError>([] { const MetricsFile file("/nonexistent-folder/metrics.jsonl"); }),
              testing::HasSubstr("/nonexistent-folder/metrics.jsonl"));
}

TEST(Progress, DetailSaysLossRateNormThroughputAndWaiting) {
  const LogRecord record{
      .loss = 0.12345, .grad_norm = 0.5, .learning_rate = 1e-4, .samples_per_second = 31.24, .data_wait_share = 0.034};
  EXPECT_EQ(progress_detail(record), "loss 0.1235  lr 1.00e-04  grad 0.5  31.2 samples/s  data 3%");
  LogRecord skipping = record;
  skipping.skipped_steps = 2;
  EXPECT_THAT(progress_detail(skipping), testing::EndsWith("skipped 2"));
}

}  // namespace
}  // namespace thaw::metrics_test
