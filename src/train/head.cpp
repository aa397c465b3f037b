#include "thaw/train/head.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <charconv>

#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/core/sha256.h"
#include "thaw/policy/adapters.h"
#include "thaw/tensor/digest.h"
#include "thaw/tensor/safetensors.h"
#include "thaw/train/peft.h"

namespace thaw {
namespace {

constexpr std::string_view kStatisticsPrefix = "__statistics__.";
constexpr const char* kSchemaKey = "thaw.head.schema_version";
constexpr const char* kAdapters = "thaw.adapters";
constexpr const char* kAdapterSeed = "thaw.adapter_seed";

std::string digest_lines(const std::map<std::string, std::string>& digests) {
  Sha256 sum;
  for (const auto& [name, digest] : digests) sum.update(fmt::format("{} {}\n", name, digest));
  return sum.hex();
}

// --- writing ---

Json adapters_to_json(const std::vector<Adapter>& adapters) {
  Json list = Json::array();
  for (const Adapter& adapter : adapters) {
    list.push_back({{"linear", adapter.linear},
                    {"rank", adapter.rank},
                    {"alpha", adapter.alpha},
                    {"rank_stabilised", adapter.rank_stabilised},
                    {"weight_decomposed", adapter.weight_decomposed}});
  }
  return list;
}

std::map<std::string, std::string> to_metadata(const HeadInfo& info) {
  std::map<std::string, std::string> metadata = {
      {"format", "pt"},
      {kSchemaKey, std::to_string(kHeadSchemaVersion)},
      {"thaw.version", info.thaw_version},
      {"thaw.step", std::to_string(info.step)},
      {"thaw.policy_type", info.policy_type},
      {"thaw.base_digest", info.base_digest},
      {"thaw.plan_digest", info.plan_digest},
      {"thaw.freeze_rules", Json(info.freeze_rules).dump()},
      {"thaw.rename_map", Json(info.rename_map).dump()},
  };
  if (!info.base_file_sha256.empty()) metadata["thaw.base_file_sha256"] = info.base_file_sha256;
  if (!info.adapters.empty()) {
    metadata[kAdapters] = adapters_to_json(info.adapters).dump();
    metadata[kAdapterSeed] = std::to_string(info.adapter_seed);
  }
  return metadata;
}

std::vector<NamedTensor> to_tensors(const Head& head) {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : head.tensors) {
    if (name.starts_with(kStatisticsPrefix)) {
      throw UsageError(Problem{.where = name,
                               .expected = fmt::format("a parameter name without the prefix '{}'", kStatisticsPrefix),
                               .found = "it"});
    }
    tensors.push_back({.name = name, .tensor = tensor.detach()});
  }
  for (const auto& [feature, values] : head.statistics) {
    for (const auto& [statistic, tensor] : values) {
      tensors.push_back({.name = fmt::format("{}{}.{}", kStatisticsPrefix, feature, statistic), .tensor = tensor});
    }
  }
  return tensors;
}

// --- reading ---

class Metadata {
 public:
  Metadata(const SafetensorsFile& file) : values_(file.metadata()), where_(file.path().string()) {}

  [[nodiscard]] const std::string& at(const std::string& key) const {
    const auto found = values_.find(key);
    if (found == values_.end()) {
      throw FormatError(Problem{.where = where_,
                                .expected = "a head written by thaw",
                                .found = fmt::format("a safetensors file without the metadata '{}'", key)});
    }
    return found->second;
  }
  [[nodiscard]] std::string at_or_empty(const std::string& key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? std::string() : found->second;
  }
  template <class Integer = std::int64_t>
  [[nodiscard]] Integer integer(const std::string& key) const {
    const std::string& text = at(key);
    Integer value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || text.starts_with('-')) {
      throw FormatError(
          Problem{.where = fmt::format("{}: {}", where_, key), .expected = "a whole number", .found = text});
    }
    return value;
  }
  [[nodiscard]] Json json(const std::string& key) const { return parse_json(at(key), where_ + ": " + key); }
  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  const std::map<std::string, std::string>& values_;
  std::string where_;
};

void require_known_schema(const Metadata& metadata) {
  const std::int64_t version = metadata.integer(kSchemaKey);
  if (version == kHeadSchemaVersion) return;
  throw FormatError(Problem{.where = metadata.where(),
                            .expected = fmt::format("a head of schema version {}", kHeadSchemaVersion),
                            .found = std::to_string(version),
                            .fix = "Use the thaw that wrote it."});
}

