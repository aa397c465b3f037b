// pi0 and pi0.5 against recordings of the reference implementation.
#include "models/golden_set.h"
#include "thaw/models/pi0/inputs.h"
#include "thaw/models/pi0/layout.h"
#include "thaw/models/pi0/sequence.h"
#include "thaw/nn/gemma.h"

namespace thaw::pi0_golden_test {
namespace {

namespace fs = std::filesystem;
using golden::ignore_stage;
using golden::names_in;
using golden::number_behind;
using golden::Report;
using golden::valid;

// A set and the configuration it was recorded with.
class GoldenSet : public golden::RecordedPolicy {
 public:
  explicit GoldenSet(const fs::path& folder)
      : RecordedPolicy(folder),
        config(parse_pi0_config(read_json(folder / "config.json"), read_json(folder / "vlm_config.json"),
                                folder.string())) {}

  [[nodiscard]] std::int64_t rows() const { return output("prefix.pad_mask").size(1); }
  [[nodiscard]] std::int64_t state_rows() const { return config.state_rows(); }

  Pi0Config config;
};

class PiGolden : public testing::TestWithParam<std::string> {
 protected:
  static void for_each_set(const std::function<void(const GoldenSet&)>& check) {
    golden::for_each_set(GetParam(), "meta.json", [&check](const fs::path& folder) { check(GoldenSet(folder)); });
  }
};

INSTANTIATE_TEST_SUITE_P(Versions, PiGolden, testing::Values("pi0", "pi05"),
                         [](const auto& type) { return type.param; });

TEST_P(PiGolden, ParameterNamesOrderAndFreezingFlagsEqualTheReference) {
  for_each_set([](const GoldenSet& set) {
    std::vector<std::string> names;
    for (const auto& parameter : set.policy->module()->named_parameters()) names.push_back(parameter.key());
    EXPECT_EQ(names, names_in(set.meta["parameter_order"]));
    for (const char* mode : {"full", "expert_only"}) {
      Pi0Config config = set.config;
      config.tied_embedding = false;  // the recorded files hold the embedding and lm_head
      config.train_expert_only = config.freeze_vision_encoder = std::string(mode) == "expert_only";
      EXPECT_EQ(golden::trainable_names(pi0_layout(config)), names_in(set.meta["modes"][mode]["trainable"])) << mode;
    }
  });
}

TEST_P(PiGolden, CamerasVisionTowerAndProjectorEqualTheReference) {
  for_each_set([](const GoldenSet& set) { golden::expect_cameras(set, "projector"); });
}

TEST_P(PiGolden, MasksAndPositionsEqualTheReferenceExactly) {
  for_each_set([](const GoldenSet& set) {
    Report report(set.name);
    const std::int64_t rows = set.rows();
    const std::int64_t state_rows = set.state_rows();
    const std::int64_t chunk = set.config.chunk_size;
    const PrefixState state = set.run(ignore_stage, ignore_stage);
    const at::Tensor& row_mask = state.at("prefix.rows");
    report.expect_exact("prefix.pad_mask", row_mask, set.output("prefix.pad_mask"));

    const at::Tensor& positions = set.output("position_ids");
    report.expect_exact("positions of the prefix", models::row_positions(row_mask), positions.narrow(1, 0, rows));
    report.expect_exact("position of the state", models::state_position(row_mask), positions.narrow(1, rows, 1));
    report.expect_exact("positions of the actions", pi0::suffix_positions(row_mask, state_rows, chunk),
                        positions.narrow(1, rows + state_rows, chunk));

    // Joint mask: rows and columns [prefix | state, in pi0 | actions].
    const at::Tensor& joint = set.output("attention_mask");
    const at::Tensor pairs = row_mask.unsqueeze(1) & row_mask.unsqueeze(2);
    report.expect_exact("the prefix sees itself", pairs, joint.narrow(1, 0, rows).narrow(2, 0, rows));
    EXPECT_FALSE(joint.narrow(1, 0, rows).narrow(2, rows, state_rows + chunk).any().item<bool>());
    report.expect_exact("an action sees", state.at("suffix.mask"), joint.narrow(1, rows + state_rows, chunk));
    if (state_rows == 0) return;
    report.expect_exact("the state sees", state.at("state.mask"),
                        joint.narrow(1, rows, 1).narrow(2, 0, rows + state_rows));
    EXPECT_FALSE(joint.narrow(1, rows, 1).narrow(2, rows + 1, chunk).any().item<bool>());
  });
}

TEST_P(PiGolden, PrefixEmbeddingHiddenStatesKeysAndValuesEqualTheReference) {
  for_each_set([](const GoldenSet& set) {
    Report report(set.name);
    const auto before = [&](const PrefixState& state, const std::string& stage) {
      const std::int64_t i = number_behind(stage, "language.");
      if (i < 0) return;
      // Masked rows of the joint run see the suffix; nobody reads them.
      const at::Tensor& mask = state.at("prefix.rows");
      report.expect_forward("prefix hidden", stage, valid(state.at("prefix.hidden"), mask),
                            valid(set.output(fmt::format("prefix.hidden.{}", i)), mask));
    };
    const auto after = [&](const PrefixState& state, const std::string& stage) {
      if (stage != "prefix.embed") return;
      report.expect_forward("prefix embedding", stage, state.at("prefix.hidden"), set.output("prefix.embs"));
    };
    const PrefixState state = set.run(before, after);
    for (std::int64_t i = 0; i < set.config.blocks(); ++i) {
      for (const char* kind : {"key", "value"}) {
        const std::string name = fmt::format("prefix.{}.{}", kind, i);
        const at::Tensor& mask = state.at("prefix.rows");
        report.expect_forward("prefix keys and values", name, valid(state.at(name).transpose(1, 2), mask),
                              valid(set.output(fmt::format("sample.prefix.{}.{}", i, kind)).transpose(1, 2), mask));
      }
    }
  });
}

TEST_P(PiGolden, TimeAndConditionEqualTheReference) {
  for_each_set([](const GoldenSet& set) {
    Report report(set.name);
    report.expect("time embedding (float64)", "suffix.time_embedding_f64",
                  models::time_embedding(set.inputs.at("time"), set.config.sizes.expert.width, set.config.min_period,
                                         set.config.max_period),
                  set.output("suffix.time_embedding_f64"), {.absolute = 1e-9});
    EXPECT_EQ(set.outputs.contains("suffix.adarms_cond"), set.config.is_pi05());
    if (!set.config.is_pi05()) return;
    const PrefixState state = set.run(ignore_stage, ignore_stage);
    report.expect_forward("condition", "suffix.adarms_cond", state.at("condition").select(1, 0),
                          set.output("suffix.adarms_cond"));
  });
}

TEST_P(PiGolden, SuffixHiddenStatesAndVelocityEqualTheReference) {
  for_each_set([](const GoldenSet& set) {
    Report report(set.name);
    const std::int64_t state_rows = set.state_rows();
    const std::int64_t chunk = set.config.chunk_size;
    const auto actions = [&](const at::Tensor& suffix) { return suffix.narrow(1, state_rows, chunk); };
    const auto before = [&](const PrefixState& state, const std::string& stage) {
      if (const std::int64_t i = number_behind(stage, "suffix."); i >= 0) {
        report.expect_forward("suffix hidden", stage, state.at("suffix.hidden"),
                              actions(set.output(fmt::format("suffix.hidden.{}", i))));
      }
      if (const std::int64_t i = number_behind(stage, "state."); i >= 0) {
        report.expect_forward("suffix hidden", stage, state.at("state.hidden"),
                              set.output(fmt::format("suffix.hidden.{}", i)).narrow(1, 0, 1));
      }
    };
    const auto after = [&](const PrefixState& state, const std::string& stage) {
      if (stage != "suffix.embed") return;
      report.expect_forward("suffix embedding", stage, state.at("suffix.hidden"), actions(set.output("suffix.embs")));
    };
    const PrefixState state = set.run(before, after);
    report.expect_forward("suffix hidden", "last", state.at("suffix.hidden"),
                          actions(set.output(fmt::format("suffix.hidden.{}", set.config.blocks()))));
    const nn::GemmaNorm norm = nn::find_gemma_norm(set.policy->module()->named_parameters(),
                                                   "model.paligemma_with_expert.gemma_expert.model.norm", 1e-6);
    const at::Tensor condition = set.config.is_pi05() ? state.at("condition") : at::Tensor();
    const at::Tensor normed = nn::gemma_norm(state.at("suffix.hidden"), norm, condition).rows;
    report.expect_forward("suffix out", "suffix.norm_out", normed, actions(set.output("suffix.norm_out")));
    report.expect_forward("suffix out", "suffix.out", normed, set.output("suffix.out"));
    report.expect_forward("velocity", "v_t", state.at("velocity"), set.output("v_t"));
  });
}

TEST_P(PiGolden, FlowTargetsAndLossesEqualTheReferenceAndPaddedStepsCount) {
  for_each_set([](const GoldenSet& set) {
    Report report(set.name);
    const PrefixState state = set.run(ignore_stage, ignore_stage);
    const at::Tensor actions = pi0::action_target(set.config, set.batch());
    report.expect_forward("flow targets", "actions_padded", actions, set.output("actions_padded"));
    report.expect_forward("flow targets", "x_t", state.at("noisy_actions"), set.output("x_t"));
    report.expect_forward("flow targets", "u_t", set.draw().noise - actions, set.output("u_t"));
    report.expect_forward("elementwise loss", "loss.elementwise",
                          (set.draw().noise - actions - state.at("velocity")).square(), set.output("loss.elementwise"));
    ASSERT_TRUE(set.batch().at("action_is_pad").any().item<bool>());
    for (const bool with_padding : {true, false}) {
      const Batch batch = set.batch(with_padding);
      report.expect("losses", "loss.mean", set.policy->loss(state, batch, set.draw(), Reduction::mean),
                    set.output("loss.mean"), {.relative = golden::kLoss});
      report.expect("losses", "loss.per_sample", set.policy->loss(state, batch, set.draw(), Reduction::none),
                    set.output("loss.per_sample"), {.relative = golden::kLoss});
    }
  });
}

TEST_P(PiGolden, GradientsOfBothFreezingModesEqualTheReference) {
  for_each_set([](const GoldenSet& set) { golden::expect_gradients(set); });
}

TEST_P(PiGolden, TheLastLanguageBlocksQueryHasAGradientOfZeros) {
  for_each_set([](const GoldenSet& set) {
    const PrefixState state = set.run(ignore_stage, ignore_stage);
    set.policy->loss(state, set.batch(), set.draw(), Reduction::mean).backward();
    const std::string name =
        fmt::format("model.paligemma_with_expert.paligemma.model.language_model.layers.{}.self_attn.q_proj.weight",
                    set.config.blocks() - 1);
    const at::Tensor& gradient = set.policy->module()->named_parameters()[name].grad();
    ASSERT_TRUE(gradient.defined());
    EXPECT_EQ(gradient.count_nonzero().item<std::int64_t>(), 0);
    EXPECT_EQ(set.output("grad.full/" + name).count_nonzero().item<std::int64_t>(), 0);
  });
}

TEST_P(PiGolden, TenStepSamplingEqualsTheReference) {
  for_each_set([](const GoldenSet& set) { golden::expect_sampling(set); });
}

}  // namespace
}  // namespace thaw::pi0_golden_test
