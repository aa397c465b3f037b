#include "thaw/train/peft.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <regex>
#include <set>

#include "base_folder_impl.h"
#include "merged_processors_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/policy/adapters.h"
#include "thaw/tensor/safetensors.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kTensorFile = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
/// Metadata that PEFT passes over: what binds an adapter that thaw wrote to its base.
constexpr const char* kBaseDigest = "thaw.base_digest";
constexpr const char* kBaseFile = "thaw.base_file_sha256";
constexpr std::string_view kSuffixA = ".lora_A.weight";

// --- reading ---

/// What a configuration says about every adapter of the folder.
struct PeftConfig {
  std::string where;
  std::int64_t rank = 8;
  double alpha = 8.0;
  bool rank_stabilised = false;
  bool weight_decomposed = false;
  Json ranks = Json::object();   ///< rank_pattern
  Json alphas = Json::object();  ///< alpha_pattern
};

[[noreturn]] void refuse(const std::string& where, const std::string& field, const std::string& expected,
                         const Json& found) {
  throw FormatError(Problem{.where = fmt::format("{}: {}", where, field),
                            .expected = expected,
                            .found = found.dump(-1, ' ', false, Json::error_handler_t::replace)});
}

bool says_something(const Json& json, const char* field) {
  const auto found = json.find(field);
  if (found == json.end() || found->is_null()) return false;
  if (found->is_boolean()) return found->get<bool>();
  return !(found->is_structured() && found->empty());
}

/// Fields that make the adapter compute something else than policy/adapters.h.
void refuse_other_methods(const Json& json, const std::string& where) {
  const Json type = json.value("peft_type", Json());
  if (type != "LORA") refuse(where, "peft_type", "\"LORA\"", type);
  const Json bias = json.value("bias", Json("none"));
  if (bias != "none") refuse(where, "bias", "\"none\": biases do not train", bias);
  for (const char* field : {"lora_bias", "fan_in_fan_out", "use_qalora", "layer_replication", "target_parameters",
                            "trainable_token_indices", "alora_invocation_tokens", "arrow_config", "use_bdlora",
                            "velora_config", "monteclora_config", "kasa_config", "megatron_config"}) {
    if (says_something(json, field)) refuse(where, field, "nothing: thaw has no such adapters", json.at(field));
  }
  const Json init = json.value("init_lora_weights", Json(true));
  const bool keeps_base = init.is_boolean() || init == "gaussian" || init == "eva" || init == "orthogonal";
  if (!keeps_base) refuse(where, "init_lora_weights", "an initialisation that leaves the base as it is", init);
}

PeftConfig read_config(const fs::path& folder) {
  const fs::path file = folder / kConfigFile;
  const Json json = read_json(file);
  const std::string where = file.string();
  if (!json.is_object()) throw FormatError(Problem{.where = where, .expected = "a JSON object"});
  refuse_other_methods(json, where);
  PeftConfig config{.where = where,
                    .rank = json_field_or<std::int64_t>(json, "r", 8, where),
                    .alpha = json_field_or<double>(json, "lora_alpha", 8.0, where),
                    .rank_stabilised = json_field_or<bool>(json, "use_rslora", false, where),
                    .weight_decomposed = json_field_or<bool>(json, "use_dora", false, where)};
  for (const auto& [field, target] : {std::pair{"rank_pattern", &config.ranks}, {"alpha_pattern", &config.alphas}}) {
    if (!says_something(json, field)) continue;
    *target = json.at(field);
    if (!target->is_object()) refuse(where, field, "an object of numbers", *target);
  }
  return config;
}

bool is_plain_name(const std::string& pattern) {
  return std::all_of(pattern.begin(), pattern.end(), [](unsigned char letter) {
    return std::isalnum(letter) != 0 || letter == '_' || letter == '.' || letter == '-';
  });
}

