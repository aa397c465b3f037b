#include "thaw/train/head.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <charconv>

#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/core/sha256.h"
#include "thaw/tensor/digest.h"
#include "thaw/tensor/safetensors.h"

namespace thaw {
namespace {

constexpr std::string_view kStatisticsPrefix = "__statistics__.";
constexpr const char* kSchemaKey = "thaw.head.schema_version";

std::string digest_lines(const std::map<std::string, std::string>& digests) {
  Sha256 sum;
  for (const auto& [name, digest] : digests) sum.update(fmt::format("{} {}\n", name, digest));
  return sum.hex();
}

// --- writing ---

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
  [[nodiscard]] std::int64_t integer(const std::string& key) const {
    const std::string& text = at(key);
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < 0) {
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

HeadInfo info_of(const SafetensorsFile& file) {
  const Metadata metadata(file);
  require_known_schema(metadata);
  return {.policy_type = metadata.at("thaw.policy_type"),
          .base_digest = metadata.at("thaw.base_digest"),
          .base_file_sha256 = metadata.at_or_empty("thaw.base_file_sha256"),
          .plan_digest = metadata.at("thaw.plan_digest"),
          .freeze_rules = string_list(metadata.json("thaw.freeze_rules"), metadata.where() + ": thaw.freeze_rules"),
          .rename_map = string_map(metadata.json("thaw.rename_map"), metadata.where() + ": thaw.rename_map"),
          .step = metadata.integer("thaw.step"),
          .thaw_version = metadata.at("thaw.version")};
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

void require_fits(const Head& head, const std::map<std::string, at::Tensor>& live, const std::string& where) {
  for (const auto& [name, tensor] : head.tensors) {
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
  require_fits(head, live, where);
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : head.tensors) at::Tensor(live.at(name)).copy_(tensor);
}

}  // namespace

std::string base_digest(const FreezePlan& plan) {
  std::map<std::string, std::string> digests;
  for (const PlannedParameter& parameter : plan.parameters) {
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
  for (const auto& item : module.named_parameters()) digests[item.key()] = tensor_digest(item.value());
  return digest_lines(digests);
}

void write_head(const std::filesystem::path& file, const Head& head) {
  write_safetensors(file, to_tensors(head), to_metadata(head.info));
}

HeadInfo read_head_info(const std::filesystem::path& file) { return info_of(SafetensorsFile(file)); }

Head read_head(const std::filesystem::path& path) {
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
  if (head.info.policy_type != policy.type()) {
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
