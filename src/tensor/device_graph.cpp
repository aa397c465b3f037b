#include "thaw/tensor/device_graph.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>

#include "thaw/core/error.h"
#include "thaw/tensor/device.h"

namespace thaw {
namespace {

/// What thaw's CUDA module exports (src/cuda/device_graph.cpp): a new graph that the caller owns.
using MakeGraph = DeviceGraph* (*)(int device);

struct Module {
  MakeGraph make_graph = nullptr;
  std::string obstacle;
};

/// The module lies beside the library or the program that holds this function.
std::filesystem::path module_file() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&device_graph_obstacle), &info) == 0 || info.dli_fname == nullptr) return {};
  return std::filesystem::path(info.dli_fname).parent_path() / "libthaw_cuda.so";
}

Module load_module() {
  if (!cuda_available()) return {.obstacle = "no CUDA device answers"};
  const std::filesystem::path file = module_file();
  if (std::error_code error; !std::filesystem::exists(file, error)) {
    return {.obstacle = fmt::format("thaw was built without its CUDA module ({} is not there)", file.string())};
  }
  const auto failure = [] {
    const char* message = dlerror();
    return Module{.obstacle = fmt::format("thaw's CUDA module does not load: {}", message != nullptr ? message : "")};
  };
  void* module = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) return failure();
  void* symbol = dlsym(module, "thaw_make_cuda_graph");
  if (symbol == nullptr) return failure();
  return {.make_graph = reinterpret_cast<MakeGraph>(symbol)};
}

const Module& cuda_module() {
  static const Module module = load_module();
  return module;
}

}  // namespace

std::string device_graph_obstacle(at::Device device) {
  if (!device.is_cuda()) return fmt::format("'{}' is no CUDA device", device.str());
  return cuda_module().obstacle;
}

std::unique_ptr<DeviceGraph> make_device_graph(at::Device device) {
  if (const std::string obstacle = device_graph_obstacle(device); !obstacle.empty()) {
    throw UsageError(Problem{.where = "CUDA graphs",
                             .expected = "a CUDA device and a thaw built with -DTHAW_CUDA=ON",
                             .found = obstacle,
                             .fix = "Leave --cuda-graph at auto, or say off."});
  }
  return std::unique_ptr<DeviceGraph>(cuda_module().make_graph(device.index()));
}

}  // namespace thaw