/// PEFT's re.match(r"(.*\.)?(pattern)$", name).
bool matches(const std::string& name, const std::string& pattern, const std::string& where) {
  if (is_plain_name(pattern)) return name == pattern || name.ends_with("." + pattern);
  constexpr std::size_t kMostLetters = 256;  // std::regex recurses and backtracks
  if (pattern.size() > kMostLetters) refuse(where, "pattern", "at most 256 letters", pattern);
  try {
    return std::regex_match(name, std::regex("(.*\\.)?(" + pattern + ")"));
  } catch (const std::regex_error& error) {
    refuse(where, "pattern", fmt::format("a regular expression ({})", error.what()), pattern);
  }
}

/// The first pattern that the layer's name matches decides.
template <class Number>
Number setting_of(const std::string& linear, const Json& patterns, Number otherwise, const std::string& where) {
  for (const auto& item : patterns.items()) {
    if (matches(linear, item.key(), where)) return json_field<Number>(patterns, item.key(), where);
  }
  return otherwise;
}

Adapter adapter_on(const std::string& linear, const PeftConfig& config) {
  Adapter adapter{.linear = linear,
                  .rank = setting_of(linear, config.ranks, config.rank, config.where),
                  .alpha = setting_of(linear, config.alphas, config.alpha, config.where),
                  .rank_stabilised = config.rank_stabilised,
                  .weight_decomposed = config.weight_decomposed};
  if (adapter.rank >= 1 && std::isfinite(adapter.alpha) && adapter.alpha > 0.0) return adapter;
  throw FormatError(Problem{.where = fmt::format("{}: {}", config.where, linear),
                            .expected = "a rank of at least 1 and a positive alpha",
                            .found = fmt::format("{} and {}", adapter.rank, adapter.alpha)});
}

