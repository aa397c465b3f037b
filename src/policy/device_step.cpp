#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "processor_steps_impl.h"
#include "thaw/core/error.h"
#include "thaw/tensor/device.h"

namespace thaw {
namespace detail {
namespace {

struct NamedDtype {
  std::string_view name;
  at::ScalarType dtype;
};

constexpr std::array<NamedDtype, 7> kFloatDtypes{{{"float16", at::kHalf},
                                                  {"float32", at::kFloat},
                                                  {"float64", at::kDouble},
                                                  {"bfloat16", at::kBFloat16},
                                                  {"half", at::kHalf},
                                                  {"float", at::kFloat},
                                                  {"double", at::kDouble}}};

struct NamedDevice {
  std::string_view name;
  at::DeviceType type;
};

/// Devices that LeRobot trains on. A checkpoint may come from a machine with another one than this.
constexpr std::array<NamedDevice, 4> kDevices{
    {{"cpu", at::kCPU}, {"cuda", at::kCUDA}, {"mps", at::kMPS}, {"xpu", at::kXPU}}};

at::Device parse_saved_device(const std::string& text, const std::string& where) {
  const std::string kind = text.substr(0, text.find(':'));
  const auto known =
      std::find_if(kDevices.begin(), kDevices.end(), [&](const NamedDevice& device) { return device.name == kind; });
  int index = -1;
  bool good = known != kDevices.end();
  if (good && kind.size() != text.size()) {
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + kind.size() + 1, end, index);
    good = error == std::errc{} && rest == end && index >= 0 && index < 128;
  }
  if (!good) {
    throw FormatError(Problem{.where = where + ", field 'device'",
                              .expected = "cpu, cuda, mps or xpu, with or without an index",
                              .found = "'" + text + "'"});
  }
  return {known->type, static_cast<at::DeviceIndex>(index)};
}

std::optional<at::ScalarType> parse_float_dtype(const Json& config, const std::string& where) {
  const std::string name = json_field_or<std::string>(config, "float_dtype", "", where);
  if (name.empty()) return std::nullopt;
  for (const NamedDtype& known : kFloatDtypes) {
    if (known.name == name) return known.dtype;
  }
  throw FormatError(Problem{.where = where + ", field 'float_dtype'",
                            .expected = "float16, float32, float64, bfloat16, half, float, double or null",
                            .found = "'" + name + "'"});
}

/// What LeRobot writes: the kind of device without its index.
std::string device_kind(at::Device device) { return c10::DeviceTypeName(device.type(), /*lower_case=*/true); }

bool can_reach(at::Device device) { return device.is_cpu() || (device.is_cuda() && cuda_available()); }

}  // namespace

DeviceStep::DeviceStep(at::Device device)
    : ConfiguredStep(Json{{"device", device_kind(device)}, {"float_dtype", nullptr}}), device_(device) {}

DeviceStep::DeviceStep(const StepSource& source)
    : ConfiguredStep(source.config),
      device_(parse_saved_device(json_field_or<std::string>(config_, "device", "cpu", source.where), source.where)),
      float_dtype_(parse_float_dtype(config_, source.where)) {
  check_config_keys(config_, {"device", "float_dtype"}, source.where);
}

void DeviceStep::set_device(at::Device device) {
  device_ = device;
  config_["device"] = device_kind(device);
}

void DeviceStep::apply(Batch& batch) const {
  const bool move = can_reach(device_);
  for (auto& [key, tensor] : batch.tensors) {
    // A tensor that is on one CUDA device already stays on it: its rank put it there.
    const bool in_place = tensor.is_cuda() && device_.is_cuda();
    if (move && !in_place) tensor = tensor.to(device_, /*non_blocking=*/device_.is_cuda());
    if (float_dtype_ && tensor.is_floating_point()) tensor = tensor.to(*float_dtype_);
  }
}

}  // namespace detail

std::shared_ptr<ProcessorStep> make_device_step(at::Device device) {
  return std::make_shared<detail::DeviceStep>(device);
}

}  // namespace thaw
