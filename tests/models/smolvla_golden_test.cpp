// SmolVLA against recordings of the reference implementation.
#include "models/golden_set.h"
#include "thaw/models/smolvla/inputs.h"
#include "thaw/models/smolvla/layout.h"
#include "thaw/models/smolvla/sequence.h"
#include "thaw/nn/linear.h"

namespace thaw::smolvla_golden_test {
namespace {

namespace fs = std::filesystem;
using golden::ignore_stage;
using golden::names_in;
using golden::number_behind;
using golden::Report;
using golden::trainable_names;
using golden::valid;

// A set and the configuration it was recorded with.
class GoldenSet : public golden::RecordedPolicy {
 public:
  explicit GoldenSet(const fs::path& folder)
      : RecordedPolicy(folder),
        config(parse_smolvla_config(read_json(folder / "config.json"), read_json(folder / "vlm_config.json"),
                                    folder.string())) {}

  [[nodiscard]] std::int64_t rows() const { return output("prefix.pad_mask").size(1) - right_pads() - 1; }
  [[nodiscard]] std::int64_t prefix_length() const { return output("prefix.pad_mask").size(1); }

  SmolVLAConfig config;

 private:
  // Rows behind the state: the state's row is the only one with block flag 1.
  [[nodiscard]] std::int64_t right_pads() const {
    const at::Tensor flags = output("prefix.att_mask")[0].to(at::kLong);
    return flags.size(0) - 1 - flags.argmax().item<std::int64_t>();
  }
};

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
  golden::for_each_set("smolvla", "meta.json",
                       [](const fs::path& folder) { golden::expect_cameras(GoldenSet(folder), "connector"); });
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
  golden::for_each_set("smolvla", "meta.json",
                       [](const fs::path& folder) { golden::expect_gradients(GoldenSet(folder)); });
}

TEST(SmolVLAGolden, TenStepSamplingEqualsTheReference) {
  golden::for_each_set("smolvla", "meta.json",
                       [](const fs::path& folder) { golden::expect_sampling(GoldenSet(folder)); });
}

}  // namespace
}  // namespace thaw::smolvla_golden_test
