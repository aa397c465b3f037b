// One point of a sweep through the ordinary trainer.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "thaw/freeze/plan.h"
#include "thaw/study/sweep_results.h"
#include "thaw/study/sweep_subject.h"
#include "thaw/train/options.h"
#include "thaw/train/task.h"
#include "thaw/train/trainer.h"

namespace thaw {

/// `options` with the point's values in their place: what a training of its own would be given.
[[nodiscard]] TrainOptions options_of_point(TrainOptions options, const SweepPoint& point);

/// Makes the task once the module obeys the plan.
using MakeSweepTask = std::function<std::unique_ptr<TrainTask>(const Trainer&)>;

/// Fills held_out, training_loss, skipped_steps, head_bytes, error and times of `result`. False: a signal stopped it.
bool train_point(Trainer& trainer, const MakeSweepTask& make_task, const std::filesystem::path& head_folder,
                 const SweepWatcher& watcher, SweepResult& result);

}  // namespace thaw
