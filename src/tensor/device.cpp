#include "thaw/tensor/device.h"

#include <ATen/Context.h>
#include <ATen/cpu/Utils.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <optional>
#include <string>

#include "thaw/core/error.h"

namespace thaw {
namespace {

/// How asking for CUDA ended, found out once.
struct Cuda {
  int devices = 0;
  std::string obstacle;  // why there is none
};

// The library that a symbol of LibTorch was loaded from lies in its lib folder.
std::filesystem::path torch_library_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&at::globalContext), &info) == 0 || info.dli_fname == nullptr) return {};
  return std::filesystem::path(info.dli_fname).parent_path();
}

Cuda find_cuda() {
  const std::filesystem::path library = torch_library_folder() / "libtorch_cuda.so";
  if (std::error_code error; !std::filesystem::exists(library, error)) {
    return {.obstacle = "this LibTorch was built without CUDA"};
  }
  // Its initialisers register the CUDA backend; it stays loaded for the life of the process.
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    const char* message = dlerror();
    return {.obstacle = fmt::format("LibTorch's CUDA library does not load: {}", message != nullptr ? message : "")};
  }
  const auto& hooks = at::detail::getCUDAHooks();
  if (!hooks.hasCUDA()) return {.obstacle = "no CUDA driver or device answers"};
  const int devices = hooks.deviceCount();
  return {.devices = devices, .obstacle = devices > 0 ? "" : "no CUDA device answers"};
}

const Cuda& cuda() {
  static const Cuda found = find_cuda();
  return found;
}

[[noreturn]] void fail(std::string_view text, std::string found, std::string fix) {
  throw UsageError(Problem{.where = fmt::format("device '{}'", text),
                           .expected = "auto, cpu, cuda or cuda:N",
                           .found = std::move(found),
                           .fix = std::move(fix)});
}

at::Device cuda_device(std::string_view text, int index) {
  const Cuda& found = cuda();
  if (found.devices == 0)
    fail(text, "no CUDA (" + found.obstacle + ")", "Use --device cpu, or install a CUDA LibTorch.");
  if (index >= found.devices) {
    fail(text, fmt::format("{} CUDA device{}", found.devices, found.devices == 1 ? "" : "s"), "Count from cuda:0.");
  }
  return {at::kCUDA, static_cast<at::DeviceIndex>(index)};
}

std::optional<int> parse_index(std::string_view digits) {
  constexpr int kMost = 127;  // at::DeviceIndex is a signed byte
  int index = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, index);
  const bool whole = error == std::errc{} && stop == end;
  if (!whole || digits.front() == '-' || index > kMost) return std::nullopt;
  return index;
}

bool cpu_has(const char* capability) {
  const auto capabilities = at::cpu::get_cpu_capabilities();
  const auto found = capabilities.find(capability);
  return found != capabilities.end() && found->second.isBool() && found->second.toBool();
}

}  // namespace

at::Device parse_device(std::string_view text) {
  if (text == "cpu") return at::kCPU;
  if (text == "auto") return cuda_available() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  if (text == "cuda") return cuda_device(text, 0);
  constexpr std::string_view kPrefix = "cuda:";
  if (text.starts_with(kPrefix)) {
    if (const auto index = parse_index(text.substr(kPrefix.size()))) return cuda_device(text, *index);
  }
  fail(text, "another word", "");
}

bool cuda_available() { return cuda().devices > 0; }

bool has_native_bf16(at::Device device) {
  if (device.is_cuda()) return true;
  static const bool native = cpu_has("avx512_bf16") || cpu_has("amx_bf16");
  return device.is_cpu() && native;
}

}  // namespace thaw
