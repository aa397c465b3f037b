#include "thaw/policy/adapters.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <set>

#include "thaw/core/error.h"
#include "thaw/core/names.h"
#include "thaw/core/sha256.h"
#include "thaw/tensor/random.h"

namespace thaw {
namespace {

using Names = std::vector<std::string>;

constexpr std::string_view kWeight = ".weight";
constexpr std::array<std::string_view, 3> kSuffixes{".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"};

std::string weight_name(const Adapter& adapter) { return adapter.linear + std::string(kWeight); }

bool contains(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_matrix_of_products(const ParameterInfo& info) {
  return info.shape.size() == 2 && info.name.ends_with(kWeight) && !contains(info.groups, "embeddings") &&
         !is_adapter_parameter(info.name);
}

Names names_of(const Adapter& adapter) {
  Names names;
  if (adapter.weight_decomposed) names.push_back(lora_magnitude_name(adapter));
  names.push_back(lora_a_name(adapter));
  names.push_back(lora_b_name(adapter));
  return names;
}

void check(const Adapter& adapter, const ModelLayout& layout, const Names& adaptable) {
  if (!contains(adaptable, adapter.linear)) {
    throw UsageError(Problem{.where = "adapter on '" + adapter.linear + "'",
                             .expected = "a linear layer that the forward pass uses",
                             .fix = suggest(adapter.linear, adaptable)});
  }
  const auto has_one = [&adapter](const Adapter& other) { return other.linear == adapter.linear; };
  if (std::any_of(layout.adapters.begin(), layout.adapters.end(), has_one)) {
    throw UsageError(Problem{
        .where = "adapter on '" + adapter.linear + "'", .expected = "a layer without one", .found = "one already"});
  }
  const std::vector<std::int64_t>& shape = layout.parameter(weight_name(adapter)).shape;
  const std::int64_t most = std::min(shape[0], shape[1]);
  if (adapter.rank < 1 || adapter.rank > most) {
    throw UsageError(Problem{.where = "adapter on '" + adapter.linear + "': rank",
                             .expected = fmt::format("1 to {}, the smaller side of the weight", most),
                             .found = std::to_string(adapter.rank)});
  }
  if (!(adapter.alpha > 0.0) || !std::isfinite(adapter.alpha)) {
    throw UsageError(Problem{.where = "adapter on '" + adapter.linear + "': alpha",
                             .expected = "a positive number",
                             .found = fmt::format("{}", adapter.alpha)});
  }
}

/// In the order of names_of().
std::vector<ParameterInfo> parameters_of(const Adapter& adapter, const ParameterInfo& weight) {
  const std::int64_t out = weight.shape[0];
  std::vector<std::vector<std::int64_t>> shapes;
  if (adapter.weight_decomposed) shapes.push_back({out});
  shapes.push_back({adapter.rank, weight.shape[1]});
  shapes.push_back({out, adapter.rank});
  const Names names = names_of(adapter);
  std::vector<ParameterInfo> infos;
  for (std::size_t i = 0; i < names.size(); ++i) {
    infos.push_back({.name = names[i], .shape = shapes[i], .stack = weight.stack, .block = weight.block});
    infos.back().groups = {"adapters"};
  }
  return infos;
}

/// Behind the last parameter that stands under the layer's own name.
void insert_parameters(std::vector<ParameterInfo>& parameters, const Adapter& adapter, const ParameterInfo& weight) {
  const std::vector<ParameterInfo> added = parameters_of(adapter, weight);
  const std::string bias = adapter.linear + ".bias";
  const auto last = std::find_if(parameters.rbegin(), parameters.rend(), [&](const ParameterInfo& info) {
    return info.name == bias || info.name == weight.name;
  });
  parameters.insert(last.base(), added.begin(), added.end());
}

DrawBytes scaled(const DrawBytes& bytes, double factor) {
  return {.fixed = factor * bytes.fixed, .per_draw = factor * bytes.per_draw, .per_pair = factor * bytes.per_pair};
}

/// The input of the layer's product is kept for A as it would be for W (a stage that spares that names A by itself);
/// x Aᵀ is kept for B.
void add_costs(StageInfo& stage, const Adapter& adapter, const ParameterInfo& weight) {
  const auto in = static_cast<double>(weight.shape[1]);
  const auto out = static_cast<double>(weight.shape[0]);
  const auto rank = static_cast<double>(adapter.rank);
  const std::string a = lora_a_name(adapter);
  const auto input = std::find_if(
      stage.bytes.saved_for.begin(), stage.bytes.saved_for.end(),
      [&](const SavedFor& saved) { return contains(saved.parameters, weight.name) || contains(saved.parameters, a); });
  if (input == stage.bytes.saved_for.end()) return;
  const DrawBytes row_bytes = scaled(input->bytes, 1.0 / in);
  const double rows = row_bytes.at(1) / sizeof(float);
  stage.flops += 2.0 * rows * rank * (in + out);
  if (!contains(input->parameters, a)) input->parameters.push_back(a);
  stage.bytes.saved_for.push_back({.bytes = scaled(row_bytes, rank), .parameters = {lora_b_name(adapter)}});
  // The magnitude's gradient needs the product and the update.
  if (!adapter.weight_decomposed) return;
  stage.bytes.saved_for.push_back(
      {.bytes = scaled(row_bytes, 2.0 * out), .parameters = {lora_magnitude_name(adapter)}});
}

void insert_into_line(std::vector<StageInfo>& line, const Adapter& adapter, const ParameterInfo& weight) {
  const Names names = names_of(adapter);
  for (StageInfo& stage : line) {
    const auto place = std::find(stage.parameters.begin(), stage.parameters.end(), weight.name);
    if (place == stage.parameters.end()) continue;
    stage.parameters.insert(place + 1, names.begin(), names.end());
    add_costs(stage, adapter, weight);
  }
}

/// A number for the random stream of a parameter, whatever its place in the layout.
std::uint64_t number_of(const std::string& name) {
  Sha256 sum;
  sum.update(name);
  return std::stoull(sum.hex().substr(0, 10), nullptr, 16);  // 40 of the 44 bits that a key may have
}

at::Tensor initial_a(const ParameterInfo& info, std::uint64_t seed) {
  const RandomKey key{.seed = seed, .stream = RandomStream::initialisation, .step = number_of(info.name)};
  const double bound = 1.0 / std::sqrt(static_cast<double>(info.shape[1]));
  return random_uniform(key, info.numel()).mul_(2.0 * bound).sub_(bound).to(at::kFloat).view(info.shape);
}

at::Tensor initial(const ParameterInfo& info, const std::map<std::string, at::Tensor>& base, std::uint64_t seed) {
  if (info.name.ends_with(kSuffixes[0])) return initial_a(info, seed);
  if (info.name.ends_with(kSuffixes[1])) return at::zeros(info.shape);
  const std::string linear = info.name.substr(0, info.name.size() - kSuffixes[2].size());
  return base.at(linear + std::string(kWeight)).detach().to(at::kFloat).norm(2, 1);
}

const at::Tensor& tensor_of(const std::map<std::string, at::Tensor>& tensors, const std::string& name,
                            std::vector<std::int64_t> shape) {
  const auto found = tensors.find(name);
  const std::string expected = fmt::format("a tensor of shape [{}]", fmt::join(shape, ", "));
  if (found == tensors.end()) throw MismatchError(Problem{.where = name, .expected = expected, .found = "none"});
  if (found->second.sizes() == at::IntArrayRef(shape)) return found->second;
  throw MismatchError(Problem{
      .where = name, .expected = expected, .found = fmt::format("[{}]", fmt::join(found->second.sizes(), ", "))});
}

}  // namespace

std::string lora_a_name(const Adapter& adapter) { return adapter.linear + std::string(kSuffixes[0]); }
std::string lora_b_name(const Adapter& adapter) { return adapter.linear + std::string(kSuffixes[1]); }
std::string lora_magnitude_name(const Adapter& adapter) { return adapter.linear + std::string(kSuffixes[2]); }

bool is_adapter_parameter(std::string_view name) {
  return std::any_of(kSuffixes.begin(), kSuffixes.end(),
                     [name](std::string_view suffix) { return name.ends_with(suffix); });
}

std::vector<std::string> adaptable_linears(const ModelLayout& layout) {
  std::set<std::string> used;
  for (const StageInfo& stage : layout.line) used.insert(stage.parameters.begin(), stage.parameters.end());
  Names linears;
  for (const ParameterInfo& info : layout.parameters) {
    if (!is_matrix_of_products(info) || info.unread || !used.contains(info.name)) continue;
    linears.push_back(info.name.substr(0, info.name.size() - kWeight.size()));
  }
  return linears;
}

ModelLayout with_adapters(ModelLayout layout, std::span<const Adapter> adapters) {
  const Names adaptable = adaptable_linears(layout);
  for (const Adapter& adapter : adapters) {
    check(adapter, layout, adaptable);
    const ParameterInfo weight = layout.parameter(weight_name(adapter));
    insert_parameters(layout.parameters, adapter, weight);
    insert_into_line(layout.line, adapter, weight);
    layout.adapters.push_back(adapter);
  }
  return layout;
}

std::vector<NamedTensor> adapted_weights(const ModelLayout& adapted, const torch::nn::Module& module,
                                         std::uint64_t seed) {
  std::map<std::string, at::Tensor> base;
  for (const auto& item : module.named_parameters()) base[item.key()] = item.value();
  std::vector<NamedTensor> weights;
  for (const ParameterInfo& info : adapted.parameters) {
    const auto own = base.find(info.name);
    weights.push_back({.name = info.name, .tensor = own != base.end() ? own->second : initial(info, base, seed)});
  }
  return weights;
}

at::Tensor merged_weight(const at::Tensor& weight, const Adapter& adapter,
                         const std::map<std::string, at::Tensor>& tensors) {
  const at::NoGradGuard no_grad;
  const at::ScalarType wide = c10::promoteTypes(weight.scalar_type(), at::kFloat);
  const std::int64_t out = weight.size(0);
  const at::Tensor a = tensor_of(tensors, lora_a_name(adapter), {adapter.rank, weight.size(1)}).to(wide);
  const at::Tensor b = tensor_of(tensors, lora_b_name(adapter), {out, adapter.rank}).to(wide);
  at::Tensor merged = weight.to(wide) + at::mm(b, a) * adapter.scale();
  if (adapter.weight_decomposed) {
    const at::Tensor magnitude = tensor_of(tensors, lora_magnitude_name(adapter), {out}).to(wide);
    merged = merged * (magnitude / merged.norm(2, 1)).unsqueeze(1);
  }
  return merged.to(weight.scalar_type());
}

}  // namespace thaw
