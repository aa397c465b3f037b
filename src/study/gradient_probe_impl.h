/// Gradients of the weights of blocks: relative norm of a batch's, and the empirical Fisher information of samples'.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "thaw/policy/layout.h"
#include "thaw/study/measures.h"

namespace torch::nn {
class Module;
}

namespace thaw {

/// Of all elements, added up in double. Float32 or wider is squared as it is, narrower types as float32.
[[nodiscard]] double square_sum(const at::Tensor& tensor);

/// One parameter of a block.
struct BlockParameter {
  std::string stack;
  std::int64_t block = 0;
  at::Tensor tensor;
};

/// Those of the blocks of `stacks`, in the layout's order.
[[nodiscard]] std::vector<BlockParameter> block_parameters(const torch::nn::Module& module, const ModelLayout& layout,
                                                           const std::vector<BlockStack>& stacks);

class GradientProbe {
 public:
  GradientProbe(std::vector<BlockParameter> parameters, std::int64_t batch_size)
      : parameters_(std::move(parameters)), batch_size_(batch_size), batch_(parameters_.size()) {}

  [[nodiscard]] const std::vector<BlockParameter>& parameters() const noexcept { return parameters_; }
  /// The gradients of one sample's loss, as parameters(); undefined where the loss does not depend on one.
  void add(const std::vector<at::Tensor>& gradients);
  /// Sets relative_gradient and fisher of a stack. The last batch may be smaller.
  void finish(StackMeasures& measures);

 private:
  using PerBlock = std::map<std::pair<std::string, std::int64_t>, double>;
  void end_batch();

  std::vector<BlockParameter> parameters_;
  std::int64_t batch_size_;
  std::vector<at::Tensor> batch_;  ///< sum of the gradients of the samples of the batch so far
  std::int64_t in_batch_ = 0;
  std::int64_t batches_ = 0;
  std::int64_t samples_ = 0;
  PerBlock fisher_;
  PerBlock relative_;
};

}  // namespace thaw
