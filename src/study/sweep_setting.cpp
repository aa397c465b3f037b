#include <torch/nn/module.h>

#include "sweep_setting_impl.h"
#include "thaw/tensor/device.h"
#include "thaw/train/precision.h"

namespace thaw {
namespace {

template <class T>
void add(Json& json, const char* name, const std::optional<T>& value) {
  if (value) json[name] = *value;
}

Json optimizer_to_json(const OptimizerOptions& optimizer) {
  Json json{{"layer_decay", optimizer.layer_decay}};
  add(json, "beta1", optimizer.beta1);
  add(json, "beta2", optimizer.beta2);
  add(json, "eps", optimizer.eps);
  add(json, "weight_decay", optimizer.weight_decay);
  for (const RateRule& rule : optimizer.rates) json["rates"].push_back(Json::array({rule.pattern, rule.learning_rate}));
  return json;
}

Json schedule_to_json(const ScheduleOptions& schedule) {
  Json json{{"kind", schedule_kind_name(schedule.kind)}, {"auto_scale", schedule.auto_scale}};
  add(json, "warmup_steps", schedule.warmup_steps);
  add(json, "decay_steps", schedule.decay_steps);
  add(json, "decay_learning_rate", schedule.decay_learning_rate);
  return json;
}

Json ema_to_json(const EmaOptions& ema) {
  Json json{{"enable", ema.enable}, {"power", ema.power}, {"max_decay", ema.max_decay}};
  add(json, "decay", ema.decay);
  return json;
}

Json prefix_to_json(const PrefixOptions& prefix) {
  return {{"cache", cache_cut_name(prefix.cache)},
          {"storage", cache_storage_name(prefix.store.storage)},
          {"batch_size", prefix.batch_size}};
}

Json image_transforms_to_json(const ImageTransformsOptions& transforms) {
  Json json = transforms.to_json();
  json["views"] = transforms.views;
  return json;
}

Json evaluation_to_json(const TrainOptions& options) {
  return {{"split", options.eval_split}, {"episodes", options.eval_episodes}, {"samples", options.eval_samples}};
}

}  // namespace

Json options_to_json(const TrainOptions& options) {
  Json json{{"batch_size", options.batch_size},
            {"accumulation", options.accumulation},
            {"precision", precision_name(options.precision)},
            {"device", options.device->is_cpu() ? "cpu" : "cuda"},
            {"checkpoint_activations", options.checkpoint_activations},
            {"optimizer", optimizer_to_json(options.optimizer)},
            {"schedule", schedule_to_json(options.schedule)},
            {"ema", ema_to_json(options.ema)},
            {"prefix", prefix_to_json(options.prefix)},
            {"held_out", evaluation_to_json(options)},
            {"rename_map", options.rename_map},
            {"allow_missing_cameras", options.allow_missing_cameras}};
  add(json, "grad_clip_norm", options.grad_clip_norm);
  if (options.image_transforms.enable) json["image_transforms"] = image_transforms_to_json(options.image_transforms);
  return json;
}

TrainOptions with_device(TrainOptions options) {
  options.output.clear();
  options.resume = false;
  options.validate();
  if (!options.device) options.device = parse_device("auto");
  options.precision = resolve_precision(options.precision, *options.device);
  return options;
}

std::shared_ptr<torch::nn::Module> on_device(std::shared_ptr<torch::nn::Module> module, const TrainOptions& options) {
  module->to(*options.device);
  return module;
}

}  // namespace thaw
