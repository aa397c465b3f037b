#include "thaw/data/sampler.h"

#include <algorithm>
#include <numeric>

#include "thaw/core/error.h"
#include "thaw/tensor/random.h"

namespace thaw {
namespace {

void check_positive(const char* field, std::int64_t value) {
  if (value > 0) return;
  throw UsageError(
      Problem{.where = std::string("sampler ") + field, .expected = "1 or more", .found = std::to_string(value)});
}

}  // namespace

void SamplerOptions::validate() const {
  check_positive("size", size);
  check_positive("batch_size", batch_size);
}

Sampler::Sampler(SamplerOptions options) : options_(options) { options_.validate(); }

std::int64_t Sampler::batches_per_epoch() const noexcept {
  return options_.size / options_.batch_size + (options_.size % options_.batch_size == 0 ? 0 : 1);
}

std::vector<std::int64_t> Sampler::order(std::int64_t epoch) const {
  if (options_.shuffle) {
    return random_permutation(
        {.seed = options_.seed, .stream = RandomStream::order, .step = static_cast<std::uint64_t>(epoch)},
        options_.size);
  }
  std::vector<std::int64_t> order(static_cast<std::size_t>(options_.size));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  return order;
}

std::vector<std::int64_t> Sampler::positions(std::int64_t batch) const {
  return positions(batch, order(batch / batches_per_epoch()));
}

std::vector<std::int64_t> Sampler::positions(std::int64_t batch, const std::vector<std::int64_t>& order) const {
  const std::int64_t begin = batch % batches_per_epoch() * options_.batch_size;
  const std::int64_t end = std::min(begin + std::min(options_.batch_size, options_.size), options_.size);
  return {order.begin() + begin, order.begin() + end};
}

}  // namespace thaw
