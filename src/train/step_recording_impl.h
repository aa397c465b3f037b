// Training steps recorded on the device and played back, one recording for each combination of input shapes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "thaw/tensor/device_graph.h"
#include "thaw/train/observer.h"
#include "thaw/train/task.h"

namespace thaw {

class StepRecording {
 public:
  using MakeGraph = std::function<std::unique_ptr<DeviceGraph>()>;
  /// One step, forward pass to optimizer, from its inputs: a function of them and of tensors that stay where they are.
  using Step = std::function<StepReport(StepInputs)>;

  explicit StepRecording(MakeGraph make_graph) : make_graph_(std::move(make_graph)) {}

  /// Runs `step`: as it is while libraries still set themselves up (the first steps of a shape), then by playing back
  /// what was recorded, from copies of the inputs. Rare shapes beyond a limit are never recorded: each recording holds
  /// memory of its own. The values of the report are the caller's: a later step does not change them.
  [[nodiscard]] StepReport run(StepInputs inputs, const Step& step);

  [[nodiscard]] std::size_t recordings() const;

 private:
  using Shapes = std::map<std::string, std::vector<std::int64_t>>;
  struct Recording {
    std::int64_t plain_steps = 0;
    StepInputs inputs;  ///< what the graph reads
    StepReport report;  ///< what it writes
    std::unique_ptr<DeviceGraph> graph;
  };
  [[nodiscard]] Recording& recording_for(const StepInputs& inputs);
  static void copy_inputs(const StepInputs& from, Recording& to);

  MakeGraph make_graph_;
  std::map<Shapes, Recording> recordings_;
};

}  // namespace thaw
