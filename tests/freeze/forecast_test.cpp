// Forecasts side by side, what fits, and the choice of a cut.
#include "thaw/freeze/forecast.h"

#include <sstream>

#include "sized_layout.h"
#include "thaw/core/error.h"

namespace thaw::forecast_test {
namespace {

using test::message_of;
using test::sized_layout;
using testing::HasSubstr;
using testing::Not;

MachineRates slow_memory_rates() {
  MachineRates rates{.seconds_per_output_byte = 1e-3, .seconds_per_updated_element = 0.5};
  rates.products[{.rows = 4, .in = 4, .out = 4}] = 10.0;
  return rates;
}

TEST(Forecast, OneForEachCutWithItsCache) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = LayerFreezePolicy{}.resolve(layout);
  const ForecastOptions options{.shape = {.batch_size = 2}, .frames = 10};
  const std::vector<Forecast> all = forecast(layout, plan, deepest_cuts(layout, plan), options, nullptr);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[0].cache_bytes_per_frame, 0);
  EXPECT_EQ(all[1].cache_bytes_per_frame, 64);
  EXPECT_EQ(all[1].cache_bytes, 640);
  EXPECT_EQ(all[2].cache_bytes, 320);
  EXPECT_EQ(all[2].trainable_elements, 32);
  EXPECT_FALSE(all[2].step_seconds) << "nothing was measured";
}

TEST(Forecast, ACacheInMemoryIsAtMostWhatTheFramesNeed) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = LayerFreezePolicy{}.resolve(layout);
  const std::vector<PrefixCut> cuts = deepest_cuts(layout, plan);
  const auto held = [&](std::int64_t frames) {
    const ForecastOptions options{.frames = frames, .cache_memory_bytes = 1000};
    return forecast(layout, plan, cuts, options, nullptr)[1].memory.cache;
  };
  EXPECT_EQ(held(10), 640);
  EXPECT_EQ(held(1000), 1000);
  EXPECT_EQ(held(0), 1000) << "unknown";
}

TEST(Forecast, SecondsAreOperationsAtTheirRateBytesWrittenAndTheUpdate) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = LayerFreezePolicy{}.resolve(layout);
  const MachineRates rates = slow_memory_rates();
  const PrefixCut kv = deepest_cut(layout, plan, CacheCut::kv);
  const double seconds = step_seconds(layout, plan, kv, {.batch_size = 2}, {}, rates);
  const double operations = 2 * (30 + 30 + 20 + 40) / 10.0;
  EXPECT_DOUBLE_EQ(seconds, operations + 1e-3 * 2 * (40 + 40) * 2 + 0.5 * 32);
  const double with_average = step_seconds(layout, plan, kv, {.batch_size = 2}, {.ema = true}, rates);
  EXPECT_DOUBLE_EQ(with_average - seconds, 1e-3 * 4 * 32);
}

TEST(Forecast, ADeeperCutNeverTakesLonger) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = LayerFreezePolicy{}.resolve(layout);
  const MachineRates rates = slow_memory_rates();
  double before = std::numeric_limits<double>::infinity();
  for (const Forecast& one : forecast(layout, plan, possible_cuts(layout, plan), {}, &rates)) {
    EXPECT_LT(*one.step_seconds, before);
    before = *one.step_seconds;
  }
}

TEST(Forecast, TheLastBlocksOfEveryStackOrOfOne) {
  const ModelLayout layout = sized_layout();
  const auto trainable = [&layout](const std::string& stack, std::int64_t blocks) {
    return resolve_last_blocks(LayerFreezePolicy::parse("train:middle.weight"), layout, stack, blocks)
        .names(ParameterClass::trainable);
  };
  using testing::ElementsAre;
  EXPECT_THAT(trainable("*", 0), ElementsAre("middle.weight"));
  EXPECT_THAT(trainable("*", 1), ElementsAre("tower.1.weight", "middle.weight", "head.1.weight"));
  EXPECT_THAT(trainable("*", 7),
              ElementsAre("tower.0.weight", "tower.1.weight", "middle.weight", "head.0.weight", "head.1.weight"));
  EXPECT_THAT(trainable("*", -1), testing::SizeIs(5));
  EXPECT_THAT(trainable("tower", 1), ElementsAre("tower.1.weight", "middle.weight", "head.0.weight", "head.1.weight"));
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(trainable("tower", 3)); }), HasSubstr("at most 2"));
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(trainable("towre", 1)); }), HasSubstr("'tower'"));
}

