#include "thaw/study/sweep_results.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <system_error>

#include "numbers_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

constexpr int kSweepSchemaVersion = 1;

std::vector<double> series_from_json(const Json& array, const std::string& where) {
  std::vector<double> values;
  for (const Json& value : array) {
    if (!value.is_number() && !value.is_null()) {
      throw FormatError(Problem{.where = where, .expected = "numbers", .found = value.type_name()});
    }
    values.push_back(value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>());
  }
  return values;
}

Json evaluation_to_json(const EvaluationResult& evaluation) {
  Json json{{"loss", evaluation.loss}, {"samples", evaluation.samples}};
  for (const auto& [name, value] : evaluation.metrics) json[name] = value;
  for (const auto& [name, values] : evaluation.series) json[name] = numbers_json(values);
  return json;
}

EvaluationResult evaluation_from_json(const Json& json, const std::string& where) {
  EvaluationResult evaluation{.loss = json_field<double>(json, "loss", where),
                              .samples = json_field<std::int64_t>(json, "samples", where)};
  for (const auto& item : json.items()) {
    const Json& value = item.value();
    if (item.key() == "loss" || item.key() == "samples") continue;
    if (value.is_array()) {
      evaluation.series[item.key()] = series_from_json(value, where + ", " + item.key());
    } else {
      evaluation.metrics[item.key()] = json_field<double>(json, item.key(), where);
    }
  }
  return evaluation;
}

template <class T>
std::optional<T> optional_field(const Json& json, const char* key, const std::string& where) {
  if (!json.contains(key)) return std::nullopt;
  return json_field<T>(json, key, where);
}

SweepTimes times_from_json(const Json& json, const std::string& where) {
  return {.seconds = json_field<double>(json, "seconds", where),
          .samples_per_second = json_field<double>(json, "samples_per_second", where),
          .peak_resident_bytes = optional_field<std::int64_t>(json, "peak_resident_bytes", where)};
}

std::optional<double> evaluator_figure(const Json& evaluator, const std::string& name) {
  if (!evaluator.is_object() || !evaluator.contains(name) || !evaluator[name].is_number()) return std::nullopt;
  return evaluator[name].get<double>();
}

void create(const fs::path& root) {
  std::error_code error;
  fs::create_directories(root, error);
  if (error) throw IoError(Problem{.where = root.string(), .expected = "a folder", .found = error.message()});
}

}  // namespace

std::optional<double> SweepResult::figure(const std::string& name) const {
  constexpr const char* kEvaluator = "evaluator.";
  if (name.starts_with('-')) {
    const std::optional<double> value = figure(name.substr(1));
    return value ? std::optional(-*value) : std::nullopt;
  }
  std::optional<double> value;
  if (name.starts_with(kEvaluator)) {
    value = evaluator_figure(evaluator, name.substr(std::string_view(kEvaluator).size()));
  } else if (held_out && name == "loss") {
    value = held_out->loss;
  } else if (held_out && held_out->metrics.contains(name)) {
    value = held_out->metrics.at(name);
  }
  return value && std::isfinite(*value) ? value : std::nullopt;
}

Json SweepResult::to_json() const {
  Json json = point.to_json();
  if (held_out) json["held_out"] = evaluation_to_json(*held_out);
  if (training_loss) json["training_loss"] = *training_loss;
  json["skipped_steps"] = skipped_steps;
  json["trainable_parameters"] = trainable_parameters;
  if (planned_peak_bytes) json["planned_peak_bytes"] = *planned_peak_bytes;
  if (planned_step_flops) json["planned_step_flops"] = *planned_step_flops;
  if (head_bytes) json["head_bytes"] = *head_bytes;
  json["cut"] = cut;
  if (!evaluator.is_null()) json["evaluator"] = evaluator;
  if (failed()) json["error"] = error;
  json["times"] = Json{{"seconds", times.seconds}, {"samples_per_second", times.samples_per_second}};
  if (times.peak_resident_bytes) json["times"]["peak_resident_bytes"] = *times.peak_resident_bytes;
  return json;
}

