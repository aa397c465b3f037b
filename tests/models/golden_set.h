// A golden set of intermediates read whole, and the policy it was recorded from.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "support/golden.h"
#include "support/temporary_folder.h"
#include "thaw/models/registry.h"
#include "thaw/policy/run.h"

namespace thaw::golden {

class RecordedPolicy {
 public:
  explicit RecordedPolicy(const fs::path& folder)
      : meta(read_json(folder / "meta.json", {.max_depth = 64})),
        inputs(read_safetensors(folder / "inputs.safetensors")),
        outputs(read_safetensors(folder / "outputs.safetensors")),
        name(folder.filename().string()) {
    fs::create_symlink(fs::absolute(folder / "weights.safetensors"), checkpoint_.path() / "model.safetensors");
    fs::copy_file(folder / "config.json", checkpoint_.path() / "config.json");
    fs::copy_file(folder / "vlm_config.json", checkpoint_.path() / "vlm_config.json");
    policy = load_policy(checkpoint_.path());
  }

  // The batch as the policy's forward gets it.
  [[nodiscard]] Batch batch(bool with_padding = true) const {
    Batch batch;
    for (const auto& [key, tensor] : inputs) {
      const bool draw = key == "noise" || key == "time" || key == "sample.noise";
      if (!draw && (with_padding || key != "action_is_pad")) batch.tensors[key] = tensor;
    }
    for (std::int64_t i = 0; i < inputs.at("time").size(0); ++i) batch.indices.push_back(i);
    batch.tasks.resize(batch.indices.size());
    return batch;
  }

  [[nodiscard]] Draw draw() const { return {.noise = inputs.at("noise"), .time = inputs.at("time")}; }
  [[nodiscard]] const at::Tensor& output(const std::string& key) const { return outputs.at(key); }
  [[nodiscard]] const fs::path& checkpoint() const { return checkpoint_.path(); }

  // Runs the line, calling `before(state, stage)` ahead of every stage and `after` behind it.
  template <class Before, class After>
  PrefixState run(Before before, After after) const {
    const Batch inputs_batch = batch();
    PrefixState state = policy->begin(inputs_batch);
    policy->add_draw(state, inputs_batch, draw());
    for (const Stage& stage : policy->line()) {
      before(state, stage.info.name);
      stage.run(state);
      after(state, stage.info.name);
    }
    return state;
  }

  Json meta;
  std::map<std::string, at::Tensor> inputs;
  std::map<std::string, at::Tensor> outputs;
  std::string name;
  std::shared_ptr<Policy> policy;

 private:
  testing_support::TemporaryFolder checkpoint_;
};

inline void ignore_stage(const PrefixState&, const std::string&) {}

// 7 of "suffix.7"; -1 of another name.
inline std::int64_t number_behind(const std::string& name, const std::string& prefix) {
  if (name.rfind(prefix, 0) != 0 || name.size() == prefix.size()) return -1;
  const std::string digits = name.substr(prefix.size());
  if (!std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isdigit(c) != 0; })) return -1;
  return std::stoll(digits);
}

// Rows of a prefix that are real. x (B, N, …), row_mask (B, N)
inline at::Tensor valid(const at::Tensor& x, const at::Tensor& row_mask) { return x.index({row_mask}); }

inline std::vector<std::string> names_in(const Json& list) { return list.get<std::vector<std::string>>(); }

inline std::vector<std::string> trainable_names(const ModelLayout& layout) {
  std::vector<std::string> names;
  for (const ParameterInfo& parameter : layout.parameters) {
    if (parameter.trainable_by_default) names.push_back(parameter.name);
  }
  return names;
}