TEST(Forecast, AStackWithDeadBlocksCountsThoseThatCanLearn) {
  ModelLayout layout = sized_layout();
  layout.line[0].parameters.clear();  // tower.0 has no reader now
  EXPECT_EQ(resolve_last_blocks({}, layout, "*", 2).names(ParameterClass::dead),
            (std::vector<std::string>{"tower.0.weight", "unused.weight"}));
}

TEST(Forecast, MoreBlocksNeverNeedLess) {
  const ModelLayout layout = sized_layout();
  double before = 0;
  for (std::int64_t blocks = 0; blocks <= 2; ++blocks) {
    const FreezePlan plan = resolve_last_blocks(LayerFreezePolicy::parse("train:middle.weight"), layout, "*", blocks);
    const double peak = plan_memory(layout, plan, {}, {.batch_size = 3}, {}).peak;
    EXPECT_GE(peak, before);
    before = peak;
  }
}

TEST(Forecast, TheLargestBatchFitsAndOneMoreDoesNot) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = LayerFreezePolicy{}.resolve(layout);
  const PrefixCut none;
  const auto peak = [&](std::int64_t batch) { return plan_memory(layout, plan, none, {.batch_size = batch}, {}).peak; };
  for (const double limit : {peak(1), peak(1) + 1, peak(13), peak(13) + 100, peak(1000) - 1, peak(1024)}) {
    const std::int64_t batch = largest_batch(layout, plan, none, {}, limit);
    ASSERT_GE(batch, 1);
    EXPECT_LE(peak(batch), limit);
    EXPECT_GT(peak(batch + 1), limit);
  }
  EXPECT_EQ(largest_batch(layout, plan, none, {}, peak(1) - 1), 0);
  EXPECT_EQ(largest_batch(layout, plan, none, {}, 1e30), std::int64_t{1} << 20);
}

TEST(Forecast, UntilItsCacheIsFullARunNeedsWhatAnUncachedOneNeedsAndThatMustFitToo) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = LayerFreezePolicy{}.resolve(layout);
  const PrefixCut kv = deepest_cut(layout, plan, CacheCut::kv);
  const ForecastOptions options{.shape = {.batch_size = 4}, .frames = 10, .cache_memory_bytes = 1e6};
  const Forecast cached = forecast(layout, plan, std::vector<PrefixCut>{kv}, options, nullptr).front();
  const MemoryOptions with_entries{.cache_bytes = cached.memory.cache};
  EXPECT_EQ(cached.memory.cache, 320);
  EXPECT_EQ(cached.peak_until_full, plan_memory(layout, plan, {}, options.shape, with_entries).peak);
  EXPECT_GT(cached.peak_until_full, cached.memory.peak);
  EXPECT_EQ(largest_batch(layout, plan, kv, options, cached.peak_until_full), 4);
  EXPECT_LT(largest_batch(layout, plan, kv, options, cached.memory.peak), 4);
}

TEST(Forecast, TheMostBlocksFitAndOneMoreDoesNot) {
  const ModelLayout layout = sized_layout();
  const LayerFreezePolicy rules = LayerFreezePolicy::parse("train:middle.weight");
  const ForecastOptions options{.shape = {.batch_size = 2}};
  const auto peak = [&](std::int64_t blocks) {
    return plan_memory(layout, resolve_last_blocks(rules, layout, "tower", blocks), {}, options.shape, {}).peak;
  };
  EXPECT_EQ(largest_blocks(rules, layout, "tower", CacheCut::none, options, peak(1)), 1);
  EXPECT_EQ(largest_blocks(rules, layout, "tower", CacheCut::none, options, peak(2) - 1), 1);
  EXPECT_EQ(largest_blocks(rules, layout, "tower", CacheCut::none, options, peak(2)), 2);
  EXPECT_EQ(largest_blocks(rules, layout, "tower", CacheCut::none, options, peak(0) - 1), std::nullopt);
}