Head read_tensors(const fs::path& path) {
  const SafetensorsFile file(path);
  Head head;
  for (const SafetensorsEntry& entry : file.entries()) {
    if (!entry.name.starts_with(kPrefix)) {
      throw FormatError(Problem{.where = fmt::format("{}: {}", path.string(), entry.name),
                                .expected = fmt::format("a name that begins with '{}'", kPrefix)});
    }
    head.tensors[entry.name.substr(kPrefix.size())] = file.read(entry.name);
  }
  const auto text = [&file](const char* key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  head.info.base_digest = text(kBaseDigest);
  head.info.base_file_sha256 = text(kBaseFile);
  return head;
}

/// Every part of every adapter is there, in shapes that fit each other, and none is left over.
void require_whole(const Head& head, const std::string& where) {
  std::set<std::string> known;
  for (const Adapter& adapter : head.info.adapters) {
    std::vector<std::string> names{lora_a_name(adapter), lora_b_name(adapter)};
    if (adapter.weight_decomposed) names.push_back(lora_magnitude_name(adapter));
    for (const std::string& name : names) {
      const auto found = head.tensors.find(name);
      if (found == head.tensors.end()) {
        throw FormatError(Problem{.where = where, .expected = fmt::format("{}{}", kPrefix, name), .found = "none"});
      }
      known.insert(name);
    }
    const at::Tensor& a = head.tensors.at(lora_a_name(adapter));
    const at::Tensor& b = head.tensors.at(lora_b_name(adapter));
    const bool fits = a.dim() == 2 && b.dim() == 2 && a.size(0) == adapter.rank && b.size(1) == adapter.rank;
    if (!fits) {
      throw FormatError(
          Problem{.where = fmt::format("{}: {}", where, adapter.linear),
                  .expected = fmt::format("matrices of rank {}", adapter.rank),
                  .found = fmt::format("[{}] and [{}]", fmt::join(a.sizes(), ", "), fmt::join(b.sizes(), ", "))});
    }
  }
  for (const auto& entry : head.tensors) {
    if (!is_adapter_parameter(entry.first) || known.contains(entry.first)) continue;
    throw FormatError(Problem{.where = fmt::format("{}: {}", where, entry.first),
                              .expected = "a part of an adapter that the configuration describes"});
  }
}

/// A state file lies beside the JSON; a name with a folder in it would be read from elsewhere.
std::string plain_state_file(const Json& step, const std::string& where) {
  const auto name = json_field_or<std::string>(step, "state_file", "", where);
  if (name.empty() || (fs::path(name).filename() == name && name != "." && name != "..")) return name;
  throw FormatError(Problem{.where = where + ": state_file", .expected = "a plain file name", .found = name});
}

/// Of the normaliser that LeRobot keeps beside the adapter; empty without one.
Statistics read_statistics(const fs::path& folder) {
  Statistics statistics;
  const fs::path file = folder / "policy_preprocessor.json";
  if (!fs::exists(file)) return statistics;
  const Json steps = json_field<Json>(read_json(file), "steps", file.string());
  for (const Json& step : steps) {
    if (step.value("registry_name", Json()) != "normalizer_processor") continue;
    const std::string state = plain_state_file(step, file.string());
    if (state.empty()) continue;
    for (const auto& [name, tensor] : read_safetensors(folder / state)) {
      const std::size_t dot = name.rfind('.');
      if (dot != std::string::npos) statistics[name.substr(0, dot)][name.substr(dot + 1)] = tensor;
    }
  }
  return statistics;
}

// --- writing ---

/// A number that most adapters share, and the others by layer.
template <class Number>
struct Shared {
  Number value{};
  Json others = Json::object();
};

template <class Number, class Get>
Shared<Number> shared(const std::vector<Adapter>& adapters, const Get& get) {
  Shared<Number> result{.value = get(adapters.front())};
  for (const Adapter& adapter : adapters) {
    if (get(adapter) != result.value) result.others[adapter.linear] = get(adapter);
  }
  return result;
}

template <class Predicate>
bool all(const std::vector<Adapter>& adapters, const Predicate& predicate) {
  return std::all_of(adapters.begin(), adapters.end(), predicate);
}

[[noreturn]] void cannot_express(const std::string& where, const std::string& expected, const std::string& found) {
  throw UsageError(Problem{.where = where,
                           .expected = expected,
                           .found = found,
                           .fix = "PEFT has no place for it: merge the head instead (thaw merge without --peft)."});
}

std::string module_of(const std::string& parameter) { return parameter.substr(0, parameter.rfind('.')); }

/// Modules all of whose parameters the head holds.
std::vector<std::string> whole_modules(const Head& head, const SafetensorsFile& base, const std::string& where) {
  std::set<std::string> modules;
  for (const auto& entry : head.tensors) {
    if (!is_adapter_parameter(entry.first)) modules.insert(module_of(entry.first));
  }
  for (const SafetensorsEntry& entry : base.entries()) {
    if (!modules.contains(module_of(entry.name)) || head.tensors.contains(entry.name)) continue;
    cannot_express(where, fmt::format("all parameters of '{}' trained, or none", module_of(entry.name)),
                   fmt::format("'{}' frozen", entry.name));
  }
  return {modules.begin(), modules.end()};
}

Json to_config(const Head& head, const std::vector<std::string>& modules, const fs::path& base,
               const std::string& where) {
  const std::vector<Adapter>& adapters = head.info.adapters;
  if (adapters.empty()) cannot_express(where, "a head with adapters", "none");
  const bool dora = adapters.front().weight_decomposed;
  if (!all(adapters, [dora](const Adapter& adapter) { return adapter.weight_decomposed == dora; })) {
    cannot_express(where, "LoRA or DoRA on all layers", "both");
  }
  // Mixed scales are written as LoRA's: alpha / rank is what PEFT computes then.
  const bool rslora = all(adapters, [](const Adapter& adapter) { return adapter.rank_stabilised; });
  const auto ranks = shared<std::int64_t>(adapters, [](const Adapter& adapter) { return adapter.rank; });
  const auto alphas = shared<double>(adapters, [rslora](const Adapter& adapter) {
    return rslora || !adapter.rank_stabilised ? adapter.alpha : adapter.scale() * static_cast<double>(adapter.rank);
  });
  Json targets = Json::array();
  for (const Adapter& adapter : adapters) targets.push_back(adapter.linear);
  return {{"alpha_pattern", alphas.others},
          {"base_model_name_or_path", fs::absolute(base).lexically_normal().string()},
          {"bias", "none"},
          {"fan_in_fan_out", false},
          {"inference_mode", true},
          {"init_lora_weights", true},
          {"lora_alpha", alphas.value},
          {"lora_dropout", 0.0},
          {"modules_to_save", modules.empty() ? Json() : Json(modules)},
          {"peft_type", "LORA"},
          {"r", ranks.value},
          {"rank_pattern", ranks.others},
          {"revision", nullptr},
          {"target_modules", std::move(targets)},
          {"task_type", nullptr},
          {"use_dora", dora},
          {"use_rslora", rslora}};
}

std::vector<NamedTensor> prefixed(const Head& head) {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : head.tensors) {
    tensors.push_back({.name = std::string(kPrefix) + name, .tensor = tensor});
  }
  return tensors;
}

