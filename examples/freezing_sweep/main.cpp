// How many blocks have to train? Sweeps the last N blocks of a plain torch::nn transformer and, when it is given a
// policy, of a policy's language stack, and writes a report for each.
//
//     freezing_sweep FOLDER [BASE_FOLDER TOKENIZER_FOLDER DATASET_FOLDER]
#include <thaw/core/files.h>
#include <thaw/study/report.h>
#include <thaw/study/sweep.h>
#include <thaw/tensor/random.h>
#include <thaw/thaw.h>
#include <torch/nn.h>

#include <filesystem>
#include <iostream>

namespace {

namespace fs = std::filesystem;

// Legend: B batch, T symbols of a sequence, D width.
constexpr std::int64_t kBatch = 16;
constexpr std::int64_t kLength = 8;
constexpr std::int64_t kSymbols = 6;
constexpr std::int64_t kWidth = 16;

struct Sequences {
  at::Tensor symbols;  // (B, T) int64
  at::Tensor counts;   // (B) float32: share of symbols equal to the first
};

/// A pure function of (seed, number), as thaw wants it of every batch.
Sequences make_batch(std::uint64_t seed, std::int64_t number) {
  const thaw::RandomKey key{
      .seed = seed, .stream = thaw::RandomStream::test, .step = static_cast<std::uint64_t>(number)};
  const at::Tensor symbols =
      (thaw::random_uniform(key, kBatch * kLength).view({kBatch, kLength}) * kSymbols).to(at::kLong);
  return {.symbols = symbols, .counts = (symbols == symbols.slice(1, 0, 1)).to(at::kFloat).mean(1)};
}

/// A small transformer: nothing in it knows of thaw.
struct CounterImpl : torch::nn::Module {
  CounterImpl() {
    embed = register_module("embed", torch::nn::Embedding(kSymbols, kWidth));
    const auto layer = torch::nn::TransformerEncoderLayerOptions(kWidth, 4).dim_feedforward(32).dropout(0.0);
    encoder = register_module("encoder", torch::nn::TransformerEncoder(torch::nn::TransformerEncoderLayer(layer), 4));
    head = register_module("head", torch::nn::Linear(kWidth, 1));
  }
  // (B, T) int64 -> (B)
  at::Tensor forward(const at::Tensor& symbols) {
    return head(encoder(embed(symbols).transpose(0, 1)).mean(0)).squeeze(1);
  }
  torch::nn::Embedding embed{nullptr};
  torch::nn::TransformerEncoder encoder{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Counter);

/// Trains what the grid asks for, writes the report, and says what it picks.
void sweep(thaw::SweepSubject& subject, const thaw::SweepGrid& grid, const fs::path& output, const std::string& what) {
  thaw::SweepPlan plan = thaw::sweep_plan(subject, grid);  // throws when a stack or a number of blocks is not there
  thaw::SweepFolder folder(output, subject.setting(), /*resume=*/fs::exists(output / "sweep.json"));
  thaw::run_sweep(plan, subject, folder, {});

  const thaw::ReportOptions report{.subtitle = what, .steps = plan.steps};
  thaw::write_text_atomic(output / "report.html", thaw::sweep_report(folder.results(), report));
  std::cout << what << '\n' << thaw::sweep_table(folder.results(), report) << '\n';
}

void sweep_transformer(const fs::path& output) {
  torch::manual_seed(1);
  Counter model;
  const auto make_task = [model](const thaw::SweepPoint& point) mutable {
    return thaw::make_task<Sequences>(
        [seed = point.seed](std::int64_t number) { return make_batch(seed, number); },
        [model](const Sequences& batch) mutable { return at::mse_loss(model(batch.symbols), batch.counts); },
        [model](std::int64_t) mutable {
          const Sequences unseen = make_batch(/*seed=*/1'000'000, 0);
          return thaw::EvaluationResult{.loss = at::mse_loss(model(unseen.symbols), unseen.counts).item<double>(),
                                        .samples = kBatch};
        });
  };
  const auto subject = thaw::sweep_module(model.ptr(), make_task,
                                          {.steps = 60,
                                           .batch_size = kBatch,
                                           .precision = thaw::Precision::fp32,
                                           .optimizer = {.learning_rate = 3e-3},
                                           .quiet = true});
  const thaw::SweepGrid grid{.base = thaw::LayerFreezePolicy{}.freeze("*").train("head.*"),
                             .stacks = {{"encoder", {0, 1, 2, thaw::kAllBlocks}}},
                             .seeds = {1, 2, 3}};
  sweep(*subject, grid, output, "a transformer encoder of four layers that counts symbols");
}

void sweep_policy(const fs::path& output, const fs::path& base, const fs::path& tokenizer, const fs::path& data) {
  const thaw::LeRobotDataset dataset = thaw::LeRobotDataset::open(data);
  thaw::TrainOptions options{
      .steps = 10, .batch_size = 4, .precision = thaw::Precision::fp32, .quiet = true, .eval_split = 0.25};
  options.eval_samples = 8;
  options.prefix.cache = thaw::CacheCut::automatic;  // computed once, for all points
  const auto subject = thaw::sweep_policy(thaw::load_policy(base, {.tokenizer_folder = tokenizer}), dataset, options);
  const thaw::SweepGrid grid{.stacks = {{"language", {0, 1, 2}}}, .learning_rates = {1e-3}, .seeds = {1, 2}};
  sweep(*subject, grid, output, "the last blocks of the language stack of " + base.filename().string());
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2 && argc != 5) throw thaw::UsageError("usage: freezing_sweep FOLDER [BASE TOKENIZER DATASET]");
  const fs::path folder = argv[1];
  sweep_transformer(folder / "transformer");
  if (argc == 5) sweep_policy(folder / "policy", argv[2], argv[3], argv[4]);
  return 0;
} catch (const thaw::Error& error) {
  std::cerr << error.what() << '\n';
  return static_cast<int>(error.exit_code());
}