std::map<std::string, std::string> string_map(const Json& json, const std::string& where) {
  if (!json.is_object())
    throw FormatError(Problem{.where = where, .expected = "an object of texts", .found = json.type_name()});
  std::map<std::string, std::string> result;
  for (const auto& item : json.items()) result[item.key()] = json_field<std::string>(json, item.key(), where);
  return result;
}

std::vector<std::string> string_list(const Json& json, const std::string& where) {
  return json_field<std::vector<std::string>>(Json{{"list", json}}, "list", where);
}

std::vector<Adapter> read_adapters(const Json& list, const std::string& where) {
  if (!list.is_array()) throw FormatError(Problem{.where = where, .expected = "a list", .found = list.type_name()});
  std::vector<Adapter> adapters;
  for (const Json& entry : list) {
    adapters.push_back({.linear = json_field<std::string>(entry, "linear", where),
                        .rank = json_field<std::int64_t>(entry, "rank", where),
                        .alpha = json_field<double>(entry, "alpha", where),
                        .rank_stabilised = json_field<bool>(entry, "rank_stabilised", where),
                        .weight_decomposed = json_field<bool>(entry, "weight_decomposed", where)});
  }
  return adapters;
}

HeadInfo info_of(const SafetensorsFile& file) {
  const Metadata metadata(file);
  require_known_schema(metadata);
  HeadInfo info{
      .policy_type = metadata.at("thaw.policy_type"),
      .base_digest = metadata.at("thaw.base_digest"),
      .base_file_sha256 = metadata.at_or_empty("thaw.base_file_sha256"),
      .plan_digest = metadata.at("thaw.plan_digest"),
      .freeze_rules = string_list(metadata.json("thaw.freeze_rules"), metadata.where() + ": thaw.freeze_rules"),
      .rename_map = string_map(metadata.json("thaw.rename_map"), metadata.where() + ": thaw.rename_map"),
      .step = metadata.integer("thaw.step"),
      .thaw_version = metadata.at("thaw.version")};
  if (file.metadata().contains(kAdapters)) {
    info.adapters = read_adapters(metadata.json(kAdapters), metadata.where() + ": " + kAdapters);
    info.adapter_seed = metadata.integer<std::uint64_t>(kAdapterSeed);
  }
  return info;
}

void add_statistic(Statistics& statistics, std::string_view name, at::Tensor tensor, const std::string& where) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos || dot == 0 || dot + 1 == name.size()) {
    throw FormatError(Problem{.where = where, .expected = "<feature>.<statistic>", .found = std::string(name)});
  }
  statistics[std::string(name.substr(0, dot))][std::string(name.substr(dot + 1))] = std::move(tensor);
}

// --- applying ---

void require_base(const HeadInfo& info, const torch::nn::Module& module, const std::string& where) {
  if (info.base_digest.empty()) return;
  const std::string found = base_digest(module);
  if (found == info.base_digest) return;
  throw MismatchError(Problem{.where = where,
                              .expected = fmt::format("the base it was trained on, digest {}", info.base_digest),
                              .found = fmt::format("a base with digest {}", found),
                              .fix = "Load the checkpoint that the run was started from, without another head on it."});
}

/// Live tensors a head may name: parameters and buffers.
std::map<std::string, at::Tensor> live_tensors(const torch::nn::Module& module) {
  std::map<std::string, at::Tensor> live;
  for (const auto& item : module.named_parameters()) live[item.key()] = item.value();
  for (const auto& item : module.named_buffers()) live[item.key()] = item.value();
  return live;
}

/// The head's tensors, with adapters that the live tensors do not have merged into the weights of their layers.
std::map<std::string, at::Tensor> replacements(const Head& head, const std::map<std::string, at::Tensor>& live) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, tensor] : head.tensors) {
    if (live.contains(name) || !is_adapter_parameter(name)) tensors[name] = tensor;
  }
  for (const Adapter& adapter : head.info.adapters) {
    if (live.contains(lora_a_name(adapter))) continue;
    const std::string weight = adapter.linear + ".weight";
    const auto found = live.find(weight);
    if (found == live.end()) {
      throw MismatchError(Problem{.where = lora_a_name(adapter),
                                  .expected = "an adapter on a layer of the policy",
                                  .found = "none called '" + adapter.linear + "'"});
    }
    tensors[weight] = merged_weight(found->second.cpu(), adapter, head.tensors);
  }
  return tensors;
}

