#include <ATen/Version.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <set>

#include "prefix_identity_impl.h"
#include "thaw/core/sha256.h"
#include "thaw/tensor/digest.h"
#include "thaw/train/version.h"

namespace thaw {
namespace {

/// Digests of the weights and, apart, what the plan makes of them.
void add_weights(CacheIdentity& identity, const FreezePlan& plan, const std::vector<std::string>& before) {
  const std::set<std::string> used(before.begin(), before.end());
  Sha256 weights;
  Sha256 classes;
  for (const PlannedParameter& parameter : plan.parameters) {
    if (!used.contains(parameter.name)) continue;
    weights.update(fmt::format("{} {}\n", parameter.name, parameter.digest));
    classes.update(fmt::format("{} {}\n", parameter.name, static_cast<int>(parameter.parameter_class)));
  }
  identity.fields["weights"] = weights.hex();
  identity.fields["plan"] = classes.hex();
}

std::string processors_digest(const ProcessorPipeline& pipeline) {
  Sha256 digest;
  for (const auto& step : pipeline.steps()) {
    digest.update(fmt::format("{} {}\n", step->registry_name(), step->config_json()));
    for (const auto& [name, tensor] : step->state()) digest.update(fmt::format("{} {}\n", name, tensor_digest(tensor)));
  }
  return digest.hex();
}

}  // namespace

CacheIdentity prefix_identity(const Policy& policy, const FreezePlan& plan, const PrefixCut& cut, Precision precision,
                              at::Device device, const std::string& dataset_digest, const ImageTransforms* transforms) {
  CacheIdentity identity;
  add_weights(identity, plan, parameters_before(policy.layout(), cut.stage));
  identity.fields["cut"] = policy.layout().line.at(cut.stage - 1).name;
  identity.fields["policy"] = sha256_hex(policy.config_json().dump());
  identity.fields["processors"] = processors_digest(policy.preprocessor());
  const std::shared_ptr<const Tokenizer> tokenizer = policy.preprocessor().tokenizer();
  identity.fields["tokenizer"] = tokenizer ? tokenizer->digest() : "none";
  identity.fields["precision"] = precision_name(precision);
  identity.fields["device"] = device.is_cpu() ? fmt::format("cpu {}", at::get_cpu_capability()) : "cuda";
  identity.fields["libraries"] = fmt::format("thaw {} torch {}", kThawVersion, TORCH_VERSION);
  identity.fields["dataset"] = dataset_digest;
  identity.fields["image transforms"] = transforms == nullptr ? "none" : transforms->identity();
  return identity;
}

std::vector<std::string> parameters_before(const ModelLayout& layout, std::size_t cut) {
  std::set<std::string> used;
  for (std::size_t i = 0; i < cut; ++i) used.insert(layout.line[i].parameters.begin(), layout.line[i].parameters.end());
  std::vector<std::string> names;
  for (const ParameterInfo& parameter : layout.parameters) {
    if (used.contains(parameter.name)) names.push_back(parameter.name);
  }
  return names;
}

bool depends_on_text(const ModelLayout& layout, std::size_t cut) {
  std::set<std::string> known(layout.image_inputs.begin(), layout.image_inputs.end());
  for (std::size_t i = 0; i < cut; ++i) {
    const StageInfo& stage = layout.line[i];
    const bool all_known = std::all_of(stage.reads.begin(), stage.reads.end(),
                                       [&known](const std::string& key) { return known.contains(key); });
    if (!all_known) return true;
    known.insert(stage.writes.begin(), stage.writes.end());
  }
  return false;
}

}  // namespace thaw
