#include <array>

#include "processor_steps_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace detail {
namespace {

/// A tensor that speaks about another one carries its name in front.
constexpr std::array<std::string_view, 3> kCompanions{"", "_is_pad", "_padding_mask"};

Json to_json(const std::map<std::string, std::string>& map) {
  Json object = Json::object();
  for (const auto& [from, to] : map) object[from] = to;
  return object;
}

/// The new name of `key`, or `key`.
std::string renamed(const std::string& key, const std::map<std::string, std::string>& map) {
  for (const std::string_view companion : kCompanions) {
    if (!key.ends_with(companion)) continue;
    const auto found = map.find(key.substr(0, key.size() - companion.size()));
    if (found != map.end()) return found->second + std::string(companion);
  }
  return key;
}

}  // namespace

RenameStep::RenameStep(std::map<std::string, std::string> map)
    : ConfiguredStep(Json{{"rename_map", to_json(map)}}), map_(std::move(map)) {}

RenameStep::RenameStep(const StepSource& source) : ConfiguredStep(source.config) {
  check_config_keys(config_, {"rename_map"}, source.where);
  const Json map = json_field_or<Json>(config_, "rename_map", Json::object(), source.where);
  if (!map.is_object()) {
    throw FormatError(Problem{.where = source.where + ", field 'rename_map'", .expected = "an object of strings"});
  }
  for (const auto& [from, to] : map.items()) map_[from] = json_field<std::string>(map, from, source.where);
}

void RenameStep::set_map(std::map<std::string, std::string> map) {
  map_ = std::move(map);
  config_["rename_map"] = to_json(map_);
}

void RenameStep::apply(Batch& batch) const {
  if (map_.empty()) return;
  std::map<std::string, at::Tensor> result;
  for (auto& [key, tensor] : batch.tensors) {
    const std::string name = renamed(key, map_);
    if (!result.emplace(name, std::move(tensor)).second) {
      throw MismatchError(Problem{.where = "rename map",
                                  .expected = "no two keys with one new name",
                                  .found = "'" + name + "' twice in the batch",
                                  .fix = "Rename or drop one of them."});
    }
  }
  batch.tensors = std::move(result);
}

}  // namespace detail

std::shared_ptr<ProcessorStep> make_rename_step(std::map<std::string, std::string> map) {
  return std::make_shared<detail::RenameStep>(std::move(map));
}

}  // namespace thaw
