// Attention, rotary positions and norms at SmolVLA's shapes.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <benchmark/benchmark.h>

#include "thaw/nn/attention.h"
#include "thaw/nn/linear.h"

namespace {

/// Query (B, H, L, d), key and value (B, K, S, d), everything attended.
struct Inputs {
  at::Tensor query, key, value, mask;
};

Inputs inputs_of(const benchmark::State& state) {
  const std::int64_t batch = state.range(0);
  const std::int64_t heads = state.range(1);
  const std::int64_t kv_heads = state.range(2);
  const std::int64_t queries = state.range(3);
  const std::int64_t keys = state.range(4);
  constexpr std::int64_t kHeadDim = 64;
  return {.query = at::randn({batch, heads, queries, kHeadDim}),
          .key = at::randn({batch, kv_heads, keys, kHeadDim}),
          .value = at::randn({batch, kv_heads, keys, kHeadDim}),
          .mask = at::ones({batch, queries, keys}, at::kBool)};
}

template <class Attention>
void run(benchmark::State& state, Attention attention) {
  const at::NoGradGuard no_grad;
  const Inputs inputs = inputs_of(state);
  for (auto _ : state) benchmark::DoNotOptimize(attention(inputs));
  const double flops = 4.0 * static_cast<double>(inputs.query.numel()) * static_cast<double>(state.range(4));
  state.counters["FLOPS"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void nn_attention(benchmark::State& state) {
  run(state, [](const Inputs& i) { return thaw::nn::attention(i.query, {{.key = i.key, .value = i.value}}, i.mask); });
}

void at_sdpa(benchmark::State& state) {
  run(state, [](const Inputs& i) {
    return at::scaled_dot_product_attention(i.query, i.key, i.value, {}, 0.0, false, std::nullopt, /*enable_gqa=*/true);
  });
}

void apply_rotary(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const at::Tensor x = at::randn({4, 15, 177, 64});
  const at::Tensor table = thaw::nn::rotary_table(at::arange(177).unsqueeze(0), 64, 10'000.0);
  for (auto _ : state) benchmark::DoNotOptimize(thaw::nn::apply_rotary(x, table));
}

void rms_norm(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const at::Tensor x = at::randn({4, state.range(0), state.range(1)});
  const thaw::nn::RmsNorm norm{.weight = at::randn({state.range(1)})};
  for (auto _ : state) benchmark::DoNotOptimize(thaw::nn::rms_norm(x, norm));
}

/// Batch, heads, key heads, queries, keys: vision of 8 pictures; language; the expert's cross and self layers.
void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"batch", "heads", "kv", "queries", "keys"})->Unit(benchmark::kMillisecond)->UseRealTime();
  benchmark->Args({8, 12, 12, 1024, 1024})->Args({4, 15, 5, 176, 176});
  benchmark->Args({4, 15, 5, 50, 177})->Args({4, 15, 5, 50, 227});
}

BENCHMARK(nn_attention)->Apply(shapes);
BENCHMARK(at_sdpa)->Apply(shapes);
BENCHMARK(apply_rotary)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(rms_norm)->ArgNames({"tokens", "width"})->Args({177, 960})->Args({50, 720})->Unit(benchmark::kMicrosecond);

}  // namespace
