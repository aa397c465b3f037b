#include "thaw/nn/attention.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "thaw/nn/linear.h"
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

/// (B, H, L, d) -> (B, K, H / K · L, d): the query heads of a group one after the other.
at::Tensor stack_groups(const at::Tensor& query, std::int64_t kv_heads) {
  return query.reshape({query.size(0), kv_heads, query.size(1) / kv_heads * query.size(2), query.size(3)});
}

/// (B, L or 1, S) -> (B, 1, 1, L or 1, S), true where nothing is attended.
at::Tensor hidden_keys(const at::Tensor& mask) {
  return mask.logical_not().view({mask.size(0), 1, 1, mask.size(1), mask.size(2)});
}

/// One more axis, the heads of a group. No view for autograd, so that a fill stays a plain in-place node.
at::Tensor by_head(const at::Tensor& scores, std::int64_t length) {
  return at::_unsafe_view(scores, {scores.size(0), scores.size(1), scores.size(2) / length, length, scores.size(3)});
}

double score_scale(const at::Tensor& query) { return 1.0 / std::sqrt(static_cast<double>(query.size(-1))); }

/// The dtypes of the two products. Autocast casts what goes into a product; said here, the pass that computes them
/// again for backward, where no autocast is in force, casts alike.
struct ProductTypes {
  at::ScalarType scores;
  at::ScalarType mixing;
};

ProductTypes product_types(const at::Tensor& query, const at::Tensor& value) {
  if (!autocasts(query)) return {.scores = at_least_float(query.scalar_type()), .mixing = value.scalar_type()};
  const at::ScalarType cast = at::autocast::get_autocast_dtype(query.device().type());
  return {.scores = cast, .mixing = cast};
}

/// stacked (B, K, G · L, d), key (B, K, S, d), mask (B, L or 1, S) -> (B, K, G, L, S), at least float32
at::Tensor probabilities(const at::Tensor& stacked, const at::Tensor& key, const at::Tensor& mask, std::int64_t length,
                         at::ScalarType product) {
  const at::ScalarType wide = at_least_float(stacked.scalar_type());
  at::Tensor scores = at::matmul(stacked.to(product), key.to(product).transpose(-1, -2));
  scores = by_head(scores.mul_(score_scale(stacked)).to(wide), length);
  return scores.masked_fill_(hidden_keys(mask), lowest_finite(wide)).softmax(-1);
}

/// probabilities (B, K, G, L, S), value (B, K, S, d), query (B, H, L, d) -> (B, L, H · d)
at::Tensor mix(const at::Tensor& probabilities, const at::Tensor& value, const at::Tensor& query,
               at::ScalarType product) {
  const at::Tensor mixed = at::matmul(probabilities.flatten(2, 3).to(product), value.to(product));
  return merge_heads(mixed.view(query.sizes()));
}

at::Tensor joined(at::TensorList parts) { return parts.size() == 1 ? parts.front() : at::cat(parts, 2); }

/// `whole` cut along the tokens into pieces as long as `parts`; nothing for what needs no gradient.
torch::autograd::variable_list split(const at::Tensor& whole, at::TensorList parts) {
  torch::autograd::variable_list pieces;
  std::int64_t begin = 0;
  for (const at::Tensor& part : parts) {
    pieces.push_back(part.requires_grad() ? whole.narrow(2, begin, part.size(2)) : at::Tensor());
    begin += part.size(2);
  }
  return pieces;
}

bool any_requires_grad(at::TensorList tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& tensor) { return tensor.requires_grad(); });
}