void write_policy_config(const fs::path& base_folder, const fs::path& target) {
  const fs::path file = base_folder / "config.json";
  Json config = read_json(file);
  if (!config.is_object()) throw FormatError(Problem{.where = file.string(), .expected = "a JSON object"});
  config["use_peft"] = true;
  write_text_atomic(target / "config.json", config.dump(4));
}

}  // namespace

bool is_peft_adapter(const fs::path& folder) { return fs::exists(folder / kConfigFile); }

std::string peft_base(const fs::path& folder) {
  const fs::path file = folder / kConfigFile;
  const Json json = read_json(file);
  if (!json.is_object()) throw FormatError(Problem{.where = file.string(), .expected = "a JSON object"});
  return json_field_or<std::string>(json, "base_model_name_or_path", "", file.string());
}

Head read_peft_adapter(const fs::path& folder) {
  const PeftConfig config = read_config(folder);
  const fs::path file = folder / kTensorFile;
  Head head = read_tensors(file);
  head.statistics = read_statistics(folder);
  for (const auto& entry : head.tensors) {
    if (!entry.first.ends_with(kSuffixA)) continue;
    head.info.adapters.push_back(adapter_on(entry.first.substr(0, entry.first.size() - kSuffixA.size()), config));
  }
  require_whole(head, file.string());
  return head;
}

PeftReport write_peft_adapter(const fs::path& base_folder, const fs::path& head_file, const fs::path& output) {
  require_absent(output);
  const Head head = read_head(head_file);
  const SafetensorsFile base(base_folder / "model.safetensors");
  require_same_base(head.info, base.path(), head_file);
  const std::vector<std::string> modules = whole_modules(head, base, head_file.string());
  const Json config = to_config(head, modules, base_folder, head_file.string());
  const MergedProcessors processors(base_folder, head);

  if (!output.parent_path().empty()) fs::create_directories(output.parent_path());
  StagedDirectory staged(output);
  copy_companions(base_folder, staged.path());
  write_policy_config(base_folder, staged.path());
  processors.write(staged.path());
  write_text_atomic(staged.path() / kConfigFile, config.dump(2) + "\n");
  write_safetensors(staged.path() / kTensorFile, prefixed(head),
                    {{"format", "pt"}, {kBaseDigest, head.info.base_digest}, {kBaseFile, head.info.base_file_sha256}});
  const PeftReport report{.adapters = static_cast<std::int64_t>(head.info.adapters.size()),
                          .modules = static_cast<std::int64_t>(modules.size()),
                          .bytes = fs::file_size(staged.path() / kTensorFile)};
  staged.commit();
  return report;
}

}  // namespace thaw
