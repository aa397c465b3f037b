#include "thaw/models/registry.h"

#include <algorithm>

#include "pi0/factory_impl.h"
#include "smolvla/factory_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/core/names.h"
#include "thaw/models/pi0/layout.h"
#include "thaw/models/smolvla/layout.h"

namespace thaw {
namespace {

namespace fs = std::filesystem;

/// A configuration, wherever it came from: a name, or a file with the JSON in it.
struct Source {
  std::string name;  ///< of a named configuration; empty for a file
  fs::path file;     ///< config.json
  Json json;
};

/// One policy type: everything the registry needs to know about it. A new model is a row in kTypes.
struct PolicyType {
  std::string type;
  std::vector<std::string> named_configs;
  std::shared_ptr<Policy> (*load)(const fs::path& folder, const Json& config, const LoadOptions& options);
  std::shared_ptr<Policy> (*init)(const Source& source, const InitOptions& options);
  ModelLayout (*layout)(const Source& source, InitialDtypes dtypes);
};

SmolVLAConfig smolvla_config(const Source& source) {
  return source.name.empty() ? smolvla::read_config(source.json, source.file) : smolvla::named_config(source.name);
}

Pi0Config pi0_config(const Source& source) {
  return source.name.empty() ? pi0::read_config(source.json, source.file) : pi0::named_config(source.name);
}

/// pi0 and pi0.5 differ in their configuration alone.
PolicyType pi0_type(const std::string& type) {
  return {
      .type = type,
      .named_configs = {type, type + "_tiny"},
      .load = pi0::load,
      .init = [](const Source& source, const InitOptions& options) { return pi0::init(pi0_config(source), options); },
      .layout =
          [](const Source& source, InitialDtypes dtypes) {
            const Pi0Config config = pi0_config(source);
            return source.name.empty() ? pi0::folder_layout(config, source.file.parent_path(), dtypes)
                                       : pi0_layout(config, dtypes);
          }};
}

const std::vector<PolicyType>& types() {
  static const std::vector<PolicyType> kTypes{
      {.type = "smolvla",
       .named_configs = {"smolvla", "smolvla_tiny"},
       .load = smolvla::load,
       .init = [](const Source& source,
                  const InitOptions& options) { return smolvla::init(smolvla_config(source), options); },
       .layout =
           [](const Source& source, InitialDtypes dtypes) {
             const SmolVLAConfig config = smolvla_config(source);
             return source.name.empty() ? smolvla::folder_layout(config, source.file.parent_path(), dtypes)
                                        : smolvla_layout(config, dtypes);
           }},
      pi0_type("pi0"),
      pi0_type("pi05")};
  return kTypes;
}

const PolicyType& type_named(const std::string& type, const std::string& where) {
  const auto found = std::find_if(types().begin(), types().end(), [&](const PolicyType& t) { return t.type == type; });
  if (found != types().end()) return *found;
  throw UsageError(
      Problem{.where = where,
              .expected = fmt::format("a policy type thaw can build ({})", fmt::join(policy_types(), ", ")),
              .found = "'" + type + "'"});
}

const PolicyType* type_with_config(const std::string& name) {
  for (const PolicyType& type : types()) {
    if (std::find(type.named_configs.begin(), type.named_configs.end(), name) != type.named_configs.end()) return &type;
  }
  return nullptr;
}

/// The policy type that config.json names. @throws FormatError when it names none
std::string type_in(const Json& config, const fs::path& file) {
  if (!config.is_object()) throw FormatError(Problem{.where = file.string(), .expected = "a JSON object"});
  return json_field<std::string>(config, "type", file.string());
}

fs::path config_file(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  if (fs::exists(file)) return file;
  const fs::path inner = folder / "pretrained_model";
  throw IoError(Problem{.where = file.string(),
                        .expected = "a LeRobot policy folder",
                        .found = fs::exists(folder) ? "no config.json" : "no such folder",
                        .fix = fs::exists(inner / "config.json") ? "Give '" + inner.string() + "'." : ""});
}

/// Finds what `config` means and the type it belongs to.
std::pair<const PolicyType*, Source> find_config(const std::string& config) {
  if (const PolicyType* type = type_with_config(config)) return {type, Source{.name = config}};
  const fs::path path = config;
  if (!fs::exists(path)) {
    throw UsageError(Problem{.where = "policy configuration '" + config + "'",
                             .expected = "a file, a folder, or a named configuration",
                             .found = "neither",
                             .fix = suggest(config, named_configs())});
  }
  Source source{.file = fs::is_directory(path) ? config_file(path) : path};
  source.json = read_json(source.file);
  return {&type_named(type_in(source.json, source.file), source.file.string()), std::move(source)};
}

}  // namespace

std::vector<std::string> policy_types() {
  std::vector<std::string> names;
  for (const PolicyType& type : types()) names.push_back(type.type);
  return names;
}

std::vector<std::string> named_configs() {
  std::vector<std::string> names;
  for (const PolicyType& type : types()) {
    names.insert(names.end(), type.named_configs.begin(), type.named_configs.end());
  }
  return names;
}

std::shared_ptr<Policy> load_policy(const fs::path& folder, const LoadOptions& options) {
  const fs::path file = config_file(folder);
  const Json config = read_json(file);
  return type_named(type_in(config, file), file.string()).load(folder, config, options);
}

std::shared_ptr<Policy> init_policy(const InitOptions& options) {
  const auto [type, source] = find_config(options.config);
  return type->init(source, options);
}

ModelLayout layout_of_named_config(const std::string& config, InitialDtypes dtypes) {
  const auto [type, source] = find_config(config);
  return type->layout(source, dtypes);
}

}  // namespace thaw
