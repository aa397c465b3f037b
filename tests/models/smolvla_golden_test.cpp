// SmolVLA against recordings of the reference implementation.
#include "support/golden.h"
#include "support/temporary_folder.h"
#include "thaw/models/registry.h"
#include "thaw/models/smolvla/inputs.h"
#include "thaw/models/smolvla/layout.h"
#include "thaw/models/smolvla/sequence.h"
#include "thaw/nn/linear.h"
#include "thaw/policy/run.h"

namespace thaw {
namespace {

namespace fs = std::filesystem;
using golden::Report;

// A golden set read whole, and the policy it was recorded from.
class GoldenSet {
 public:
  explicit GoldenSet(const fs::path& folder)
      : meta(read_json(folder / "meta.json")),
        inputs(read_safetensors(folder / "inputs.safetensors")),
        outputs(read_safetensors(folder / "outputs.safetensors")),
        config(parse_smolvla_config(read_json(folder / "config.json"), read_json(folder / "vlm_config.json"),
                                    folder.string())),
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
  [[nodiscard]] std::int64_t rows() const { return output("prefix.pad_mask").size(1) - right_pads() - 1; }
  [[nodiscard]] std::int64_t prefix_length() const { return output("prefix.pad_mask").size(1); }

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
  SmolVLAConfig config;
  std::string name;
  std::shared_ptr<Policy> policy;

 private:
  // Rows behind the state: the state's row is the only one with block flag 1.
  [[nodiscard]] std::int64_t right_pads() const {
    const at::Tensor flags = output("prefix.att_mask")[0].to(at::kLong);
    return flags.size(0) - 1 - flags.argmax().item<std::int64_t>();
  }

  testing_support::TemporaryFolder checkpoint_;
};

void ignore_stage(const PrefixState&, const std::string&) {}

std::int64_t number_behind(const std::string& name, const std::string& prefix) {
  if (name.rfind(prefix, 0) != 0 || name.size() == prefix.size()) return -1;
  const std::string digits = name.substr(prefix.size());
  if (!std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isdigit(c) != 0; })) return -1;
  return std::stoll(digits);
}

// Rows of A that are real. x (B, N, …)
at::Tensor valid(const at::Tensor& x, const at::Tensor& row_mask) { return x.index({row_mask}); }

std::vector<std::string> names_in(const Json& list) { return list.get<std::vector<std::string>>(); }

std::vector<std::string> trainable_names(const ModelLayout& layout) {
  std::vector<std::string> names;
  for (const ParameterInfo& parameter : layout.parameters) {
    if (parameter.trainable_by_default) names.push_back(parameter.name);
  }
  return names;
}

TEST(SmolVLAGolden, ParameterNamesOrderAndFreezingFlagsEqualTheReference) {
  golden::for_each_set("smolvla", "meta.json", [](const fs::path& folder) {
    GoldenSet set(folder);
    std::vector<std::string> names;
    for (const auto& parameter : set.policy->module()->named_parameters()) names.push_back(parameter.key());
    EXPECT_EQ(names, names_in(set.meta["parameter_order"]));
    for (const char* mode : {"full", "expert_only"}) {
      SmolVLAConfig config = set.config;
      config.train_expert_only = config.freeze_vision_encoder = std::string(mode) == "expert_only";
      EXPECT_EQ(trainable_names(smolvla_layout(config)), names_in(set.meta["modes"][mode]["trainable"])) << mode;
    }
  });
}

TEST(SmolVLAGolden, CamerasVisionTowerAndConnectorEqualTheReference) {
  golden::for_each_set("smolvla", "meta.json", [](const fs::path& folder) {
    GoldenSet set(folder);
    Report report(set.name);
    const auto expect_images = [&](const std::string& quantity, const std::string& key, const at::Tensor& stacked) {
      for (std::int64_t c = 0; c < stacked.size(1); ++c) {
        const std::string name = fmt::format("image.{}.{}", c, key);
        report.expect_forward(quantity, name, stacked.select(1, c), set.output(name));
      }
      EXPECT_EQ(set.outputs.count(fmt::format("image.{}.{}", stacked.size(1), key)), 0U) << "a camera is missing";
    };
    const PrefixState begun = set.policy->begin(set.batch());
    for (std::int64_t c = 0; c < begun.at("pixels").size(1); ++c) {
      const std::string name = fmt::format("image.{}", c);
      report.expect("pixels", name, begun.at("pixels").select(1, c), set.output(name + ".pixels"),
                    {.absolute = golden::kPixels});
      report.expect_exact(name + ".mask", begun.at("camera_mask").select(1, c), set.output(name + ".mask"));
    }
    set.run(ignore_stage, [&](const PrefixState& state, const std::string& stage) {
      if (stage == "vision.post") expect_images("vision", "vision", state.at("vision.hidden"));
      if (stage == "connector") expect_images("image tokens", "tokens", state.at("image_tokens"));
    });
  });
}

