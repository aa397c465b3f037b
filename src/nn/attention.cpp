#include "thaw/nn/attention.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <cmath>
#include <limits>

#include "thaw/tensor/dtype.h"

namespace thaw::nn {
namespace {

double lowest_finite(at::ScalarType dtype) {
  return dtype == at::kDouble ? std::numeric_limits<double>::lowest() : std::numeric_limits<float>::lowest();
}

/// `sign` +1 rotates by the angles of the table, -1 back.
at::Tensor rotate(const at::Tensor& x, const at::Tensor& table, double sign) {
  const std::int64_t half = x.size(-1) / 2;
  const at::ScalarType wide = at_least_float(x.scalar_type());
  const at::Tensor source = x.to(wide);
  const at::Tensor angles = table.to(wide).unsqueeze(1);
  const at::Tensor cosine = angles.narrow(-1, 0, half);
  const at::Tensor sine = angles.narrow(-1, half, half);
  const at::Tensor first = source.narrow(-1, 0, half);
  const at::Tensor second = source.narrow(-1, half, half);
  at::Tensor out = at::empty(x.sizes(), source.options());
  at::Tensor out_first = out.narrow(-1, 0, half);
  at::Tensor out_second = out.narrow(-1, half, half);
  at::mul_out(out_first, first, cosine).addcmul_(second, sine, -sign);
  at::mul_out(out_second, second, cosine).addcmul_(first, sine, sign);
  return out.to(x.scalar_type());
}

/// One node of the graph that saves only the table: the gradient of a rotation is the rotation back.
class Rotary : public torch::autograd::Function<Rotary> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& table) {
    context->save_for_backward({table});
    return rotate(x, table, 1.0);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const at::Tensor table = context->get_saved_variables().at(0);
    return {rotate(gradients.at(0), table, -1.0), at::Tensor()};
  }
};

}  // namespace

at::Tensor split_heads(const at::Tensor& x, std::int64_t head_dim) {
  return x.view({x.size(0), x.size(1), -1, head_dim}).transpose(1, 2);
}

at::Tensor merge_heads(const at::Tensor& x) {
  return x.transpose(1, 2).reshape({x.size(0), x.size(2), x.size(1) * x.size(3)});
}

at::Tensor rotary_table(const at::Tensor& positions, std::int64_t head_dim, double base) {
  const std::int64_t half = head_dim / 2;
  const auto options = positions.options().dtype(at::kFloat);
  const at::Tensor exponents = at::arange(half, options) * (2.0 / static_cast<double>(head_dim));
  const at::Tensor angles = positions.unsqueeze(-1).to(at::kFloat) / at::pow(base, exponents);
  return at::cat({angles.cos(), angles.sin()}, -1);
}

at::Tensor apply_rotary(const at::Tensor& x, const at::Tensor& table) { return Rotary::apply(x, table); }

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& mask) {
  const std::int64_t batch = query.size(0);
  const std::int64_t heads = query.size(1);
  const std::int64_t length = query.size(2);
  const std::int64_t width = query.size(3);
  const std::int64_t kv_heads = key.size(1);
  const std::int64_t keys = key.size(2);
  const std::int64_t group = heads / kv_heads;
  const at::ScalarType wide = at_least_float(query.scalar_type());

  const at::Tensor stacked = query.to(wide).reshape({batch, kv_heads, group * length, width});
  at::Tensor scores = at::matmul(stacked, key.to(wide).transpose(-1, -2));
  scores = scores.mul_(1.0 / std::sqrt(static_cast<double>(width))).to(wide);
  // Not a view for autograd, so that the fill below stays a plain in-place node.
  scores = at::_unsafe_view(scores, {batch, kv_heads, group, length, keys});
  const at::Tensor hidden = mask.logical_not().view({mask.size(0), 1, 1, mask.size(1), keys});
  const at::Tensor probabilities = scores.masked_fill_(hidden, lowest_finite(wide)).softmax(-1).to(value.scalar_type());

  const at::Tensor mixed = at::matmul(probabilities.view({batch, kv_heads, group * length, keys}), value);
  return mixed.view({batch, heads, length, width}).transpose(1, 2).reshape({batch, length, heads * width});
}

}  // namespace thaw::nn
