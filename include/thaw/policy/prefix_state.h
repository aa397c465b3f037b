/// The named tensors that flow along a policy's line of stages: embeddings, hidden states, keys and values, masks.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

namespace thaw {

class PrefixState {
 public:
  /// @throws MismatchError naming the key and the nearest ones: a stage read what no stage before it wrote
  [[nodiscard]] const at::Tensor& at(const std::string& key) const;
  [[nodiscard]] bool has(const std::string& key) const { return tensors_.contains(key); }
  void set(const std::string& key, at::Tensor tensor) { tensors_[key] = std::move(tensor); }
  void erase(const std::string& key) { tensors_.erase(key); }
  [[nodiscard]] const std::map<std::string, at::Tensor>& tensors() const noexcept { return tensors_; }

 private:
  std::map<std::string, at::Tensor> tensors_;
};

}  // namespace thaw
