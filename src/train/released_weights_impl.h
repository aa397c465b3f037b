// Weights that only a cached prefix needs leave memory, and come back from the checkpoint when they are needed after
// all.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "thaw/policy/policy.h"

namespace thaw {

class ReleasedWeights {
 public:
  /// `return_at_end`: the destructor brings back what is out.
  ReleasedWeights(std::shared_ptr<Policy> policy, bool return_at_end)
      : policy_(std::move(policy)), return_at_end_(return_at_end) {}
  ~ReleasedWeights();
  ReleasedWeights(const ReleasedWeights&) = delete;
  ReleasedWeights& operator=(const ReleasedWeights&) = delete;

  /// Gives up the memory of the named parameters. A policy that was not loaded from a folder keeps them.
  void release(const std::vector<std::string>& names);
  /// Brings back those of `names` that are out. @throws MismatchError when the checkpoint holds other values by now;
  /// IoError
  void restore(const std::vector<std::string>& names);

 private:
  void restore_group(const std::vector<std::string>& names);

  struct Out {
    at::ScalarType dtype{};
    std::string digest;
  };
  std::shared_ptr<Policy> policy_;
  bool return_at_end_;
  std::map<std::string, Out> out_;
};

/// Whether a parameter's memory was given up: it keeps its shape, and all of it is one NaN, so that using it shows.
[[nodiscard]] bool is_released(const at::Tensor& parameter);

/// Names of the parameters that no stage from `cut` on uses: what a filled cache makes idle, and what is idle anyway.
[[nodiscard]] std::vector<std::string> idle_parameters(const ModelLayout& layout, std::size_t cut);

}  // namespace thaw
