// The smallest policy there can be: three stages of one linear layer each, on one camera and a state of four numbers.
#pragma once

#include <ATen/ATen.h>
#include <torch/nn/modules/linear.h>

#include <memory>
#include <string>
#include <vector>

#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/policy/policy.h"
#include "thaw/policy/processor_steps.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/random.h"

namespace thaw::toy {

struct NetworkImpl : torch::nn::Module {
  NetworkImpl()
      : eyes(register_module("eyes", torch::nn::Linear(3, 4))),
        body(register_module("body", torch::nn::Linear(8, 6))),
        hand(register_module("hand", torch::nn::Linear(11, 4))) {
    const at::NoGradGuard no_grad;
    std::uint64_t number = 0;
    for (auto& item : named_parameters()) {
      item.value().copy_(
          0.3 * random_normal({.seed = 6, .stream = RandomStream::test, .sample = number++}, item.value().sizes()));
    }
  }
  torch::nn::Linear eyes, body, hand;
};
TORCH_MODULE(Network);

class FakePolicy final : public Policy {
 public:
  static constexpr std::int64_t kChunk = 3;
  static constexpr std::int64_t kWidth = 4;

  explicit FakePolicy(std::string camera = "observation.images.corner", std::int64_t action_width = kWidth)
      : camera_(std::move(camera)) {
    inputs_ = {{.name = camera_, .type = FeatureType::visual, .shape = {3, 64, 64}},
               {.name = "observation.state", .type = FeatureType::state, .shape = {kWidth}}};
    outputs_ = {{.name = "action", .type = FeatureType::action, .shape = {action_width}}};
    describe();
    build_line();
    Features all = inputs_;
    all.insert(all.end(), outputs_.begin(), outputs_.end());
    const std::map<FeatureType, NormalizationMode> modes = {{FeatureType::state, NormalizationMode::mean_std},
                                                            {FeatureType::action, NormalizationMode::mean_std}};
    preprocessor_ = ProcessorPipeline(
        "policy_preprocessor", {make_rename_step({}), make_normalizer_step({.features = all, .norm_map = modes})});
    postprocessor_ =
        ProcessorPipeline("policy_postprocessor", {make_unnormalizer_step({.features = outputs_, .norm_map = modes})});
  }

  [[nodiscard]] std::string type() const override { return "fake"; }
  [[nodiscard]] const Features& input_features() const override { return inputs_; }
  [[nodiscard]] const Features& output_features() const override { return outputs_; }
  [[nodiscard]] std::int64_t chunk_size() const override { return kChunk; }
  [[nodiscard]] std::vector<std::int64_t> observation_delta_indices() const override { return {0}; }
  [[nodiscard]] std::vector<std::int64_t> action_delta_indices() const override { return {0, 1, 2}; }
  [[nodiscard]] TrainingPreset training_preset() const override { return {.learning_rate = 1e-2, .warmup_steps = 0}; }
  [[nodiscard]] const ModelLayout& layout() const override { return layout_; }
  [[nodiscard]] std::shared_ptr<torch::nn::Module> module() const override { return network_.ptr(); }
  [[nodiscard]] std::span<const Stage> line() const override { return line_; }
  [[nodiscard]] std::size_t first_draw_stage() const override { return 2; }

  [[nodiscard]] PrefixState begin_without_images(const Batch& batch) const override {
    PrefixState state;
    state.set("state", batch.at("observation.state"));
    return state;
  }
  [[nodiscard]] PrefixState begin(const Batch& batch) const override {
    PrefixState state = begin_without_images(batch);
    const at::Tensor& image = batch.at(camera_);
    const double scale = image.scalar_type() == at::kByte ? 1.0 / 255.0 : 1.0;
    state.set("pixels", image.to(at::kFloat).mul(scale).mean({2, 3}));
    return state;
  }
  [[nodiscard]] Draw draw(const Batch& batch, std::uint64_t seed, DrawPurpose purpose, std::uint64_t step,
                          std::int64_t draws) const override {
    const bool training = purpose == DrawPurpose::training;
    std::vector<at::Tensor> noise, time;
    for (const std::int64_t index : batch.indices) {
      for (std::int64_t k = 0; k < draws; ++k) {
        RandomKey key{.seed = seed,
                      .stream = training ? RandomStream::noise : RandomStream::evaluation_noise,
                      .step = step * static_cast<std::uint64_t>(draws) + static_cast<std::uint64_t>(k),
                      .sample = static_cast<std::uint64_t>(index)};
        noise.push_back(random_normal(key, {kChunk, kWidth}));
        key.stream = training ? RandomStream::time : RandomStream::evaluation_time;
        time.push_back(random_uniform(key, 1).to(at::kFloat).squeeze(0));
      }
    }
    if (draws == 1) return {.noise = at::stack(noise), .time = at::stack(time)};
    return {.noise = at::stack(noise).view({batch.size(), draws, kChunk, kWidth}),
            .time = at::stack(time).view({batch.size(), draws})};
  }
  void add_draw(PrefixState& state, const Batch& batch, const Draw& draw) const override {
    const at::Tensor noise = with_draws(draw.noise);
    const at::Tensor t = draw.time.view({noise.size(0), noise.size(1), 1, 1});
    state.set("noisy", t * noise + (1 - t) * batch.at("action").unsqueeze(1));
    state.set("time", t);
  }
  [[nodiscard]] at::Tensor loss(const PrefixState& state, const Batch& batch, const Draw& draw,
                                Reduction reduction) const override {
    const at::Tensor noise = with_draws(draw.noise);
    const at::Tensor keep = batch.at("action_is_pad").logical_not().to(at::kFloat).unsqueeze(1).unsqueeze(-1);
    const at::Tensor errors = (state.at("velocity") - (noise - batch.at("action").unsqueeze(1))).square() * keep;
    const std::int64_t each = kWidth * noise.size(1);
    if (reduction == Reduction::none) return errors.sum({1, 2, 3}) / (keep.sum({1, 2, 3}) * each).clamp_min(1.0);
    return errors.sum() / (keep.sum() * each).clamp_min(1.0);
  }
  [[nodiscard]] at::Tensor sample(const Batch& batch, const at::Tensor& noise) const override {
    PrefixState state = begin(batch);
    run_frozen_stages(line_, 0, first_draw_stage(), state);
    return sample_from(std::move(state), noise);
  }
  [[nodiscard]] at::Tensor sample_from(PrefixState state, const at::Tensor& noise) const override {
    const at::NoGradGuard no_grad;
    state.set("noisy", noise.unsqueeze(1));
    state.set("time", at::ones({noise.size(0), 1, 1, 1}));
    run_stages(line_, first_draw_stage(), line_.size(), state);
    return noise - state.at("velocity").squeeze(1);
  }
  [[nodiscard]] Json config_json() const override { return {{"type", "fake"}}; }
  [[nodiscard]] std::map<std::string, at::Tensor> read_again(std::span<const std::string> names) const override {
    std::map<std::string, at::Tensor> tensors;
    for (const std::string& name : names) tensors[name] = saved_.at(name).clone();
    return tensors;
  }
  /// As if it had been loaded from a folder that holds its present weights: they can be read again.
  void remember_weights() {
    for (const auto& item : network_->named_parameters()) saved_[item.key()] = item.value().detach().clone();
    source_ = "fake";
  }
  void save_pretrained(const std::filesystem::path& /*folder*/) const override {}

