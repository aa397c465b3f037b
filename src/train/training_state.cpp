#include <fmt/format.h>

#include <charconv>

#include "thaw/core/error.h"
#include "thaw/train/checkpoint.h"

namespace thaw {
namespace {

Json gradients_to_json(const std::map<std::string, GradientRecord::Flags>& gradients) {
  Json json = Json::object();
  for (const auto& [name, flags] : gradients) json[name] = {{"seen", flags.seen}, {"effective", flags.effective}};
  return json;
}

std::map<std::string, GradientRecord::Flags> gradients_from_json(const Json& json, const std::string& where) {
  std::map<std::string, GradientRecord::Flags> gradients;
  for (const auto& item : json.items()) {
    const std::string place = where + ": gradients: " + item.key();
    gradients[item.key()] = {.seen = json_field<bool>(item.value(), "seen", place),
                             .effective = json_field<bool>(item.value(), "effective", place)};
  }
  return gradients;
}

/// A seed may need all 64 bits, which not every reader of JSON numbers keeps: it is text.
std::uint64_t parse_seed(const std::string& text, const std::string& where) {
  std::uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error == std::errc() && end == text.data() + text.size()) return seed;
  throw FormatError(Problem{.where = where + ": seed", .expected = "a whole number", .found = text});
}

}  // namespace

Json TrainingState::to_json() const {
  return {{"schema_version", kCheckpointSchemaVersion},
          {"step", step},
          {"seed", std::to_string(seed)},
          {"batch_size", batch_size},
          {"accumulation", accumulation},
          {"draws", draws},
          {"image_transforms", image_transforms},
          {"precision", precision},
          {"plan_digest", plan_digest},
          {"base_digest", base_digest},
          {"guard", {{"skipped", guard.skipped}, {"consecutive", guard.consecutive}, {"longest", guard.longest}}},
          {"loss_scale", {{"scale", scaler.scale}, {"growth_tracker", scaler.growth_tracker}}},
          {"resting", resting},
          {"frozen_moved", frozen_moved},
          {"modules_not_in_eval", modules_not_in_eval},
          {"frozen_with_gradient", frozen_with_gradient},
          {"gradients", gradients_to_json(gradients)}};
}

TrainingState TrainingState::from_json(const Json& json, const std::string& where) {
  const auto schema = json_field<std::int64_t>(json, "schema_version", where);
  if (schema != kCheckpointSchemaVersion) {
    throw FormatError(Problem{.where = where,
                              .expected = fmt::format("schema version {}", kCheckpointSchemaVersion),
                              .found = std::to_string(schema)});
  }
  TrainingState state;
  state.step = json_field<std::int64_t>(json, "step", where);
  state.seed = parse_seed(json_field<std::string>(json, "seed", where), where);
  state.batch_size = json_field<std::int64_t>(json, "batch_size", where);
  state.accumulation = json_field<std::int64_t>(json, "accumulation", where);
  state.draws = json_field_or(json, "draws", state.draws, where);
  state.image_transforms = json_field_or(json, "image_transforms", state.image_transforms, where);
  state.precision = json_field<std::string>(json, "precision", where);
  state.plan_digest = json_field<std::string>(json, "plan_digest", where);
  state.base_digest = json_field<std::string>(json, "base_digest", where);
  const Json guard = json_field<Json>(json, "guard", where);
  state.guard = {.skipped = json_field<std::int64_t>(guard, "skipped", where),
                 .consecutive = json_field<std::int64_t>(guard, "consecutive", where),
                 .longest = json_field<std::int64_t>(guard, "longest", where)};
  const Json scale = json_field<Json>(json, "loss_scale", where);
  state.scaler = {.scale = json_field<double>(scale, "scale", where),
                  .growth_tracker = json_field<std::int64_t>(scale, "growth_tracker", where)};
  if (json.contains("resting")) state.resting = json_field<std::vector<std::string>>(json, "resting", where);
  state.frozen_moved = json_field<std::vector<std::string>>(json, "frozen_moved", where);
  state.modules_not_in_eval = json_field<std::vector<std::string>>(json, "modules_not_in_eval", where);
  state.frozen_with_gradient = json_field<std::vector<std::string>>(json, "frozen_with_gradient", where);
  state.gradients = gradients_from_json(json_field<Json>(json, "gradients", where), where);
  return state;
}

}  // namespace thaw