TEST(SmolVLAGolden, MasksAndPositionsEqualTheReferenceExactly) {
  golden::for_each_set("smolvla", "meta.json", [](const fs::path& folder) {
    GoldenSet set(folder);
    Report report(set.name);
    const std::int64_t rows = set.rows();
    const std::int64_t prefix = set.prefix_length();
    const std::int64_t chunk = set.config.chunk_size;
    const PrefixState state = set.run(ignore_stage, ignore_stage);
    const at::Tensor& row_mask = state.at("A.mask");
    report.expect_exact("prefix.pad_mask", row_mask, set.output("prefix.pad_mask").narrow(1, 0, rows));
    EXPECT_FALSE(set.output("prefix.pad_mask").narrow(1, rows + 1, prefix - rows - 1).any().item<bool>());

    const at::Tensor& positions = set.output("position_ids");
    report.expect_exact("positions of A", smolvla::row_positions(row_mask), positions.narrow(1, 0, rows));
    report.expect_exact("position of the state", smolvla::state_position(row_mask), positions.narrow(1, rows, 1));
    report.expect_exact("positions of the suffix", smolvla::suffix_positions(row_mask, chunk),
                        positions.narrow(1, prefix, chunk));

    // Joint mask: rows and columns [A | state | right pads | suffix].
    const at::Tensor& joint = set.output("attention_mask");
    const at::Tensor pairs = row_mask.unsqueeze(1) & row_mask.unsqueeze(2);
    report.expect_exact("A sees A", pairs, joint.narrow(1, 0, rows).narrow(2, 0, rows));
    EXPECT_FALSE(joint.narrow(1, 0, rows).narrow(2, rows, prefix + chunk - rows).any().item<bool>());
    report.expect_exact("the state sees the prefix", state.at("prefix.mask"),
                        joint.narrow(1, rows, 1).narrow(2, 0, rows + 1));
    const at::Tensor suffix = joint.narrow(1, prefix, chunk);
    report.expect_exact("the suffix sees", state.at("suffix.mask"),
                        at::cat({suffix.narrow(2, 0, rows + 1), suffix.narrow(2, prefix, chunk)}, 2));
  });
}

TEST(SmolVLAGolden, PrefixEmbeddingHiddenStatesKeysAndValuesEqualTheReferenceOnValidRows) {
  golden::for_each_set("smolvla", "meta.json", [](const fs::path& folder) {
    GoldenSet set(folder);
    Report report(set.name);
    const std::int64_t rows = set.rows();
    const auto before = [&](const PrefixState& state, const std::string& stage) {
      if (const std::int64_t i = number_behind(stage, "A.language."); i >= 0) {
        const at::Tensor expected = set.output(fmt::format("prefix.hidden.{}", i)).narrow(1, 0, rows);
        report.expect_forward("prefix hidden", stage, valid(state.at("A.hidden"), state.at("A.mask")),
                              valid(expected, state.at("A.mask")));
      }
      if (const std::int64_t i = number_behind(stage, "B.language."); i >= 0) {
        report.expect_forward("prefix hidden", stage, state.at("B.hidden"),
                              set.output(fmt::format("prefix.hidden.{}", i)).narrow(1, rows, 1));
      }
    };
    const auto after = [&](const PrefixState& state, const std::string& stage) {
      if (stage != "prefix.embed") return;
      report.expect_forward("prefix embedding", stage, state.at("A.hidden"),
                            set.output("prefix.embs").narrow(1, 0, rows));
    };
    const PrefixState state = set.run(before, after);
    for (std::int64_t i = 0; i <= set.config.last_language_layer(); ++i) {
      for (const char* kind : {"key", "value"}) {
        const at::Tensor expected = set.output(fmt::format("sample.prefix.{}.{}", i, kind));
        const at::Tensor actual = state.at(fmt::format("A.{}.{}", kind, i));
        report.expect_forward("prefix keys and values", fmt::format("A.{}.{}", kind, i),
                              valid(actual.transpose(1, 2), state.at("A.mask")),
                              valid(expected.narrow(2, 0, rows).transpose(1, 2), state.at("A.mask")));
        report.expect_forward("prefix keys and values", fmt::format("B.{}.{}", kind, i),
                              state.at(fmt::format("B.{}.{}", kind, i)), expected.narrow(2, rows, 1));
      }
    }
  });
}

