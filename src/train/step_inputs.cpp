#include <ATen/core/Tensor.h>

#include <string_view>

#include "step_inputs_impl.h"

namespace thaw {
namespace {

constexpr std::string_view kState = "state/";
constexpr std::string_view kBatch = "batch/";
constexpr const char* kNoise = "draw/noise";
constexpr const char* kTime = "draw/time";
constexpr std::string_view kAction = "action";  // "action" and "action_is_pad"

/// `use`(name without `kind`, tensor) for every input of that kind.
template <class Use>
void for_each(const StepInputs& inputs, std::string_view kind, Use use) {
  for (const auto& [name, tensor] : inputs) {
    if (name.starts_with(kind)) use(name.substr(kind.size()), tensor);
  }
}

}  // namespace

StepInputs inputs_of(const PrefixState& state, const Batch& batch, const Draw& draw) {
  StepInputs inputs{{kNoise, draw.noise}, {kTime, draw.time}};
  for (const auto& [key, tensor] : state.tensors()) inputs.emplace(std::string(kState) + key, tensor);
  for (const auto& [key, tensor] : batch.tensors) {
    if (key.starts_with(kAction)) inputs.emplace(std::string(kBatch) + key, tensor);
  }
  return inputs;
}

PrefixState state_in(const StepInputs& inputs) {
  PrefixState state;
  for_each(inputs, kState, [&state](const std::string& key, const at::Tensor& tensor) { state.set(key, tensor); });
  return state;
}

Draw draw_in(const StepInputs& inputs) { return {.noise = inputs.at(kNoise), .time = inputs.at(kTime)}; }

Batch batch_in(const StepInputs& inputs, std::vector<std::int64_t> indices) {
  Batch batch{.indices = std::move(indices)};
  for_each(inputs, kBatch, [&batch](const std::string& key, const at::Tensor& tensor) { batch.tensors[key] = tensor; });
  return batch;
}

}  // namespace thaw
