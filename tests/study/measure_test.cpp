// The instrumented pass: that streams and gradients reach the measures, against the restatement in NumPy and by hand.
#include "thaw/study/measure.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn.h>

#include "core/throws.h"
#include "measures_golden.h"
#include "support/temporary_folder.h"
#include "thaw/core/error.h"
#include "thaw/freeze/block_stacks.h"
#include "thaw/tensor/random.h"

namespace thaw::measure_test {
namespace {

using test::expect_close;
using test::golden;
using test::golden_streams;
using test::message_of;
using testing::AllOf;
using testing::HasSubstr;
using testing::SizeIs;

at::Tensor noise(std::uint64_t number, at::IntArrayRef shape) {
  return random_normal({.seed = 12, .stream = RandomStream::test, .sample = number}, shape);
}

at::Tensor as_tensor(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }

/// Float32 on the way.
void expect_near(const std::vector<double>& actual, const at::Tensor& expected) {
  const Comparison comparison = compare_tensors(as_tensor(actual), expected, {.relative = 1e-5});
  EXPECT_TRUE(comparison.equal) << comparison.message;
}

// --- streams ---

constexpr std::int64_t kSamples = 9;
constexpr std::int64_t kRows = 10;  // of a sample

/// A layout of one stack without parameters: the golden states go through it.
ModelLayout stream_layout(std::int64_t blocks = 4) {
  return {.type = "toy", .stacks = {{.name = "layers", .prefix = "layers", .blocks = blocks}}};
}

/// Tells the golden states of a sample. The loss has the golden gradient by each state.
at::Tensor golden_pass(std::int64_t sample, StreamTap& tap) {
  const std::vector<at::Tensor> states = golden_streams();
  const auto of_sample = [sample](const at::Tensor& rows) {
    return rows.narrow(0, sample * kRows, kRows).unsqueeze(0).clone();
  };
  at::Tensor hidden = tap.before("layers", of_sample(states[0]));
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (std::int64_t block = 0; block < 4; ++block) {
    const auto next = static_cast<std::size_t>(block + 1);
    hidden = tap.after("layers", block, of_sample(states[next]) + 0.0 * hidden);
    loss = loss + (hidden * of_sample(golden("gradient/" + std::to_string(next)))).sum();
  }
  return loss;
}

TEST(MeasureModule, StreamsOfAllSamplesGiveTheGoldenMeasures) {
  torch::nn::Module module;
  const MeasureReport report = measure_module(module, stream_layout(), kSamples, golden_pass,
                                              {.gradients = true, .rows_per_sample = 0, .cka = {.rows = 32}});
  const StackMeasures& stack = report.stack("layers");
  ASSERT_THAT(stack.groups, SizeIs(1));
  const GroupMeasures& group = stack.group("all");
  EXPECT_EQ(group.name, "token");
  EXPECT_EQ(group.rows, 90);
  expect_close(group.cka.biased, golden("biased"));
  expect_close(group.cka.unbiased, golden("unbiased"));
  expect_close(group.cka.trimmed, golden("trimmed"));
  expect_close(as_tensor(group.concatenated), golden("concatenated"));
  expect_close(group.cosine, golden("cosine"));
  expect_close(group.angular, golden("angular"));
  expect_close(as_tensor(group.block_influence(4)), golden("block_influence"));
  expect_close(as_tensor(group.gate_probe), golden("gate_probe"));
}

TEST(MeasureModule, MassiveDimensionIsReportedForEveryState) {
  torch::nn::Module module;
  const MeasureReport report = measure_module(module, stream_layout(), kSamples, golden_pass, {.rows_per_sample = 0});
  ASSERT_THAT(report.stack("layers").massive, SizeIs(5));
  for (const MassiveDimension& massive : report.stack("layers").massive) {
    EXPECT_EQ(massive.dimension, 7);
    EXPECT_GT(massive.mean_square_ratio, 1000.0);
    EXPECT_GT(massive.variance_share, 0.9);
  }
  EXPECT_THAT(measure_table(report), HasSubstr("massive: group token, before block 0, dimension 7"));
}

TEST(MeasureModule, RowsOfASampleAreDrawnByTheSeedAlone) {
  torch::nn::Module module;
  const auto measured = [&module](std::uint64_t seed) {
    return measure_module(module, stream_layout(), kSamples, golden_pass,
                          {.rows_per_sample = 4, .cka = {.rows = 36}, .seed = seed})
        .stack("layers")
        .group("token");
  };
  const GroupMeasures first = measured(1);
  EXPECT_EQ(first.cka.rows, 36);
  EXPECT_EQ(first.rows, 90);
  EXPECT_TRUE(bitwise_equal(first.cka.unbiased, measured(1).cka.unbiased));
  EXPECT_FALSE(bitwise_equal(first.cka.unbiased, measured(2).cka.unbiased));
  EXPECT_TRUE(bitwise_equal(first.cosine, measured(2).cosine));  // of all rows
}

TEST(MeasureModule, GroupsAreMeasuredApartAndPaddingInNone) {
  torch::nn::Module module;
  const at::Tensor start = noise(0, {kSamples, 6, 8});
  const at::Tensor image = at::tensor({1, 1, 1, 0, 0, 0}).to(at::kBool).unsqueeze(0);
  const at::Tensor text = at::tensor({0, 0, 0, 1, 1, 0}).to(at::kBool).unsqueeze(0);  // the last row is padding
  const auto pass = [&](std::int64_t sample, StreamTap& tap) {
    const at::Tensor hidden = tap.before("layers", start.narrow(0, sample, 1),
                                         {{.name = "image", .rows = image}, {.name = "text", .rows = text}});
    at::Tensor turned = hidden.clone();
    turned.narrow(1, 3, 2).neg_();
    turned.narrow(1, 5, 1).fill_(1e6);
    tap.after("layers", 0, turned);
    return at::Tensor();
  };
  const StackMeasures stack = measure_module(module, stream_layout(1), kSamples, pass).stack("layers");
  ASSERT_THAT(stack.groups, SizeIs(3));
  EXPECT_EQ(stack.groups.front().name, "all");
  EXPECT_EQ(stack.group("all").rows, 5 * kSamples);
  EXPECT_NEAR(stack.group("image").block_influence(1).at(0), 0.0, 1e-12);
  EXPECT_NEAR(stack.group("text").block_influence(1).at(0), 2.0, 1e-12);
  EXPECT_NEAR(stack.group("all").block_influence(1).at(0), 0.8, 1e-12);
  EXPECT_THAT(stack.massive, SizeIs(0));
}

TEST(MeasureModule, PartsOfAStackAreOneStack) {
  torch::nn::Module module;
  const auto pass = [](std::int64_t sample, StreamTap& tap) {
    const auto number = static_cast<std::uint64_t>(sample);
    for (const std::string part : {"A", "B"}) {
      const at::Tensor rows = noise(number, {1, 2, 4});
      const at::Tensor whole = at::ones({1, 2}, at::kBool);
      tap.before("layers", rows, {{.name = part == "A" ? "image" : "state", .rows = whole}}, part);
      tap.after("layers", 0, part == "A" ? rows : -rows, part);
    }
    return at::Tensor();
  };
  const StackMeasures stack = measure_module(module, stream_layout(2), 3, pass).stack("layers");
  EXPECT_NEAR(stack.group("image").block_influence(2).at(0), 0.0, 1e-12);
  EXPECT_NEAR(stack.group("state").block_influence(2).at(0), 2.0, 1e-12);
  EXPECT_NEAR(stack.group("all").block_influence(2).at(0), 1.0, 1e-12);
  EXPECT_TRUE(std::isnan(stack.group("all").block_influence(2).at(1)));  // nobody told what block 1 gives
}

TEST(MeasureModule, RowsThatEndBeforeTheLastBlockDoNotHideItFromTheOthers) {
  torch::nn::Module module;
  const auto pass = [](std::int64_t sample, StreamTap& tap) {
    const auto number = static_cast<std::uint64_t>(sample);
    at::Tensor loss = at::zeros({});
    for (const std::string part : {"action", "state"}) {
      const at::Tensor rows = noise(number, {1, 2, 4});
      at::Tensor hidden = tap.before("layers", rows, {{.name = part, .rows = at::ones({1, 2}, at::kBool)}}, part);
      hidden = tap.after("layers", 0, 2.0 * hidden, part);
      if (part == "action") hidden = tap.after("layers", 1, -hidden, part);
      loss = loss + hidden.sum();
    }
    return loss;
  };
  const StackMeasures stack = measure_module(module, stream_layout(2), 3, pass, {.gradients = true}).stack("layers");
  EXPECT_NEAR(stack.group("action").block_influence(2).at(1), 2.0, 1e-12);
  EXPECT_TRUE(std::isnan(stack.group("state").block_influence(2).at(1)));
  EXPECT_NEAR(stack.group("all").block_influence(2).at(1), 2.0, 1e-12);
  EXPECT_EQ(stack.group("all").rows, 6);
  EXPECT_GT(stack.group("action").gate_probe.at(1), 0.0);
  EXPECT_TRUE(std::isnan(stack.group("state").gate_probe.at(1)));
  EXPECT_GT(stack.group("all").gate_probe.at(1), 0.0);
}

TEST(MeasureModule, SequentialIsTappedByItself) {
  struct Net : torch::nn::Module {
    Net() {
      layers = register_module(
          "layers", torch::nn::Sequential(torch::nn::Linear(6, 6), torch::nn::Linear(6, 6), torch::nn::Linear(6, 6)));
    }
    torch::nn::Sequential layers{nullptr};
  };
  const auto net = std::make_shared<Net>();
  const auto pass = [&net](std::int64_t sample, StreamTap& tap) {
    const at::Tensor rows = noise(static_cast<std::uint64_t>(sample), {1, 5, 6});
    return run_tapped(*net->layers, "layers", rows, tap).square().mean();
  };
  const MeasureReport report = measure_module(*net, layout_of(*net), 4, pass, {.gradients = true});
  EXPECT_EQ(report.type, "module");
  std::vector<std::string> names;
  for (const MeasureSeries& series : measure_series(report)) {
    names.push_back(series.measure);
    EXPECT_EQ(series.stack, "layers");
    ASSERT_THAT(series.values, SizeIs(3)) << series.measure;
    EXPECT_THAT(series.values, testing::Each(testing::Gt(0.0))) << series.measure;
  }
  EXPECT_THAT(names, testing::ElementsAre("block influence", "CKA distance", "GateProbe", "relative gradient norm",
                                          "Fisher information"));
}

// --- weights ---

/// Three blocks of the golden weights.
struct Weights : torch::nn::Module {
  explicit Weights(const std::string& golden_name) {
    const auto list = register_module("layers", std::make_shared<torch::nn::Module>());
    for (int block = 0; block < 3; ++block) {
      const auto part = list->register_module(std::to_string(block), std::make_shared<torch::nn::Module>());
      for (int matrix = 0; matrix < 2; ++matrix) {
        const std::string number = std::to_string(block) + "." + std::to_string(matrix);
        part->register_parameter(std::to_string(matrix), golden(golden_name + "/" + number).clone());
      }
    }
  }
};

/// A loss whose gradient by each weight is the golden one of the sample.
at::Tensor weight_loss(const torch::nn::Module& module, std::int64_t sample) {
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (const auto& item : module.named_parameters()) {
    const std::string number = item.key().substr(std::string("layers.").size());
    loss = loss + (item.value() * golden("weight_gradient/" + number)[sample]).sum();
  }
  return loss;
}

TEST(MeasureModule, GradientsOfWeightsGiveTheGoldenMeasures) {
  Weights weights("weight");
  const auto pass = [&weights](std::int64_t sample, StreamTap&) { return weight_loss(weights, sample); };
  const MeasureReport report =
      measure_module(weights, layout_of(weights), 7, pass, {.similarity = false, .gradients = true, .batch_size = 3});
  expect_near(report.stack("layers").fisher, golden("fisher"));
  expect_near(report.stack("layers").relative_gradient, golden("relative_gradient"));
}

TEST(AddDivergence, EqualsTheRestatement) {
  const Weights now("weight");
  const Weights base("base");
  const testing_support::TemporaryFolder folder;
  std::vector<NamedTensor> tensors;
  for (const auto& item : base.named_parameters())
    tensors.push_back({.name = item.key(), .tensor = item.value().detach()});
  write_safetensors(folder.path() / "model.safetensors", tensors);
  const ModelLayout layout = layout_of(now);
  MeasureReport report{.stacks = {{.name = "layers", .blocks = 3}}};
  add_divergence(report, layout, now, folder.path());
  expect_near(report.stack("layers").divergence, golden("divergence"));

  tensors.pop_back();
  write_safetensors(folder.path() / "model.safetensors", tensors);
  EXPECT_THAT(message_of<MismatchError>([&] { add_divergence(report, layout, now, folder.path()); }),
              AllOf(HasSubstr("layers.2.1"), HasSubstr("found none")));
}

TEST(MeasureModule, LeavesTheModuleAsItFoundIt) {
  Weights weights("weight");
  auto parameters = weights.named_parameters();
  parameters["layers.0.0"].set_requires_grad(false);
  parameters["layers.1.0"].mutable_grad() = at::ones_like(parameters["layers.1.0"]);
  weights.children().front()->eval();
  bool training = true;
  const auto pass = [&](std::int64_t sample, StreamTap&) {
    training = weights.is_training();
    return weight_loss(weights, sample);
  };
  static_cast<void>(measure_module(weights, layout_of(weights), 2, pass, {.similarity = false, .gradients = true}));
  EXPECT_FALSE(training);
  EXPECT_TRUE(weights.is_training());
  EXPECT_FALSE(weights.children().front()->is_training());
  EXPECT_FALSE(parameters["layers.0.0"].requires_grad());
  EXPECT_TRUE(parameters["layers.1.0"].requires_grad());
  EXPECT_TRUE(compare_tensors(parameters["layers.1.0"].grad(), at::ones_like(parameters["layers.1.0"].detach())));
  EXPECT_FALSE(parameters["layers.2.0"].grad().defined());
}

// --- what cannot be measured ---

std::string refusal(const TappedPass& pass, const MeasureOptions& options = {}, std::int64_t samples = 2) {
  torch::nn::Module module;
  return message_of<UsageError>(
      [&] { static_cast<void>(measure_module(module, stream_layout(), samples, pass, options)); });
}

TEST(MeasureModule, StackThatIsNotThereThrowsWithTheNearestNames) {
  EXPECT_THAT(refusal(golden_pass, {.stacks = {"layer"}}), HasSubstr("Did you mean 'layers'?"));
  EXPECT_THAT(refusal([](std::int64_t, StreamTap& tap) {
                return tap.before("layer", noise(0, {1, 2, 3}));
              }),
              HasSubstr("Did you mean 'layers'?"));
}

TEST(MeasureModule, StreamThatComesOutOfOrderOrOfSeveralSamplesThrows) {
  const at::Tensor rows = noise(0, {1, 2, 3});
  EXPECT_THAT(refusal([&](std::int64_t, StreamTap& tap) { return tap.after("layers", 0, rows); }),
              HasSubstr("expected before() first"));
  EXPECT_THAT(refusal([&](std::int64_t, StreamTap& tap) {
                tap.before("layers", rows);
                return tap.after("layers", 1, rows);
              }),
              HasSubstr("expected block 0 with the shape of the stream before it, (1, 2, 3), found block 1"));
  EXPECT_THAT(refusal([](std::int64_t, StreamTap& tap) {
                return tap.before("layers", noise(0, {2, 2, 3}));
              }),
              HasSubstr("of one sample, found (2, 2, 3)"));
}

TEST(MeasureModule, TooFewSamplesForTheUnbiasedEstimateThrow) {
  const auto one_row = [](std::int64_t sample, StreamTap& tap) {
    const at::Tensor row = noise(static_cast<std::uint64_t>(sample), {1, 1, 4});
    tap.before("layers", row);
    for (std::int64_t block = 0; block < 4; ++block) tap.after("layers", block, row);
    return at::Tensor();
  };
  EXPECT_THAT(refusal(one_row, {}, 3),
              AllOf(HasSubstr("unbiased CKA of 'layers', group 'token'"), HasSubstr("at least 4 rows, found 3 in all"),
                    HasSubstr("Give more calibration samples")));
  EXPECT_EQ(refusal(one_row, {}, 4), "(nothing was thrown)");
}

TEST(MeasureModule, LossThatDependsOnNothingThrows) {
  EXPECT_THAT(refusal([](std::int64_t, StreamTap&) { return at::zeros({}); }, {.gradients = true}),
              HasSubstr("a scalar that depends on a measured stack"));
}

TEST(MeasureOptions, OutOfRangeThrowNamingTheField) {
  EXPECT_THAT(message_of<UsageError>([] { MeasureOptions{.samples = 0}.validate(); }),
              HasSubstr("MeasureOptions.samples: expected 1..1000000, found 0"));
  EXPECT_THAT(message_of<UsageError>([] { MeasureOptions{.batch_size = 0}.validate(); }), HasSubstr("batch_size"));
}

TEST(CalibrationPositions, AreDifferentAscendingAndOfTheSeed) {
  const std::vector<std::int64_t> first = calibration_positions(100, 20, 1);
  EXPECT_THAT(first, SizeIs(20));
  EXPECT_TRUE(std::is_sorted(first.begin(), first.end()));
  EXPECT_EQ(std::adjacent_find(first.begin(), first.end()), first.end());
  EXPECT_EQ(first, calibration_positions(100, 20, 1));
  EXPECT_NE(first, calibration_positions(100, 20, 2));
  EXPECT_THAT(calibration_positions(3, 20, 1), testing::ElementsAre(0, 1, 2));
}

// --- what is written ---

TEST(MeasureReport, WritesWhatIsNoNumberAsNull) {
  torch::nn::Module module;
  const MeasureReport report = measure_module(module, stream_layout(5), kSamples, golden_pass, {.rows_per_sample = 0});
  const Json json = report.to_json();
  const Json& group = json["stacks"][0]["groups"][0];
  EXPECT_EQ(group["block_influence"].size(), 5U);
  EXPECT_TRUE(group["block_influence"][4].is_null());
  EXPECT_TRUE(group["block_influence"][3].is_number());
  EXPECT_EQ(group["cka"]["trimmed"].size(), 5U);
  EXPECT_EQ(json["stacks"][0]["massive_dimensions"].size(), 5U);
  EXPECT_EQ(json["importance"][0]["measure"], "block influence");
  EXPECT_EQ(json["importance"][0]["values"].size(), 5U);
  EXPECT_EQ(json["importance"][0]["values"][4], 0.0);
  EXPECT_NO_THROW(static_cast<void>(parse_json(json.dump(), "report")));
}

TEST(MeasureHtml, IsOnePageThatNeedsNothingElseAndEscapesNames) {
  torch::nn::Module module;
  MeasureReport report = measure_module(module, stream_layout(), kSamples, golden_pass, {.rows_per_sample = 0});
  report.stacks.front().name = "<b>&\"";
  const std::string html = measure_html(report);
  EXPECT_THAT(html, HasSubstr("<!doctype html>"));
  EXPECT_THAT(html, HasSubstr("&lt;b&gt;&amp;&quot;"));
  EXPECT_THAT(html, testing::Not(HasSubstr("<b>&")));
  EXPECT_THAT(html, HasSubstr("in and 0: "));
  EXPECT_THAT(html, HasSubstr("massive dimensions"));
  for (const char* elsewhere : {"http", "<script", "url(", "src="}) {
    EXPECT_THAT(html, testing::Not(HasSubstr(elsewhere)));
  }
}

TEST(MeasureReport, GroupAndStackThatAreNotThereThrowWithTheNearestNames) {
  torch::nn::Module module;
  const MeasureReport report = measure_module(module, stream_layout(), kSamples, golden_pass);
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(report.stack("layrs")); }), HasSubstr("'layers'"));
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(report.stack("layers").group("tokens")); }),
              HasSubstr("Did you mean 'token'?"));
}

}  // namespace
}  // namespace thaw::measure_test
