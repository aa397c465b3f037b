#include <ATen/ATen.h>
#include <torch/autograd.h>

#include "inverse_rms_impl.h"
#include "thaw/nn/linear.h"
#include "thaw/tensor/dtype.h"

namespace thaw::nn {
namespace {

/// The norm as one node that keeps its input and one number a row; what lies between is computed again for backward.
class Normed : public torch::autograd::Function<Normed> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            double eps) {
    const at::Tensor scale = inverse_rms(x, eps);
    context->save_for_backward({x, weight, scale});
    context->saved_data["of_x"] = x.requires_grad();
    context->saved_data["of_weight"] = weight.requires_grad();
    return (x * scale).mul_(weight);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor& gradient = gradients.at(0);
    const at::Tensor& scale = saved.at(2);
    const at::Tensor normed = saved.at(0) * scale;
    at::Tensor of_x;
    at::Tensor of_weight;
    if (context->saved_data["of_weight"].toBool()) of_weight = (gradient * normed).flatten(0, -2).sum(0);
    if (context->saved_data["of_x"].toBool()) {
      const at::Tensor inner = gradient * saved.at(1);
      const at::Tensor along = (inner * normed).mean(-1, /*keepdim=*/true);
      of_x = inner.sub_(normed.mul(along)).mul_(scale);
    }
    return {of_x, of_weight, at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const RmsNorm& norm) {
  const bool plain = x.scalar_type() == at::kFloat && norm.weight.scalar_type() == at::kFloat && x.dim() > 1;
  if (plain && at::GradMode::is_enabled()) return Normed::apply(x, norm.weight, norm.eps);
  const at::Tensor wide = x.to(at_least_float(x.scalar_type()));
  return norm.weight * (wide * inverse_rms(wide, norm.eps)).to(x.scalar_type());
}

}  // namespace thaw::nn
