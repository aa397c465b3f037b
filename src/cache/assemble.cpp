#include "thaw/cache/assemble.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "thaw/core/error.h"
#include "thaw/tensor/dtype.h"

namespace thaw {
namespace {

std::string keys_of(const CacheEntry& entry) {
  std::vector<std::string_view> keys;
  for (const auto& [key, tensor] : entry.tensors) keys.push_back(key);
  return fmt::format("{}", fmt::join(keys, ", "));
}

std::string form_of(const at::Tensor& tensor) {
  return fmt::format("{} ({})", dtype_name(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "));
}

void check_keys(std::span<const CacheEntry> entries) {
  const auto same_key = [](const auto& a, const auto& b) { return a.first == b.first; };
  const auto& first = entries.front().tensors;
  for (std::size_t i = 1; i < entries.size(); ++i) {
    const auto& other = entries[i].tensors;
    if (std::equal(first.begin(), first.end(), other.begin(), other.end(), same_key)) continue;
    throw MismatchError(Problem{.where = fmt::format("cache entries 0 and {} of a batch", i),
                                .expected = "the same keys: " + keys_of(entries.front()),
                                .found = keys_of(entries[i])});
  }
}

/// The dimension beside the first in which two tensors differ; nullopt when there is none.
/// @throws MismatchError for other differences
std::optional<std::int64_t> padded_dimension(const std::string& key, const at::Tensor& first, const at::Tensor& other,
                                             std::size_t number) {
  std::optional<std::int64_t> differing;
  int differences = 0;
  const bool alike = first.scalar_type() == other.scalar_type() && first.dim() == other.dim();
  for (std::int64_t d = 1; alike && d < first.dim(); ++d) {
    if (first.size(d) == other.size(d)) continue;
    differing = d;
    ++differences;
  }
  if (alike && differences <= 1) return differing;
  throw MismatchError(Problem{.where = fmt::format("cache entries 0 and {} of a batch, '{}'", number, key),
                              .expected = fmt::format("{} but for one length", form_of(first)),
                              .found = form_of(other)});
}

void check_one_sample(const std::string& key, const at::Tensor& tensor, std::size_t number) {
  if (tensor.defined() && tensor.dim() > 0 && tensor.size(0) == 1) return;
  throw MismatchError(Problem{.where = fmt::format("cache entry {} of a batch, '{}'", number, key),
                              .expected = "one sample (1, …)",
                              .found = tensor.defined() ? form_of(tensor) : "an undefined tensor"});
}

at::Tensor padded_stack(const std::vector<at::Tensor>& tensors, std::int64_t dimension) {
  std::vector<std::int64_t> shape = tensors.front().sizes().vec();
  shape.front() = static_cast<std::int64_t>(tensors.size());
  auto& longest = shape[static_cast<std::size_t>(dimension)];
  for (const at::Tensor& tensor : tensors) longest = std::max(longest, tensor.size(dimension));
  at::Tensor batch = at::zeros(shape, tensors.front().options());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    batch.narrow(0, static_cast<std::int64_t>(i), 1).narrow(dimension, 0, tensors[i].size(dimension)).copy_(tensors[i]);
  }
  return batch;
}

at::Tensor assemble_key(const std::string& key, std::span<const CacheEntry> entries) {
  std::vector<at::Tensor> tensors;
  std::optional<std::int64_t> padded;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const at::Tensor& tensor = entries[i].tensors.at(key);
    check_one_sample(key, tensor, i);
    tensors.push_back(tensor);
    const auto differing = padded_dimension(key, tensors.front(), tensor, i);
    if (!differing) continue;
    if (padded && padded != differing) {
      throw MismatchError(Problem{.where = fmt::format("cache entries of a batch, '{}'", key),
                                  .expected = fmt::format("other lengths in dimension {} alone", *padded),
                                  .found = fmt::format("another length in dimension {} of entry {}", *differing, i)});
    }
    padded = differing;
  }
  return padded ? padded_stack(tensors, *padded) : at::cat(tensors, 0);
}

}  // namespace

std::map<std::string, at::Tensor> assemble(std::span<const CacheEntry> entries) {
  if (entries.empty()) throw UsageError("a batch is assembled from at least one cache entry");
  const at::NoGradGuard no_grad;
  check_keys(entries);
  std::map<std::string, at::Tensor> batch;
  for (const auto& [key, tensor] : entries.front().tensors) batch.emplace(key, assemble_key(key, entries));
  return batch;
}

std::vector<CacheEntry> split(const std::map<std::string, at::Tensor>& tensors) {
  if (tensors.empty()) return {};
  const at::NoGradGuard no_grad;
  const auto& [first_key, first] = *tensors.begin();
  std::vector<CacheEntry> entries;
  for (const auto& [key, tensor] : tensors) {
    if (!tensor.defined() || tensor.dim() == 0 || tensor.size(0) != first.size(0)) {
      throw MismatchError(Problem{.where = fmt::format("'{}' at the cut", key),
                                  .expected = fmt::format("as many samples as '{}' has, {}", first_key,
                                                          first.defined() ? form_of(first) : "undefined"),
                                  .found = tensor.defined() ? form_of(tensor) : "an undefined tensor"});
    }
    entries.resize(static_cast<std::size_t>(first.size(0)));
    const at::Tensor batch = tensor.detach().to(at::kCPU);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      entries[i].tensors[key] = batch.narrow(0, static_cast<std::int64_t>(i), 1).clone(at::MemoryFormat::Contiguous);
    }
  }
  return entries;
}

}  // namespace thaw
