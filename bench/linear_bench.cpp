// Linear layers at SmolVLA's shapes: the library's product beside LibTorch's, with what follows it fused and not.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <benchmark/benchmark.h>

#include "thaw/nn/linear.h"

namespace {

using thaw::nn::Linear;

struct Inputs {
  at::Tensor x;         // (rows, in)
  Linear layer;         // (out, in)
  at::Tensor residual;  // (rows, out)
};

Inputs inputs_of(const benchmark::State& state) {
  const std::int64_t rows = state.range(0);
  const std::int64_t in = state.range(1);
  const std::int64_t out = state.range(2);
  return {.x = at::randn({rows, in}),
          .layer = {.weight = at::randn({out, in}), .bias = at::randn({out})},
          .residual = at::randn({rows, out})};
}

/// Runs `product` on the inputs and reports its FLOP/s.
template <class Product>
void run(benchmark::State& state, Product product) {
  const at::NoGradGuard no_grad;
  const Inputs inputs = inputs_of(state);
  for (auto _ : state) benchmark::DoNotOptimize(product(inputs));
  const double flops = 2.0 * static_cast<double>(state.range(0) * state.range(1) * state.range(2));
  state.counters["FLOPS"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void at_linear(benchmark::State& state) {
  run(state, [](const Inputs& i) { return at::linear(i.x, i.layer.weight, i.layer.bias); });
}

void nn_linear(benchmark::State& state) {
  run(state, [](const Inputs& i) { return thaw::nn::linear(i.x, i.layer); });
}

void at_linear_gelu(benchmark::State& state) {
  run(state, [](const Inputs& i) { return at::gelu(at::linear(i.x, i.layer.weight, i.layer.bias), "tanh"); });
}

void nn_linear_gelu(benchmark::State& state) {
  run(state, [](const Inputs& i) { return thaw::nn::linear_gelu(i.x, i.layer); });
}

void at_linear_add(benchmark::State& state) {
  run(state, [](const Inputs& i) { return at::linear(i.x, i.layer.weight, i.layer.bias).add_(i.residual); });
}

void nn_linear_add(benchmark::State& state) {
  run(state, [](const Inputs& i) { return thaw::nn::linear_add(i.x, i.layer, i.residual); });
}

/// Rows, in, out: vision of 8 pictures, language of 4 samples, expert of 4 chunks.
void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "in", "out"})->Unit(benchmark::kMillisecond)->UseRealTime();
  benchmark->Args({8192, 768, 768})->Args({8192, 768, 3072})->Args({8192, 3072, 768});
  benchmark->Args({704, 960, 960})->Args({704, 960, 2560})->Args({704, 2560, 960});
  benchmark->Args({200, 720, 960})->Args({200, 720, 2048})->Args({200, 2048, 720});
}

void first_layer(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "in", "out"})->Unit(benchmark::kMillisecond)->UseRealTime()->Args({8192, 768, 3072});
}

void second_layer(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "in", "out"})->Unit(benchmark::kMillisecond)->UseRealTime()->Args({8192, 3072, 768});
}

BENCHMARK(at_linear)->Apply(shapes);
BENCHMARK(nn_linear)->Apply(shapes);
BENCHMARK(at_linear_gelu)->Apply(first_layer);
BENCHMARK(nn_linear_gelu)->Apply(first_layer);
BENCHMARK(at_linear_add)->Apply(second_layer);
BENCHMARK(nn_linear_add)->Apply(second_layer);

}  // namespace