  /// Grad mode that each stage last ran under.
  [[nodiscard]] const std::map<std::string, bool>& grad_modes() const { return *grad_modes_; }
  /// Samples that each stage last ran on.
  [[nodiscard]] const std::map<std::string, std::int64_t>& samples_at_a_time() const { return *samples_; }
  [[nodiscard]] FreezePlan plan(const std::string& rules) const {
    return LayerFreezePolicy::parse(rules).resolve(layout_);
  }

 private:
  static at::Tensor with_draws(const at::Tensor& noise) { return noise.dim() == 4 ? noise : noise.unsqueeze(1); }

  void describe() {
    layout_.type = "fake";
    for (const auto& item : network_->named_parameters()) {
      layout_.parameters.push_back({.name = item.key(), .shape = item.value().sizes().vec()});
    }
    const auto stage = [](const std::string& name, std::vector<std::string> reads, const std::string& writes) {
      return StageInfo{.name = name,
                       .reads = std::move(reads),
                       .writes = {writes},
                       .parameters = {name + ".weight", name + ".bias"},
                       .flops = 100};
    };
    layout_.line = {stage("eyes", {"pixels"}, "seen"), stage("body", {"seen", "state"}, "features"),
                    stage("hand", {"features", "noisy", "time"}, "velocity")};
    layout_.line[0].cut = "vision";
    layout_.line[1].cut = "kv";
    layout_.output_key = "velocity";
    layout_.image_inputs = {"pixels"};
  }

  void build_line() {
    const auto with_code = [this](std::size_t index, std::function<void(PrefixState&)> run) {
      const StageInfo& info = layout_.line[index];
      line_.push_back({.info = info,
                       .run = [run = std::move(run), name = info.name, result = info.writes.front(),
                               modes = grad_modes_, samples = samples_](PrefixState& state) {
                         (*modes)[name] = at::GradMode::is_enabled();
                         run(state);
                         (*samples)[name] = state.at(result).size(0);
                       }});
    };
    Network network = network_;
    with_code(0,
              [network](PrefixState& s) mutable { s.set("seen", at::tanh(network->eyes->forward(s.at("pixels")))); });
    with_code(1, [network](PrefixState& s) mutable {
      s.set("features", at::tanh(network->body->forward(at::cat({s.at("seen").to(at::kFloat), s.at("state")}, -1))));
    });
    with_code(2, [network](PrefixState& s) mutable {
      const at::Tensor& noisy = s.at("noisy");
      const std::int64_t draws = noisy.size(1);
      const at::Tensor features = s.at("features").to(at::kFloat).unsqueeze(1).unsqueeze(1);
      const at::Tensor time = s.at("time").expand({-1, -1, kChunk, 1});
      s.set("velocity", network->hand->forward(at::cat({features.expand({-1, draws, kChunk, -1}), noisy, time}, -1)));
    });
  }

  std::string camera_;
  std::map<std::string, at::Tensor> saved_;
  Network network_;
  ModelLayout layout_;
  std::vector<Stage> line_;
  Features inputs_, outputs_;
  std::shared_ptr<std::map<std::string, bool>> grad_modes_ = std::make_shared<std::map<std::string, bool>>();
  std::shared_ptr<std::map<std::string, std::int64_t>> samples_ =
      std::make_shared<std::map<std::string, std::int64_t>>();
};

}  // namespace thaw::toy