// Pixels, masks, tower and image tokens of every camera. `connector` is the stage behind the tower.
inline void expect_cameras(const RecordedPolicy& set, const std::string& connector) {
  Report report(set.name);
  const auto expect_images = [&](const std::string& quantity, const std::string& key, const at::Tensor& stacked) {
    for (std::int64_t c = 0; c < stacked.size(1); ++c) {
      const std::string name = "image." + std::to_string(c) + "." + key;
      report.expect_forward(quantity, name, stacked.select(1, c), set.output(name));
    }
    EXPECT_EQ(set.outputs.count("image." + std::to_string(stacked.size(1)) + "." + key), 0U) << "a camera is missing";
  };
  const PrefixState begun = set.policy->begin(set.batch());
  for (std::int64_t c = 0; c < begun.at("pixels").size(1); ++c) {
    const std::string name = "image." + std::to_string(c);
    report.expect("pixels", name, begun.at("pixels").select(1, c), set.output(name + ".pixels"), {.absolute = kPixels});
    report.expect_exact(name + ".mask", begun.at("camera_mask").select(1, c), set.output(name + ".mask"));
  }
  set.run(ignore_stage, [&](const PrefixState& state, const std::string& stage) {
    if (stage == "vision.post") expect_images("vision", "vision", state.at("vision.hidden"));
    if (stage == connector) expect_images("image tokens", "tokens", state.at("image_tokens"));
  });
}

// Losses and gradients of the freezing modes that meta.json records.
inline void expect_gradients(const RecordedPolicy& set) {
  Report report(set.name);
  for (const std::string mode : {"full", "expert_only"}) {
    auto parameters = set.policy->module()->named_parameters();
    const std::vector<std::string> trainable = names_in(set.meta["modes"][mode]["trainable"]);
    const std::vector<std::string> silent = names_in(set.meta["modes"][mode]["trainable_without_gradient"]);
    for (auto& parameter : parameters) {
      parameter.value().mutable_grad().reset();
      parameter.value().set_requires_grad(false);
    }
    for (const std::string& name : trainable) parameters[name].set_requires_grad(true);
    const PrefixState state = set.run(ignore_stage, ignore_stage);
    set.policy->loss(state, set.batch(), set.draw(), Reduction::mean).backward();
    for (const std::string& name : trainable) {
      const at::Tensor& gradient = parameters[name].grad();
      const bool expect_none = std::find(silent.begin(), silent.end(), name) != silent.end();
      EXPECT_EQ(gradient.defined(), !expect_none) << mode << " " << name;
      const std::string stored = set.outputs.contains("grad." + mode + "/" + name) ? mode : "full";
      if (!gradient.defined() || expect_none) continue;
      report.expect_gradient("gradients, " + mode, name, gradient, set.output("grad." + stored + "/" + name));
    }
  }
}

// The ten denoising steps, and the whole.
inline void expect_sampling(const RecordedPolicy& set) {
  Report report(set.name);
  const at::NoGradGuard no_grad;
  Batch batch = set.batch();
  batch.tensors.erase("action");
  batch.tensors.erase("action_is_pad");
  const at::Tensor noise = set.inputs.at("sample.noise");
  report.expect("sampled actions", "sample.actions", set.policy->sample(batch, noise), set.output("sample.actions"),
                {.absolute = kSample});

  // The same by hand, for the steps in between.
  const auto line = set.policy->line();
  const std::size_t first = set.policy->first_draw_stage();
  const std::int64_t steps = set.output("sample.t").size(0);
  PrefixState state = set.policy->begin(batch);
  run_stages(line, 0, first, state);
  at::Tensor x = noise;
  for (std::int64_t s = 0; s < steps; ++s) {
    const at::Tensor time = at::full({noise.size(0)}, 1.0 - static_cast<double>(s) / static_cast<double>(steps));
    state.set("noisy_actions", x);
    state.set("time", time.to(at::kFloat));
    run_stages(line, first, line.size(), state);
    const std::string number = std::to_string(s);
    report.expect("sampling time", "sample.t", state.at("time")[0], set.output("sample.t")[s], {.absolute = kPixels});
    report.expect("sampled x", "sample.x " + number, x, set.output("sample.x")[s], {.absolute = kSample});
    report.expect_forward("sampled velocity", "sample.v " + number, state.at("velocity"), set.output("sample.v")[s]);
    x = x + state.at("velocity") * (-1.0 / static_cast<double>(steps));
  }
}

}  // namespace thaw::golden