TEST(Forecast, TheChosenCutIsTheCheapestWhoseCacheFits) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = LayerFreezePolicy{}.resolve(layout);
  ForecastOptions options{.frames = 100};
  EXPECT_EQ(choose_cut(layout, plan, options, 3200).kind, CacheCut::kv);
  EXPECT_EQ(choose_cut(layout, plan, options, 3199).kind, CacheCut::none);
  options.storage = CacheStorage::bf16;
  EXPECT_EQ(choose_cut(layout, plan, options, 1600).kind, CacheCut::kv);
  options.frames = 0;
  EXPECT_EQ(choose_cut(layout, plan, options, 0).kind, CacheCut::kv) << "an unknown number of frames refuses none";
}

TEST(Forecast, ASmallerCacheIsTakenWhereTheDeepestDoesNotFit) {
  ModelLayout layout = sized_layout();
  layout.keys[3].elements = 1000;  // memory
  const FreezePlan plan = LayerFreezePolicy{}.resolve(layout);
  const ForecastOptions options{.frames = 100};
  EXPECT_EQ(choose_cut(layout, plan, options, 100 * 64).kind, CacheCut::vision);
  const MachineRates rates = slow_memory_rates();
  EXPECT_EQ(choose_cut(layout, plan, options, 100 * 4000, &rates).kind, CacheCut::kv);
}

TEST(Forecast, WhereEverythingTrainsNothingIsCached) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = LayerFreezePolicy::parse("tower=all").resolve(layout);
  EXPECT_EQ(choose_cut(layout, plan, {.frames = 1}, 1e12).kind, CacheCut::none);
}

std::vector<Forecast> table_forecasts() {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = LayerFreezePolicy{}.resolve(layout);
  const MachineRates rates = slow_memory_rates();
  return forecast(layout, plan, deepest_cuts(layout, plan), {.shape = {.batch_size = 2}, .frames = 10}, &rates);
}

TEST(ForecastTable, ShowsCutsMemoryCacheOperationsAndTime) {
  const std::string text = forecast_table(table_forecasts());
  EXPECT_THAT(text, HasSubstr("cut"));
  EXPECT_THAT(text, HasSubstr("vision"));
  EXPECT_THAT(text, HasSubstr("640 B"));
  EXPECT_THAT(text, Not(HasSubstr("batch"))) << "nobody asked what fits";
}

TEST(ForecastTable, StaysWithinAHundredColumns) {
  std::vector<Forecast> forecasts = table_forecasts();
  for (Forecast& one : forecasts) {
    one.blocks = "all";
    one.fits = 1048576;
    one.trainable_elements = 3'235'000'000;
    one.memory.peak = one.cache_bytes_per_frame = one.cache_bytes = 1023.9 * 0x1p30;
    one.step_seconds = 123456.7;
  }
  std::istringstream lines(forecast_table(forecasts) + forecast_details(forecasts.back()));
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100) << line;
}

TEST(ForecastDetails, GroupsLikeStagesAndNamesThePeak) {
  const std::vector<Forecast> forecasts = table_forecasts();
  const std::string text = forecast_details(forecasts[0]);
  EXPECT_THAT(text, HasSubstr("tower"));
  EXPECT_THAT(text, Not(HasSubstr("tower.0")));
  EXPECT_THAT(text, HasSubstr("peak above the program's own"));
  EXPECT_THAT(forecast_details(forecasts[1]), HasSubstr("from the cache"));
}

TEST(Forecast, JsonSaysNullWhatIsUnknown) {
  Forecast one = table_forecasts()[1];
  Json json = one.to_json();
  EXPECT_EQ(json["cut"]["kind"], "vision");
  EXPECT_EQ(json["cut"]["keys"], Json::array({"hidden"}));
  EXPECT_EQ(json["cache_bytes"], 640);
  EXPECT_TRUE(json["step_seconds"].is_number());
  EXPECT_TRUE(json["largest_batch"].is_null());
  one.step_seconds.reset();
  one.fits = 3;
  json = one.to_json();
  EXPECT_TRUE(json["step_seconds"].is_null());
  EXPECT_EQ(json["largest_batch"], 3);
}

}  // namespace
}  // namespace thaw::forecast_test
