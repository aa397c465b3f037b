// A small module with a stack of like blocks, data that are a pure function of their number, and freeze plans for it.
#pragma once

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "thaw/core/files.h"
#include "thaw/freeze/plan.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"
#include "thaw/train/trainer.h"

namespace thaw::toy {

struct BlockImpl : torch::nn::Module {
  BlockImpl(std::int64_t width, double dropout)
      : norm(register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})))),
        up(register_module("up", torch::nn::Linear(width, 2 * width))),
        down(register_module("down", torch::nn::Linear(2 * width, width))),
        drop(register_module("drop", torch::nn::Dropout(dropout))) {}
  at::Tensor forward(const at::Tensor& x) {
    return x + drop->forward(down->forward(at::gelu(up->forward(norm->forward(x)))));
  }
  torch::nn::LayerNorm norm;
  torch::nn::Linear up, down;
  torch::nn::Dropout drop;
};
TORCH_MODULE(Block);

struct ModelOptions {
  std::int64_t inputs = 5;
  std::int64_t width = 6;
  std::int64_t outputs = 3;
  std::int64_t blocks = 3;
  double dropout = 0.0;
  bool batch_norm = false;  ///< running statistics behind the embedding
  std::uint64_t seed = 1;
};

struct ModelImpl : torch::nn::Module {
  explicit ModelImpl(ModelOptions options = {})
      : embed(register_module("embed", torch::nn::Linear(options.inputs, options.width))),
        blocks(register_module("blocks", torch::nn::ModuleList())),
        head(register_module("head", torch::nn::Linear(options.width, options.outputs))) {
    if (options.batch_norm) batch_norm = register_module("batch_norm", torch::nn::BatchNorm1d(options.width));
    for (std::int64_t i = 0; i < options.blocks; ++i) blocks->push_back(Block(options.width, options.dropout));
    const at::NoGradGuard no_grad;
    std::uint64_t number = 0;
    for (auto& item : named_parameters()) {
      const RandomKey key{.seed = options.seed, .stream = RandomStream::test, .sample = number++};
      const bool is_norm = item.key().find("norm") != std::string::npos;
      item.value().copy_(0.3 * random_normal(key, item.value().sizes()) + (is_norm ? 1.0 : 0.0));
    }
  }
  at::Tensor forward(const at::Tensor& x) {
    at::Tensor hidden = embed->forward(x);
    if (batch_norm) hidden = batch_norm->forward(hidden);
    for (const auto& block : *blocks) hidden = block->as<Block>()->forward(hidden);
    return head->forward(hidden);
  }
  torch::nn::Linear embed;
  torch::nn::BatchNorm1d batch_norm{nullptr};
  torch::nn::ModuleList blocks;
  torch::nn::Linear head;
};
TORCH_MODULE(Model);

struct Pair {
  at::Tensor x, y;
};

inline Pair pair(std::int64_t number, std::int64_t batch_size = 4, ModelOptions options = {}) {
  const auto key = [&](std::uint64_t sample) {
    return RandomKey{
        .seed = 77, .stream = RandomStream::test, .step = static_cast<std::uint64_t>(number), .sample = sample};
  };
  const at::Tensor x = random_normal(key(0), {batch_size, options.inputs});
  return {.x = x,
          .y = at::tanh(x.sum(-1, true)).expand({batch_size, options.outputs}) +
               0.1 * random_normal(key(1), {batch_size, options.outputs})};
}

/// Every parameter for which `trains` holds is trainable, the others frozen.
inline FreezePlan plan_of(const torch::nn::Module& module, const std::function<bool(const std::string&)>& trains) {
  FreezePlan plan;
  plan.model_type = "module";
  plan.rules = {"toy"};
  std::int64_t blocks = 0;
  for (const auto& item : module.named_parameters()) {
    PlannedParameter parameter{
        .name = item.key(),
        .shape = item.value().sizes().vec(),
        .dtype = item.value().scalar_type(),
        .parameter_class = trains(item.key()) ? ParameterClass::trainable : ParameterClass::frozen,
        .decided_by = "toy"};
    if (item.key().starts_with("blocks.")) {
      parameter.stack = "blocks";
      parameter.block = std::stoll(item.key().substr(7));
      blocks = std::max(blocks, parameter.block + 1);
    }
    plan.parameters.push_back(parameter);
  }
  if (blocks > 0) plan.stacks.push_back({.name = "blocks", .blocks = blocks});
  plan.line = {{.name = "forward", .runs_under_grad = true, .backward_walks = true}};
  const std::vector<std::string> trained = plan.names(ParameterClass::trainable);
  if (!trained.empty()) plan.boundary_parameter = trained.front();
  return plan;
}

inline bool everything(const std::string&) { return true; }
/// The last block and the head.
inline bool last_block(const std::string& name) { return name.starts_with("blocks.2.") || name.starts_with("head."); }

inline std::unique_ptr<TrainTask> task_for(Model model, std::int64_t batch_size = 4) {
  return make_task<Pair>([batch_size](std::int64_t number) { return pair(number, batch_size); },
                         [model](const Pair& p) mutable { return at::mse_loss(model->forward(p.x), p.y); });
}

inline std::map<std::string, at::Tensor> copy_of(const torch::nn::Module& module) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& item : module.named_parameters()) tensors[item.key()] = item.value().detach().clone();
  for (const auto& item : module.named_buffers()) tensors[item.key()] = item.value().detach().clone();
  return tensors;
}

/// A folder that is removed at the end.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "thaw-train-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string file_bytes(const std::filesystem::path& file) { return read_text(file); }

inline void overwrite(const std::filesystem::path& file, const std::string& content) {
  std::ofstream(file, std::ios::binary | std::ios::trunc) << content;
}

/// What `action` throws as text; fails the test when it throws nothing or another type.
template <class Exception, class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const Exception& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

#define EXPECT_BITWISE_EQUAL(a, b) \
  EXPECT_TRUE(::thaw::bitwise_equal((a), (b))) << ::thaw::compare_tensors((a), (b)).message

}  // namespace thaw::toy