void require_fits(const std::map<std::string, at::Tensor>& tensors, const std::map<std::string, at::Tensor>& live,
                  const std::string& where) {
  for (const auto& [name, tensor] : tensors) {
    const auto found = live.find(name);
    const std::string place = fmt::format("{}: {}", where, name);
    if (found == live.end()) {
      throw MismatchError(
          Problem{.where = place, .expected = "a parameter of the policy", .found = "none of this name"});
    }
    if (found->second.sizes() != tensor.sizes()) {
      throw MismatchError(Problem{.where = place,
                                  .expected = fmt::format("shape [{}]", fmt::join(found->second.sizes(), ", ")),
                                  .found = fmt::format("[{}]", fmt::join(tensor.sizes(), ", "))});
    }
  }
}

void put_onto(const Head& head, torch::nn::Module& module, const std::string& where) {
  const std::map<std::string, at::Tensor> live = live_tensors(module);
  require_base(head.info, module, where);
  const std::map<std::string, at::Tensor> tensors = replacements(head, live);
  require_fits(tensors, live, where);
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : tensors) at::Tensor(live.at(name)).copy_(tensor);
}

}  // namespace

std::string base_digest(const FreezePlan& plan) {
  std::map<std::string, std::string> digests;
  for (const PlannedParameter& parameter : plan.parameters) {
    if (is_adapter_parameter(parameter.name)) continue;
    if (parameter.digest.empty()) {
      throw UsageError(
          Problem{.where = parameter.name, .expected = "a plan with digests", .found = "none for this parameter"});
    }
    digests[parameter.name] = parameter.digest;
  }
  return digest_lines(digests);
}

std::string base_digest(const torch::nn::Module& module) {
  std::map<std::string, std::string> digests;
  for (const auto& item : module.named_parameters()) {
    if (!is_adapter_parameter(item.key())) digests[item.key()] = tensor_digest(item.value());
  }
  return digest_lines(digests);
}

at::Tensor adapted_weight(const Head& head, const std::string& name, const at::Tensor& weight) {
  for (const Adapter& adapter : head.info.adapters) {
    if (adapter.linear + ".weight" == name) return merged_weight(weight, adapter, head.tensors);
  }
  return {};
}

void write_head(const std::filesystem::path& file, const Head& head) {
  write_safetensors(file, to_tensors(head), to_metadata(head.info));
}

HeadInfo read_head_info(const std::filesystem::path& file) { return info_of(SafetensorsFile(file)); }

Head read_head(const std::filesystem::path& path) {
  if (is_peft_adapter(path)) return read_peft_adapter(path);
  const SafetensorsFile file(path);
  Head head{.info = info_of(file)};
  for (const SafetensorsEntry& entry : file.entries()) {
    const std::string_view name = entry.name;
    if (name.starts_with(kStatisticsPrefix)) {
      add_statistic(head.statistics, name.substr(kStatisticsPrefix.size()), file.read(name), path.string());
    } else {
      head.tensors[entry.name] = file.read(name);
    }
  }
  return head;
}

void load_head(torch::nn::Module& module, const std::filesystem::path& file) {
  put_onto(read_head(file), module, file.string());
}

void load_head(Policy& policy, const std::filesystem::path& file) {
  const Head head = read_head(file);
  if (!head.info.policy_type.empty() && head.info.policy_type != policy.type()) {
    throw MismatchError(Problem{.where = file.string(),
                                .expected = fmt::format("a head of a '{}' policy", policy.type()),
                                .found = fmt::format("one of '{}'", head.info.policy_type)});
  }
  put_onto(head, *policy.module(), file.string());
  apply_head_processing(policy, head);
}

void apply_head_processing(Policy& policy, const Head& head) {
  if (!head.statistics.empty()) {
    policy.preprocessor().set_statistics(head.statistics);
    policy.postprocessor().set_statistics(head.statistics);
  }
  if (!head.info.rename_map.empty()) policy.preprocessor().set_rename_map(head.info.rename_map);
}

}  // namespace thaw
