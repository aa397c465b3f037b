#include "thaw/study/measure.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/modules/container/sequential.h>

#include <algorithm>

#include "gradient_probe_impl.h"
#include "stack_probe_impl.h"
#include "thaw/core/error.h"
#include "thaw/tensor/random.h"

namespace thaw {
namespace {

void require_range(const char* field, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value >= least && value <= most) return;
  throw UsageError(Problem{.where = std::string("MeasureOptions.") + field,
                           .expected = fmt::format("{}..{}", least, most),
                           .found = std::to_string(value)});
}

/// While it lives, the module is in eval mode and only `trainable` require gradients.
class MeasuringScope {
 public:
  MeasuringScope(torch::nn::Module& module, const std::vector<BlockParameter>& trainable)
      : module_(&module), mode_(module.is_training()) {
    for (const auto& part : module.modules(/*include_self=*/false)) modes_.emplace_back(part, part->is_training());
    for (const at::Tensor& parameter : module.parameters()) flags_.emplace_back(parameter, parameter.requires_grad());
    module.eval();
    for (auto& [parameter, flag] : flags_) parameter.set_requires_grad(false);
    for (const BlockParameter& parameter : trainable) at::Tensor(parameter.tensor).set_requires_grad(true);
  }
  ~MeasuringScope() {
    for (auto& [parameter, flag] : flags_) parameter.set_requires_grad(flag);
    module_->train(mode_);
    for (auto& [part, mode] : modes_) part->train(mode);  // parents come first: each part ends as it was
  }
  MeasuringScope(const MeasuringScope&) = delete;
  MeasuringScope& operator=(const MeasuringScope&) = delete;

 private:
  torch::nn::Module* module_;
  bool mode_;
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> modes_;
  std::vector<std::pair<at::Tensor, bool>> flags_;
};

std::vector<BlockStack> chosen_stacks(const ModelLayout& layout, const std::vector<std::string>& names) {
  if (names.empty()) return layout.stacks;
  std::vector<BlockStack> stacks;
  stacks.reserve(names.size());
  for (const std::string& name : names) stacks.push_back(layout.stack(name));
  return stacks;
}

std::set<std::string> names_of(const std::vector<BlockStack>& stacks) {
  std::set<std::string> names;
  for (const BlockStack& stack : stacks) names.insert(stack.name);
  return names;
}

class Pass {
 public:
  Pass(torch::nn::Module& module, const ModelLayout& layout, const MeasureOptions& options)
      : options_(options),
        stacks_(chosen_stacks(layout, options.stacks)),
        recorder_(layout, names_of(stacks_), options.gradients),
        gradients_(options.gradients ? block_parameters(module, layout, stacks_) : std::vector<BlockParameter>{},
                   options.batch_size) {
    for (const BlockStack& stack : stacks_) probes_.emplace_back(stack, options_);
  }

  [[nodiscard]] const std::vector<BlockParameter>& trainable() const { return gradients_.parameters(); }

  void run(std::int64_t sample, const TappedPass& pass) {
    recorder_.clear();
    const at::AutoGradMode grad(options_.gradients);
    const at::Tensor loss = pass(sample, recorder_);
    if (options_.gradients) add_gradients(loss);
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < stacks_.size(); ++i) {
      const Streams* streams = streams_of(i);
      if (options_.similarity && streams != nullptr) probes_[i].add_similarity(*streams, sample);
    }
  }

  [[nodiscard]] std::vector<StackMeasures> finish() {
    std::vector<StackMeasures> all;
    for (StackProbe& probe : probes_) {
      all.push_back(probe.measures());
      if (options_.gradients) gradients_.finish(all.back());
    }
    return all;
  }

 private:
  [[nodiscard]] const Streams* streams_of(std::size_t stack) const {
    const auto found = recorder_.streams().find(stacks_[stack].name);
    return found == recorder_.streams().end() ? nullptr : &found->second;
  }

  void add_gradients(const at::Tensor& loss) {
    if (!loss.defined() || loss.numel() != 1 || !loss.requires_grad()) {
      throw UsageError(Problem{.where = "the loss of a calibration sample",
                               .expected = "a scalar that depends on a measured stack",
                               .found = loss.defined() ? "another tensor" : "none"});
    }
    std::vector<at::Tensor> inputs;
    for (const auto& [stack, streams] : recorder_.streams()) {
      for (const auto& [part, stream] : streams) {
        inputs.insert(inputs.end(), stream.states.begin() + 1, stream.states.end());
      }
    }
    const std::size_t of_streams = inputs.size();
    for (const BlockParameter& parameter : gradients_.parameters()) inputs.push_back(parameter.tensor);
    const std::vector<at::Tensor> found = torch::autograd::grad({loss.sum()}, inputs, /*grad_outputs=*/{},
                                                                /*retain_graph=*/std::nullopt,
                                                                /*create_graph=*/false, /*allow_unused=*/true);
    const at::NoGradGuard no_grad;
    add_gates(found);
    gradients_.add({found.begin() + static_cast<std::ptrdiff_t>(of_streams), found.end()});
  }

  /// `found` begins with the gradients of all states but the first of each stream, in the recorder's order.
  void add_gates(const std::vector<at::Tensor>& found) {
    std::size_t next = 0;
    for (const auto& [stack, streams] : recorder_.streams()) {
      std::map<std::string, std::vector<at::Tensor>> by_part;
      for (const auto& [part, stream] : streams) {
        std::vector<at::Tensor>& by_state = by_part[part];
        by_state.emplace_back();
        for (std::size_t s = 1; s < stream.states.size(); ++s) by_state.push_back(found[next++]);
      }
      const auto probe = std::find_if(stacks_.begin(), stacks_.end(),
                                      [name = stack](const BlockStack& one) { return one.name == name; });
      probes_[static_cast<std::size_t>(probe - stacks_.begin())].add_gate_probe(streams, by_part);
    }
  }

  MeasureOptions options_;
  std::vector<BlockStack> stacks_;
  StreamRecorder recorder_;
  GradientProbe gradients_;
  std::vector<StackProbe> probes_;
};

}  // namespace

void MeasureOptions::validate() const {
  require_range("samples", samples, 1, 1'000'000);
  require_range("batch_size", batch_size, 1, 1'000'000);
  require_range("rows_per_sample", rows_per_sample, 0, 1'000'000);
  cka.validate();
}

std::vector<std::int64_t> calibration_positions(std::int64_t size, std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> positions = random_permutation({.seed = seed, .stream = RandomStream::sampling}, size);
  positions.resize(static_cast<std::size_t>(std::min(size, count)));
  std::sort(positions.begin(), positions.end());
  return positions;
}

MeasureReport measure_module(torch::nn::Module& module, const ModelLayout& layout, std::int64_t samples,
                             const TappedPass& pass, const MeasureOptions& options) {
  options.validate();
  Pass measuring(module, layout, options);
  {
    const MeasuringScope scope(module, measuring.trainable());
    for (std::int64_t sample = 0; sample < samples; ++sample) measuring.run(sample, pass);
  }
  return {.type = layout.type, .samples = samples, .seed = options.seed, .stacks = measuring.finish()};
}

at::Tensor run_tapped(torch::nn::SequentialImpl& blocks, const std::string& stack, at::Tensor hidden, StreamTap& tap) {
  hidden = tap.before(stack, std::move(hidden));
  std::int64_t block = 0;
  for (torch::nn::AnyModule& one : blocks) hidden = tap.after(stack, block++, one.forward(hidden));
  return hidden;
}

}  // namespace thaw
