#include "thaw/train/options.h"

#include <fmt/format.h>

#include <cmath>
#include <set>

#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw {
namespace {

template <class Kind, std::size_t N>
Kind parse_word(std::string_view text, const std::pair<std::string_view, Kind> (&words)[N], const char* what) {
  std::vector<std::string> known;
  for (const auto& [word, kind] : words) {
    if (word == text) return kind;
    known.emplace_back(word);
  }
  throw UsageError(Problem{.where = std::string(what),
                           .expected = fmt::format("one of {}", fmt::join(known, ", ")),
                           .found = fmt::format("'{}'", text),
                           .fix = suggest(text, known)});
}

template <class Kind, std::size_t N>
std::string_view word_of(Kind kind, const std::pair<std::string_view, Kind> (&words)[N]) {
  for (const auto& [word, known] : words) {
    if (known == kind) return word;
  }
  throw UsageError(Problem{.where = "option", .expected = "a value of its enum", .found = "another number"});
}

constexpr std::pair<std::string_view, Precision> kPrecisions[] = {
    {"auto", Precision::automatic}, {"fp32", Precision::fp32}, {"bf16", Precision::bf16}, {"fp16", Precision::fp16}};
constexpr std::pair<std::string_view, ScheduleKind> kSchedules[] = {
    {"cosine", ScheduleKind::cosine}, {"constant", ScheduleKind::constant}, {"linear", ScheduleKind::linear}};
constexpr std::pair<std::string_view, CudaGraphs> kCudaGraphs[] = {
    {"auto", CudaGraphs::automatic}, {"on", CudaGraphs::on}, {"off", CudaGraphs::off}};

/// Throws unless `holds`.
template <class Value>
void require(bool holds, const char* field, const Value& value, const char* range) {
  if (holds) return;
  throw UsageError(
      Problem{.where = std::string("TrainOptions.") + field, .expected = range, .found = fmt::format("{}", value)});
}

template <class Value>
void require_at_least(const char* field, Value value, Value least) {
  require(value >= least, field, value, fmt::format("at least {}", least).c_str());
}

/// Optional real in [least, below).
void require_real(const std::optional<double>& value, const char* field, double least, double below,
                  const char* range) {
  if (value) require(std::isfinite(*value) && *value >= least && *value < below, field, *value, range);
}

void validate_optimizer(const OptimizerOptions& options) {
  constexpr double kUnbounded = 1e30;
  require(!options.learning_rate || (std::isfinite(*options.learning_rate) && *options.learning_rate > 0.0),
          "optimizer.learning_rate", options.learning_rate.value_or(0.0), "a positive number");
  require_real(options.beta1, "optimizer.beta1", 0.0, 1.0, "in [0, 1)");
  require_real(options.beta2, "optimizer.beta2", 0.0, 1.0, "in [0, 1)");
  require_real(options.eps, "optimizer.eps", 0.0, kUnbounded, "at least 0");
  require_real(options.weight_decay, "optimizer.weight_decay", 0.0, kUnbounded, "at least 0");
  require(options.layer_decay > 0.0 && options.layer_decay <= 1.0, "optimizer.layer_decay", options.layer_decay,
          "in (0, 1]");
  for (const RateRule& rule : options.rates) {
    require(!rule.pattern.empty(), "optimizer.rates.pattern", "''", "a glob on parameter names");
    require(std::isfinite(rule.learning_rate) && rule.learning_rate >= 0.0, "optimizer.rates.learning_rate",
            rule.learning_rate, "at least 0");
  }
}

void validate_schedule(const ScheduleOptions& options) {
  if (options.warmup_steps) require_at_least<std::int64_t>("schedule.warmup_steps", *options.warmup_steps, 0);
  if (options.decay_steps) require_at_least<std::int64_t>("schedule.decay_steps", *options.decay_steps, 1);
  require_real(options.decay_learning_rate, "schedule.decay_learning_rate", 0.0, 1e30, "at least 0");
}

void validate_ema(const EmaOptions& options) {
  require_real(options.decay, "ema.decay", 0.0, 1.0, "in [0, 1)");
  require(options.power > 0.0 && std::isfinite(options.power), "ema.power", options.power, "a positive number");
  require(options.max_decay >= 0.0 && options.max_decay < 1.0, "ema.max_decay", options.max_decay, "in [0, 1)");
}

void validate_evaluation(const TrainOptions& options) {
  require_at_least<std::int64_t>("eval_every", options.eval_every, 0);
  require_at_least<std::int64_t>("eval_samples", options.eval_samples, 0);
  require(options.eval_split >= 0.0 && options.eval_split < 1.0, "eval_split", options.eval_split, "in [0, 1)");
  require(options.eval_episodes.empty() || options.eval_split == 0.0, "eval_split", options.eval_split,
          "0 when eval_episodes names the held-out episodes");
  std::set<std::int64_t> seen;
  for (const std::int64_t episode : options.eval_episodes) {
    require(episode >= 0, "eval_episodes", episode, "episode numbers, at least 0");
    require(seen.insert(episode).second, "eval_episodes", episode, "each episode once");
  }
}

void validate_cuda_graph(const TrainOptions& options) {
  if (options.cuda_graph != CudaGraphs::on) return;
  require(options.accumulation == 1, "accumulation", options.accumulation, "1 with cuda_graph on");
  require(!options.ema.enable, "ema.enable", options.ema.enable, "false with cuda_graph on");
  require(!options.freeze_schedule, "freeze_schedule", "some", "none with cuda_graph on");
}

void validate_prefix(const PrefixOptions& options) {
  require_at_least<std::int64_t>("prefix.batch_size", options.batch_size, 0);
  require(options.check >= 0.0 && options.check <= 1.0, "prefix.check", options.check, "in [0, 1]");
  if (options.cache != CacheCut::none) options.store.validate();
}

/// A cached prefix never sees its pictures again: those of an open-ended choice cannot be kept.
void validate_image_transforms(const TrainOptions& options) {
  options.image_transforms.validate();
  const bool keeps_all = options.prefix.cache == CacheCut::none || options.image_transforms.views > 0;
  if (!options.image_transforms.enable || keeps_all) return;
  throw UsageError(Problem{.where = fmt::format("image transforms with cache {}", cache_cut_name(options.prefix.cache)),
                           .expected = "a fixed number of views of every frame, whose prefixes can be kept",
                           .found = "new pictures at every visit",
                           .fix = "Ask for fixed views with --views 4, or for no cache with --cache none."});
}

}  // namespace

