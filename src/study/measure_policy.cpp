// The passes that a policy makes by itself: its line of stages, each block's stream told to the tap.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <set>

#include "thaw/core/error.h"
#include "thaw/study/measure.h"
#include "thaw/train/policy_task.h"

namespace thaw {
namespace {

bool writes(const StageInfo& stage, const std::string& key) {
  return std::find(stage.writes.begin(), stage.writes.end(), key) != stage.writes.end();
}

at::Tensor tapped_loss(const Policy& policy, const Batch& batch, std::uint64_t seed, StreamTap& tap) {
  const Draw draw = policy.draw(batch, seed, DrawPurpose::evaluation, /*step=*/0);
  PrefixState state = policy.begin(batch);
  policy.add_draw(state, batch, draw);
  std::set<std::string> begun;  // streams
  for (const Stage& stage : policy.line()) {
    const BlockStage& block = stage.info.block;
    const std::string& key = block.stream;
    if (!block.stack.empty() && begun.insert(key).second) {
      state.set(key, tap.before(block.stack, state.at(key), policy.token_groups(key, state, batch), key));
    }
    stage.run(state);
    if (!block.stack.empty() && writes(stage.info, key)) {
      state.set(key, tap.after(block.stack, block.block, state.at(key), key));
    }
  }
  return policy.loss(state, batch, draw, Reduction::mean);
}

void require_streams(const ModelLayout& layout, const std::vector<std::string>& stacks) {
  for (const std::string& name : stacks) {
    const bool tapped = std::any_of(layout.line.begin(), layout.line.end(),
                                    [&name](const StageInfo& stage) { return stage.block.stack == name; });
    if (tapped) continue;
    static_cast<void>(layout.stack(name));  // says so when there is no such stack
    throw UsageError(Problem{.where = "stack '" + name + "'",
                             .expected = "stages that say which stream its blocks add to",
                             .found = "none",
                             .fix = "The policy type has to mark them (StageInfo::block)."});
  }
}

}  // namespace

MeasureReport measure_policy(const Policy& policy, std::span<const Batch> samples, const MeasureOptions& options) {
  require_streams(policy.layout(), options.stacks);
  const auto pass = [&](std::int64_t sample, StreamTap& tap) {
    return tapped_loss(policy, samples[static_cast<std::size_t>(sample)], options.seed, tap);
  };
  return measure_module(*policy.module(), policy.layout(), static_cast<std::int64_t>(samples.size()), pass, options);
}

MeasureReport measure_policy(Policy& policy, const LeRobotDataset& dataset, const MeasureOptions& options) {
  options.validate();
  require_streams(policy.layout(), options.stacks);
  const TrainOptions as_trained{.rename_map = options.rename_map,
                                .allow_missing_cameras = options.allow_missing_cameras};
  if (!options.rename_map.empty()) policy.preprocessor().set_rename_map(options.rename_map);
  const LeRobotDataset read = dataset.with({.episodes = dataset.selected_episodes(),
                                            .deltas = policy_deltas(policy, dataset),
                                            .cameras = policy_cameras(policy, dataset, options.allow_missing_cameras)});
  static_cast<void>(fit_processors(policy, read, as_trained));

  const std::vector<std::int64_t> positions = calibration_positions(read.size(), options.samples, options.seed);
  const auto pass = [&](std::int64_t number, StreamTap& tap) {
    const Sample sample = read.sample(positions[static_cast<std::size_t>(number)]);
    const Batch batch = policy.preprocessor()(collate(std::span(&sample, 1)));
    return tapped_loss(policy, batch, options.seed, tap);
  };
  MeasureReport report =
      measure_module(*policy.module(), policy.layout(), static_cast<std::int64_t>(positions.size()), pass, options);
  for (const std::int64_t position : positions) report.frames.push_back(read.frame_at(position));
  return report;
}

}  // namespace thaw