/// Attention as one node that keeps its arguments alone. Scores and joined keys are several times as large, and cheap
/// beside the products around them.
class RecomputedAttention : public torch::autograd::Function<RecomputedAttention> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& query, at::TensorList keys,
                            at::TensorList values, const at::Tensor& mask) {
    torch::autograd::variable_list kept{query, mask};
    kept.insert(kept.end(), keys.begin(), keys.end());
    kept.insert(kept.end(), values.begin(), values.end());
    context->save_for_backward(std::move(kept));
    const at::Tensor value = joined(values);
    const ProductTypes types = product_types(query, value);
    context->saved_data["scores"] = types.scores;
    context->saved_data["mixing"] = types.mixing;
    const at::Tensor key = joined(keys);
    const at::Tensor stacked = stack_groups(query, key.size(1));
    return mix(probabilities(stacked, key, mask, query.size(2), types.scores), value, query, types.mixing);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor& query = saved.at(0);
    const at::Tensor& mask = saved.at(1);
    const at::TensorList parts = at::TensorList(saved).slice(2);
    const at::TensorList keys = parts.slice(0, parts.size() / 2);
    const at::TensorList values = parts.slice(parts.size() / 2);
    const at::ScalarType scores = context->saved_data["scores"].toScalarType();
    const at::ScalarType mixing = context->saved_data["mixing"].toScalarType();

    const at::Tensor key = joined(keys).to(scores);
    const at::Tensor stacked = stack_groups(query, key.size(1));
    const at::Tensor weights = probabilities(stacked, key, mask, query.size(2), scores);
    const at::Tensor gradient = stack_groups(split_heads(gradients.at(0), query.size(3)), key.size(1)).to(mixing);

    torch::autograd::variable_list of_values(values.size());
    if (any_requires_grad(values)) {
      of_values = split(at::matmul(weights.flatten(2, 3).to(mixing).transpose(-1, -2), gradient), values);
    }
    at::Tensor of_query;
    torch::autograd::variable_list of_keys(keys.size());
    if (query.requires_grad() || any_requires_grad(keys)) {
      const at::Tensor of_weights = at::matmul(gradient, joined(values).to(mixing).transpose(-1, -2));
      const at::Tensor of_scores = scores_gradient(of_weights, weights, mask).to(scores).mul_(score_scale(query));
      if (query.requires_grad()) of_query = at::matmul(of_scores, key).view(query.sizes());
      if (any_requires_grad(keys)) {
        of_keys = split(at::matmul(of_scores.transpose(-1, -2), stacked.to(scores)), keys);
      }
    }
    torch::autograd::variable_list result{of_query};
    result.insert(result.end(), of_keys.begin(), of_keys.end());
    result.insert(result.end(), of_values.begin(), of_values.end());
    result.emplace_back();  // of the mask
    return result;
  }

 private:
  /// of_weights (B, K, G · L, S), weights (B, K, G, L, S) -> (B, K, G · L, S)
  static at::Tensor scores_gradient(const at::Tensor& of_weights, const at::Tensor& weights, const at::Tensor& mask) {
    const at::ScalarType wide = weights.scalar_type();
    const at::Tensor by_row = by_head(of_weights.to(wide), weights.size(3));
    at::Tensor of_scores = at::_softmax_backward_data(by_row, weights, -1, wide);
    return of_scores.masked_fill_(hidden_keys(mask), 0.0).flatten(2, 3);
  }
};

bool needs_graph(const at::Tensor& query, at::ArrayRef<KeyValue> seen) {
  if (!at::GradMode::is_enabled()) return false;
  return query.requires_grad() || std::any_of(seen.begin(), seen.end(), [](const KeyValue& part) {
           return part.key.requires_grad() || part.value.requires_grad();
         });
}

}  // namespace

KeyValue concatenate(at::ArrayRef<KeyValue> parts) {
  std::vector<at::Tensor> keys;
  std::vector<at::Tensor> values;
  for (const KeyValue& part : parts) {
    keys.push_back(part.key);
    values.push_back(part.value);
  }
  return {.key = at::cat(keys, 2), .value = at::cat(values, 2)};
}

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

at::Tensor attention(const at::Tensor& query, at::ArrayRef<KeyValue> seen, const at::Tensor& mask) {
  if (needs_graph(query, seen)) {
    std::vector<at::Tensor> keys;
    std::vector<at::Tensor> values;
    for (const KeyValue& part : seen) {
      keys.push_back(part.key);
      values.push_back(part.value);
    }
    return RecomputedAttention::apply(query, at::TensorList(keys), at::TensorList(values), mask);
  }
  const KeyValue all = seen.size() == 1 ? seen.front() : concatenate(seen);
  const ProductTypes types = product_types(query, all.value);
  const at::Tensor stacked = stack_groups(query, all.key.size(1));
  return mix(probabilities(stacked, all.key, mask, query.size(2), types.scores), all.value, query, types.mixing);
}

}  // namespace thaw::nn
