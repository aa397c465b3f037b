#include "processor_steps_impl.h"

namespace thaw {
namespace detail {
namespace {

/// The rank that a tensor has without a batch dimension, or -1 where none is added.
std::int64_t unbatched_rank(const std::string& key) {
  if (key == kStateKey || key == "observation.environment_state" || key == kActionKey) return 1;
  if (key == "observation.image" || key.starts_with("observation.images.")) return 3;
  if (key == "index" || key == "task_index") return 0;
  return -1;
}

}  // namespace

ToBatchStep::ToBatchStep(const StepSource& source) : ConfiguredStep(source.config) {
  check_config_keys(config_, {}, source.where);
}

void ToBatchStep::apply(Batch& batch) const {
  for (auto& [key, tensor] : batch.tensors) {
    if (tensor.dim() == unbatched_rank(key)) tensor = tensor.unsqueeze(0);
  }
}

}  // namespace detail

std::shared_ptr<ProcessorStep> make_to_batch_step() { return std::make_shared<detail::ToBatchStep>(); }

}  // namespace thaw
