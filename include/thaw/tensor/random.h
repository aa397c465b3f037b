/// Counter-based random numbers: every draw is a pure function of (seed, stream, step, sample), so nothing has to be
/// saved to resume exactly and the number of workers cannot matter. Generator: Philox4x32-10 (Salmon et al., "Parallel
/// Random Numbers: As Easy as 1, 2, 3", SC 2011).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace thaw {

/// What a draw is for. Two streams never share a number.
enum class RandomStream : std::uint32_t {
  noise = 1,
  time = 2,
  order = 3,
  augmentation = 4,
  evaluation_noise = 5,
  evaluation_time = 6,
  initialisation = 7,
  sampling = 8,
  test = 9
};

/// `step` and `sample` are below 2^44, so that all of it fits one counter and no two keys of a seed share a number; the
/// functions below throw UsageError beyond.
struct RandomKey {
  std::uint64_t seed = 0;
  RandomStream stream = RandomStream::noise;
  std::uint64_t step = 0;
  std::uint64_t sample = 0;
};

/// N(0, 1) float32 of `shape` on the CPU (Box-Muller in double, rounded once). Element i depends on the key and i
/// alone.
[[nodiscard]] at::Tensor random_normal(RandomKey key, at::IntArrayRef shape);
/// Uniform in (0, 1), float64, `count` numbers on the CPU.
[[nodiscard]] at::Tensor random_uniform(RandomKey key, std::int64_t count);
/// A permutation of 0..n-1 (Fisher-Yates).
[[nodiscard]] std::vector<std::int64_t> random_permutation(RandomKey key, std::int64_t n);

}  // namespace thaw
