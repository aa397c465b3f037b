#include "thaw/policy/prefix_state.h"

#include "missing_key_impl.h"

namespace thaw {

const at::Tensor& PrefixState::at(const std::string& key) const {
  const auto found = tensors_.find(key);
  if (found == tensors_.end()) detail::throw_missing_key("stage", key, "a key that a stage before it wrote", tensors_);
  return found->second;
}

}  // namespace thaw
