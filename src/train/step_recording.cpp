#include <ATen/ATen.h>

#include <algorithm>

#include "step_recording_impl.h"

namespace thaw {
namespace {

constexpr std::int64_t kPlainSteps = 3;  // as torch.cuda.make_graphed_callables warms up
constexpr std::size_t kMostShapes = 8;

/// The values of a report outside the graph's memory.
StepReport copy_of(const StepReport& report) {
  StepReport copy = report;
  copy.loss_value = report.loss_value.clone();
  copy.grad_norm_value = report.grad_norm_value.clone();
  copy.skipped_value = report.skipped_value.clone();
  return copy;
}

}  // namespace

std::size_t StepRecording::recordings() const {
  return static_cast<std::size_t>(std::count_if(recordings_.begin(), recordings_.end(),
                                                [](const auto& item) { return item.second.graph != nullptr; }));
}

StepReport StepRecording::run(StepInputs inputs, const Step& step) {
  Recording& recording = recording_for(inputs);
  if (recording.graph == nullptr && (recording.plain_steps < kPlainSteps || recordings() >= kMostShapes)) {
    ++recording.plain_steps;
    return step(std::move(inputs));
  }
  const at::NoGradGuard no_grad;
  copy_inputs(inputs, recording);
  if (recording.graph == nullptr) {
    recording.graph = make_graph_();
    recording.graph->record([&recording, step] {
      const at::AutoGradMode with_grad(true);
      recording.report = step(recording.inputs);
    });
  }
  recording.graph->replay();
  return copy_of(recording.report);
}

StepRecording::Recording& StepRecording::recording_for(const StepInputs& inputs) {
  Shapes shapes;
  for (const auto& [name, tensor] : inputs) shapes.emplace(name, tensor.sizes().vec());
  return recordings_[shapes];
}

void StepRecording::copy_inputs(const StepInputs& from, Recording& to) {
  for (const auto& [name, tensor] : from) {
    at::Tensor& own = to.inputs[name];
    if (own.defined()) {
      own.copy_(tensor, /*non_blocking=*/true);
    } else {
      own = tensor.detach().clone();
    }
  }
}

}  // namespace thaw
