// The module that names CUDA types: loaded at run time where a CUDA device answers (tensor/device_graph.cpp).
#include "thaw/tensor/device_graph.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "thaw/core/error.h"

namespace thaw {
namespace {

class CudaGraph final : public DeviceGraph {
 public:
  explicit CudaGraph(c10::DeviceIndex device) : device_(device) {}

  void record(const std::function<void()>& work) override {
    if (recorded_) throw UsageError("DeviceGraph::record: this graph holds a recording already");
    const c10::cuda::CUDAGuard on_device(device_);
    // Capturing on the default stream is not allowed, and what is still running must not be part of it.
    const c10::cuda::CUDAStream current = c10::cuda::getCurrentCUDAStream(device_);
    current.synchronize();
    const c10::cuda::CUDAStreamGuard own_stream(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device_));
    graph_.capture_begin();
    try {
      work();
    } catch (...) {
      end_quietly();
      throw;
    }
    graph_.capture_end();
    recorded_ = true;
  }

  void replay() override {
    if (!recorded_) throw UsageError("DeviceGraph::replay: nothing was recorded");
    const c10::cuda::CUDAGuard on_device(device_);
    graph_.replay();
  }

 private:
  /// What went wrong in the work matters, not that its recording is incomplete.
  void end_quietly() noexcept {
    try {
      graph_.capture_end();
    } catch (const std::exception&) {
      static_cast<void>(cudaGetLastError());
    }
  }

  c10::DeviceIndex device_;
  at::cuda::CUDAGraph graph_;
  bool recorded_ = false;
};

}  // namespace
}  // namespace thaw

extern "C" __attribute__((visibility("default"))) thaw::DeviceGraph* thaw_make_cuda_graph(int device) {
  return new thaw::CudaGraph(static_cast<c10::DeviceIndex>(device));  // the caller owns it
}
