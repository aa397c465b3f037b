/// Torch modules that the tests of the freeze room freeze.
#pragma once

#include <torch/nn.h>

#include <string>

namespace thaw::test {

/// A block with a norm, two projections and dropout.
struct BlockImpl : torch::nn::Module {
  explicit BlockImpl(std::int64_t width, std::int64_t hidden) {
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})));
    up = register_module("up", torch::nn::Linear(width, hidden));
    down = register_module("down", torch::nn::Linear(hidden, width));
    dropout = register_module("dropout", torch::nn::Dropout(0.5));
  }
  at::Tensor forward(const at::Tensor& x) { return x + dropout(down(at::gelu(up(norm(x))))); }
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear up{nullptr};
  torch::nn::Linear down{nullptr};
  torch::nn::Dropout dropout{nullptr};
};
TORCH_MODULE(Block);

/// Embedding, encoder.layers, a convolution tower with batch norm, a decoder whose list also holds a norm, a head.
struct ModelImpl : torch::nn::Module {
  explicit ModelImpl(std::int64_t blocks = 3) {
    embed = register_module("embed", torch::nn::Embedding(16, 8));
    tower = register_module(
        "tower", torch::nn::Sequential(torch::nn::Conv2d(3, 4, 3), torch::nn::BatchNorm2d(4), torch::nn::ReLU()));
    layers = torch::nn::ModuleList();
    // every other block is wider inside, as SmolVLA's expert
    for (std::int64_t i = 0; i < blocks; ++i) layers->push_back(Block(8, 16 + 4 * (i % 2)));
    auto encoder = std::make_shared<torch::nn::Module>("Encoder");
    encoder->register_module("layers", layers);
    register_module("encoder", encoder);
    register_module("mm_projector", torch::nn::Linear(8, 8));
    head = register_module("head", torch::nn::Linear(8, 2));
  }
  torch::nn::Embedding embed{nullptr};
  torch::nn::Sequential tower{nullptr};
  torch::nn::ModuleList layers{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Model);

}  // namespace thaw::test