TEST(SmolVLAGolden, SuffixHiddenStatesAndVelocityEqualTheReference) {
  golden::for_each_set("smolvla", "meta.json", [](const fs::path& folder) {
    GoldenSet set(folder);
    Report report(set.name);
    report.expect("time embedding (float64)", "suffix.time_embedding_f64",
                  smolvla::time_embedding(set.inputs.at("time"), set.config.expert_hidden(), set.config.min_period,
                                          set.config.max_period),
                  set.output("suffix.time_embedding_f64"), {.absolute = 1e-9});
    const PrefixState state = set.run(
        [&](const PrefixState& before, const std::string& stage) {
          const std::int64_t e = number_behind(stage, "suffix.");
          if (e < 0) return;
          report.expect_forward("suffix hidden", stage, before.at("suffix.hidden"),
                                set.output(fmt::format("suffix.hidden.{}", e)));
        },
        [&](const PrefixState& after, const std::string& stage) {
          if (stage != "suffix.embed") return;
          report.expect_forward("suffix embedding", stage, after.at("suffix.hidden"), set.output("suffix.embs"));
        });
    report.expect_forward("suffix hidden", "last", state.at("suffix.hidden"),
                          set.output(fmt::format("suffix.hidden.{}", set.config.expert_layers())));
    const at::Tensor weight = set.policy->module()->named_parameters()["model.vlm_with_expert.lm_expert.norm.weight"];
    const at::Tensor normed = nn::rms_norm(state.at("suffix.hidden"), {weight, set.config.vlm.text.rms_norm_eps});
    report.expect_forward("suffix out", "suffix.norm_out", normed, set.output("suffix.norm_out"));
    report.expect_forward("suffix out", "suffix.out", normed, set.output("suffix.out"));
    report.expect_forward("velocity", "v_t", state.at("velocity"), set.output("v_t"));
  });
}

TEST(SmolVLAGolden, FlowTargetsAndLossesEqualTheReference) {
  golden::for_each_set("smolvla", "meta.json", [](const fs::path& folder) {
    GoldenSet set(folder);
    Report report(set.name);
    const PrefixState state = set.run(ignore_stage, ignore_stage);
    const at::Tensor actions = smolvla::action_target(set.config, set.batch());
    report.expect_forward("flow targets", "actions_padded", actions, set.output("actions_padded"));
    report.expect_forward("flow targets", "x_t", state.at("noisy_actions"), set.output("x_t"));
    report.expect_forward("flow targets", "u_t", set.draw().noise - actions, set.output("u_t"));
    report.expect_forward("elementwise loss", "loss.elementwise",
                          (set.draw().noise - actions - state.at("velocity")).square(), set.output("loss.elementwise"));
    for (const bool with_padding : {true, false}) {
      const std::string tail = with_padding ? "" : "_without_pad";
      const Batch batch = set.batch(with_padding);
      report.expect("losses", "loss.mean" + tail, set.policy->loss(state, batch, set.draw(), Reduction::mean),
                    set.output("loss.mean" + tail), {.relative = golden::kLoss});
      report.expect("losses", "loss.per_sample" + tail, set.policy->loss(state, batch, set.draw(), Reduction::none),
                    set.output("loss.per_sample" + tail), {.relative = golden::kLoss});
    }
  });
}

TEST(SmolVLAGolden, GradientsOfBothFreezingModesEqualTheReference) {
  golden::for_each_set("smolvla", "meta.json", [](const fs::path& folder) {
    GoldenSet set(folder);
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
  });
}

TEST(SmolVLAGolden, TenStepSamplingEqualsTheReference) {
  golden::for_each_set("smolvla", "meta.json", [](const fs::path& folder) {
    GoldenSet set(folder);
    Report report(set.name);
    const at::NoGradGuard no_grad;
    Batch batch = set.batch();
    batch.tensors.erase("action");
    batch.tensors.erase("action_is_pad");
    const at::Tensor noise = set.inputs.at("sample.noise");
    report.expect("sampled actions", "sample.actions", set.policy->sample(batch, noise), set.output("sample.actions"),
                  {.absolute = golden::kSample});

    // The same by hand, for the steps in between.
    const auto line = set.policy->line();
    const std::size_t first = set.policy->first_draw_stage();
    PrefixState state = set.policy->begin(batch);
    run_stages(line, 0, first, state);
    at::Tensor x = noise;
    for (std::int64_t s = 0; s < set.config.num_steps; ++s) {
      const at::Tensor time = at::full({noise.size(0)}, 1.0 - static_cast<double>(s) / 10.0, at::kFloat);
      state.set("noisy_actions", x);
      state.set("time", time);
      run_stages(line, first, line.size(), state);
      report.expect("sampling time", "sample.t", time[0], set.output("sample.t")[s], {.absolute = golden::kPixels});
      report.expect("sampled x", fmt::format("sample.x {}", s), x, set.output("sample.x")[s],
                    {.absolute = golden::kSample});
      report.expect_forward("sampled velocity", fmt::format("sample.v {}", s), state.at("velocity"),
                            set.output("sample.v")[s]);
      x = x + state.at("velocity") * (-0.1);
    }
  });
}

}  // namespace
}  // namespace thaw