CudaGraphs parse_cuda_graphs(std::string_view text) { return parse_word(text, kCudaGraphs, "cuda_graph"); }
Precision parse_precision(std::string_view text) { return parse_word(text, kPrecisions, "precision"); }
std::string_view precision_name(Precision precision) { return word_of(precision, kPrecisions); }
ScheduleKind parse_schedule_kind(std::string_view text) { return parse_word(text, kSchedules, "schedule"); }
std::string_view schedule_kind_name(ScheduleKind kind) { return word_of(kind, kSchedules); }

void TrainOptions::validate() const {
  require_at_least<std::int64_t>("steps", steps, 1);
  require_at_least<std::int64_t>("batch_size", batch_size, 1);
  require_at_least<std::int64_t>("accumulation", accumulation, 1);
  require(draws >= 1 && draws <= 1024, "draws", draws, "1 to 1024");
  require(workers >= 0 && workers <= 256, "workers", workers, "0 to 256");
  require_real(grad_clip_norm, "grad_clip_norm", 0.0, 1e30, "at least 0");
  require_at_least<std::int64_t>("max_consecutive_skips", max_consecutive_skips, 1);
  require_at_least<std::int64_t>("save_every", save_every, 0);
  require_at_least<std::int64_t>("keep_last", keep_last, 2);
  require_at_least<std::int64_t>("log_every", log_every, 1);
  require(!resume || !output.empty(), "output", "''", "a run folder, since resume is asked for");
  validate_optimizer(optimizer);
  validate_schedule(schedule);
  validate_ema(ema);
  validate_cuda_graph(*this);
  validate_evaluation(*this);
  validate_prefix(prefix);
  validate_image_transforms(*this);
}

}  // namespace thaw
