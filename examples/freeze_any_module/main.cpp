// Trains the last two blocks of a module that thaw has never seen, with the user's own batches and loss, and proves
// that everything else stayed as it was. Exits 1 when a frozen tensor moved or nothing was learnt.
#include <thaw/tensor/random.h>
#include <thaw/thaw.h>
#include <torch/nn.h>

#include <iostream>

namespace {

// Legend: B batch, T symbols of a sequence, D width.
constexpr std::int64_t kBatch = 32;
constexpr std::int64_t kLength = 12;
constexpr std::int64_t kClasses = 4;
constexpr std::int64_t kSymbolsPerClass = 3;
constexpr std::int64_t kWidth = 32;
constexpr std::uint64_t kTrainingSeed = 1;
constexpr std::uint64_t kHeldOutSeed = 2;

struct Sequences {
  at::Tensor symbols;  // (B, T) int64
  at::Tensor labels;   // (B) int64
};

/// Sequences in which every other symbol belongs to the label's class and the rest are noise: a pure function of
/// `number`.
Sequences make_batch(std::uint64_t seed, std::int64_t number) {
  const thaw::RandomKey key{
      .seed = seed, .stream = thaw::RandomStream::test, .step = static_cast<std::uint64_t>(number)};
  const at::Tensor random = thaw::random_uniform(key, kBatch * (kLength + 1)).view({kBatch, kLength + 1});
  const at::Tensor labels = (random.select(1, 0) * kClasses).to(at::kLong);
  const at::Tensor noise = (random.slice(1, 1) * (kClasses * kSymbolsPerClass)).to(at::kLong);
  const at::Tensor own = labels.unsqueeze(1) * kSymbolsPerClass + noise % kSymbolsPerClass;
  const at::Tensor is_own = at::arange(kLength) % 2 == 0;
  return {.symbols = at::where(is_own, own, noise), .labels = labels};
}

/// A small transformer classifier: nothing in it knows of thaw.
struct ClassifierImpl : torch::nn::Module {
  ClassifierImpl() {
    embed = register_module("embed", torch::nn::Embedding(kClasses * kSymbolsPerClass, kWidth));
    const auto layer = torch::nn::TransformerEncoderLayerOptions(kWidth, 4).dim_feedforward(64).dropout(0.1);
    encoder = register_module("encoder", torch::nn::TransformerEncoder(torch::nn::TransformerEncoderLayer(layer), 4));
    head = register_module("head", torch::nn::Linear(kWidth, kClasses));
  }

  // (B, T) int64 -> (B, kClasses)
  at::Tensor forward(const at::Tensor& symbols) {
    const at::Tensor hidden = encoder(embed(symbols).transpose(0, 1));  // (T, B, D)
    return head(hidden.mean(0));
  }

  torch::nn::Embedding embed{nullptr};
  torch::nn::TransformerEncoder encoder{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Classifier);

at::Tensor loss_of(Classifier& model, const Sequences& batch) {
  const at::Device device = model->head->weight.device();
  return at::cross_entropy_loss(model->forward(batch.symbols.to(device)), batch.labels.to(device));
}

double loss_on_new_sequences(Classifier& model) { return loss_of(model, make_batch(kHeldOutSeed, 0)).item<double>(); }

}  // namespace

int main() try {
  torch::manual_seed(1);
  Classifier model;

  const auto freeze = thaw::LayerFreezePolicy{}.freeze("*").last("encoder", 2).train("head.*");
  thaw::FreezePlan plan = freeze.resolve(*model);  // throws when a rule matches nothing
  thaw::add_digests(plan, *model);
  std::cout << plan.summary() << '\n';

  const auto task = thaw::make_task<Sequences>([](std::int64_t number) { return make_batch(kTrainingSeed, number); },
                                               [&model](const Sequences& batch) { return loss_of(model, batch); },
                                               [&model](std::int64_t) {
                                                 return thaw::EvaluationResult{.loss = loss_on_new_sequences(model),
                                                                               .samples = kBatch};
                                               });

  thaw::Trainer trainer(model.ptr(), plan,
                        {.steps = 150,
                         .batch_size = kBatch,
                         .precision = thaw::Precision::fp32,
                         .optimizer = {.learning_rate = 3e-3},
                         .quiet = true});
  const double before = trainer.evaluate(*task)->loss;
  (void)trainer.fit(*task);
  const double after = trainer.evaluate(*task)->loss;
  const std::vector<std::string> moved = thaw::moved_frozen_parameters(plan, *model);

  std::cout << "loss on new sequences: " << before << " before, " << after << " after " << trainer.steps_done()
            << " steps\n";
  for (const std::string& name : moved) std::cout << "moved although frozen: " << name << '\n';
  if (moved.empty()) {
    std::cout << "all " << plan.names(thaw::ParameterClass::frozen).size() << " frozen tensors are unchanged\n";
  }
  return moved.empty() && after < 0.5 * before ? 0 : 1;
} catch (const thaw::Error& error) {
  std::cerr << error.what() << '\n';
  return static_cast<int>(error.exit_code());
}
