#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "onednn_impl.h"
#include "thaw/nn/packed_weights.h"

namespace thaw::nn::onednn {
namespace {

using Scalars = c10::List<std::optional<at::Scalar>>;
using Text = std::optional<std::string_view>;
using Linear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                          Scalars, Text);
using LinearAdd = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                             std::string_view);

// LibTorch has no C++ function for these operators (they serve torch.compile), only their registration.
template <class Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* overload) {
  return c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", overload).typed<Signature>();
}

std::optional<at::Tensor> optional_tensor(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

bool is_plain_float(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat && tensor.is_cpu() && tensor.layout() == at::kStrided && tensor.numel() > 0;
}

using Reorder = at::Tensor(const at::Tensor&, std::optional<std::int64_t>);

/// Weight -> the same in the product's layout, while a PackedWeights lives on this thread.
using Packed = std::unordered_map<const void*, at::Tensor>;
thread_local std::unique_ptr<Packed> packed_weights;

/// Rows that a weight is packed for. For few rows the library leaves a large weight as it is and multiplies with its
/// slower kernel (120 instead of 183 GFLOP/s for 50 x 720 x 2048); what it packs for more rows is as good for few.
std::int64_t rows_to_pack_for(const at::Tensor& weight, std::int64_t rows) {
  constexpr std::int64_t kLarge = std::int64_t{1} << 20;  // elements
  constexpr std::int64_t kManyRows = 128;
  return weight.numel() > kLarge ? std::max(rows, kManyRows) : rows;
}

/// `weight`, or its packed form. Transposed views (of backward passes) stay as they are.
at::Tensor for_product(const at::Tensor& weight, std::int64_t rows) {
  static const auto reorder =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_reorder_linear_weight", "").typed<Reorder>();
  if (packed_weights == nullptr || !weight.is_contiguous()) return weight;
  at::Tensor& packed = (*packed_weights)[weight.const_data_ptr()];
  if (!packed.defined()) packed = reorder.call(weight.detach(), rows_to_pack_for(weight, rows));
  return packed;
}

/// (rows, out) -> (..., out) as `x` has it. No view for autograd: what follows may write into it.
at::Tensor with_rows_of(const at::Tensor& x, const at::Tensor& product) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = product.size(-1);
  return at::_unsafe_view(product, shape);
}

}  // namespace

bool takes(const at::Tensor& x, const at::Tensor& weight) {
  return is_plain_float(x) && is_plain_float(weight) && at::globalContext().userEnabledMkldnn() &&
         at::globalContext().hasMKLDNN();
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Activation activation) {
  static const auto multiply = find_operator<Linear>("");
  const at::NoGradGuard no_grad;
  std::string_view name = "none";
  Text algorithm = std::nullopt;
  if (activation == Activation::silu) name = "swish";
  if (activation == Activation::gelu_tanh) {
    name = "gelu";
    algorithm = "tanh";
  }
  const at::Tensor rows = x.reshape({-1, x.size(-1)});
  return with_rows_of(
      x, multiply.call(rows, for_product(weight, rows.size(0)), optional_tensor(bias), name, Scalars(), algorithm));
}

at::Tensor linear_add(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      const at::Tensor& residual) {
  static const auto multiply = find_operator<LinearAdd>("binary");
  const at::NoGradGuard no_grad;
  const at::Tensor rows = x.reshape({-1, x.size(-1)});
  const at::Tensor added = residual.reshape({-1, residual.size(-1)});
  return with_rows_of(x, multiply.call(rows, added, for_product(weight, rows.size(0)), optional_tensor(bias), "add"));
}

}  // namespace thaw::nn::onednn

namespace thaw::nn {

PackedWeights::PackedWeights() : outermost_(onednn::packed_weights == nullptr) {
  if (outermost_) onednn::packed_weights = std::make_unique<onednn::Packed>();
}

PackedWeights::~PackedWeights() {
  if (outermost_) onednn::packed_weights.reset();
}

}  // namespace thaw::nn