SweepResult SweepResult::from_json(const Json& json, const std::string& where) {
  SweepResult result{.point = SweepPoint::from_json(json, where),
                     .training_loss = optional_field<double>(json, "training_loss", where),
                     .skipped_steps = json_field<std::int64_t>(json, "skipped_steps", where),
                     .trainable_parameters = json_field<std::int64_t>(json, "trainable_parameters", where),
                     .planned_peak_bytes = optional_field<std::int64_t>(json, "planned_peak_bytes", where),
                     .planned_step_flops = optional_field<double>(json, "planned_step_flops", where),
                     .head_bytes = optional_field<std::int64_t>(json, "head_bytes", where),
                     .cut = json_field<std::string>(json, "cut", where),
                     .error = json_field_or<std::string>(json, "error", "", where),
                     .times = times_from_json(json_field<Json>(json, "times", where), where)};
  if (json.contains("held_out")) result.held_out = evaluation_from_json(json["held_out"], where + ", held_out");
  if (json.contains("evaluator")) result.evaluator = json["evaluator"];
  return result;
}

const SweepResult* find_result(std::span<const SweepResult> results, const std::string& id) {
  const auto found =
      std::find_if(results.begin(), results.end(), [&id](const SweepResult& result) { return result.point.id == id; });
  return found == results.end() ? nullptr : &*found;
}

std::vector<SweepResult> read_sweep_results(const fs::path& file) {
  std::vector<SweepResult> results;
  std::size_t line = 0;
  for (const Json& json : read_json_lines(file)) {
    results.push_back(SweepResult::from_json(json, fmt::format("{}, result {}", file.string(), ++line)));
  }
  return results;
}

SweepFolder::SweepFolder(fs::path root, const Json& setting, bool resume, const std::string& config)
    : root_(std::move(root)) {
  if (!resume) create(root_);
  const fs::path description = root_ / "sweep.json";
  if (resume && !fs::exists(description)) {
    throw UsageError(
        Problem{.where = root_.string(), .expected = "a sweep to resume", .found = "none (no sweep.json)"});
  }
  lock_ = std::make_unique<DirectoryLock>(root_);
  if (!resume && fs::exists(description)) {
    throw UsageError(Problem{.where = root_.string(),
                             .expected = "a folder without a sweep",
                             .found = "a sweep that was begun there",
                             .fix = "Resume it (--resume), or choose another folder."});
  }
  remove_stale_temporaries(root_);
  if (resume) require_same_setting(setting);
  if (!config.empty()) write_text_atomic(root_ / "config.toml", config);
  if (!resume) {  // last of all: from here on there is a sweep to resume
    const Json content{{"schema_version", kSweepSchemaVersion}, {"setting", setting}};
    write_text_atomic(description, content.dump(2) + "\n");
    return;
  }
  if (fs::exists(file())) results_ = read_sweep_results(file());
  std::erase_if(results_, [](const SweepResult& result) { return result.failed(); });
}

void SweepFolder::require_same_setting(const Json& setting) const {
  const fs::path description = root_ / "sweep.json";
  const Json begun = json_field<Json>(read_json(description), "setting", description.string());
  std::set<std::string> keys;
  for (const Json* each : {&begun, &setting}) {
    for (const auto& item : each->items()) keys.insert(item.key());
  }
  const auto text = [](const Json& json, const std::string& key) {
    return json.is_object() && json.contains(key) ? json[key].dump() : std::string("nothing");
  };
  for (const std::string& key : keys) {
    if (text(begun, key) == text(setting, key)) continue;
    throw MismatchError(Problem{.where = fmt::format("{}, '{}'", root_.string(), key),
                                .expected = text(begun, key) + ", with which the sweep was begun",
                                .found = text(setting, key),
                                .fix = "Results would not be comparable: choose another folder, or give what it had."});
  }
}

void SweepFolder::add(SweepResult result, std::span<const SweepPoint> order) {
  std::erase_if(results_, [&result](const SweepResult& old) { return old.point.id == result.point.id; });
  results_.push_back(std::move(result));
  const auto place = [order](const SweepResult& each) {
    return std::find_if(order.begin(), order.end(),
                        [&each](const SweepPoint& point) { return point.id == each.point.id; }) -
           order.begin();
  };
  std::stable_sort(results_.begin(), results_.end(),
                   [&place](const SweepResult& a, const SweepResult& b) { return place(a) < place(b); });
  std::string text;
  for (const SweepResult& each : results_) text += each.to_json().dump() + "\n";
  write_text_atomic(file(), text);
}

}  // namespace thaw
