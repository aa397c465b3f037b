/// Work on a device that is recorded once and played back: one launch instead of hundreds.
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <memory>
#include <string>

namespace thaw {

class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;

  /// Records what `work` launches on the device, on a stream of the graph's own, and runs none of it. Tensors that the
  /// work makes live in memory of the graph, at the same addresses in every playback; what it reads from outside is
  /// read anew each time, at the address it had. `work` must not wait for the device nor copy from pageable memory.
  /// @throws c10::Error where the device refuses; UsageError when something was recorded before
  virtual void record(const std::function<void()>& work) = 0;

  /// Launches what was recorded, behind everything that the current stream has to do.
  virtual void replay() = 0;
};

/// Why no graph can be made for `device`: it is no CUDA device, or thaw's CUDA module is not there or does not load.
/// Empty where make_device_graph() works.
[[nodiscard]] std::string device_graph_obstacle(at::Device device);

/// @throws UsageError with device_graph_obstacle()
[[nodiscard]] std::unique_ptr<DeviceGraph> make_device_graph(at::Device device);

}  // namespace thaw
