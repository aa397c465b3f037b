/// Entries that tell whose they are, and what a cache printed.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "thaw/cache/prefix_cache.h"
#include "thaw/tensor/compare.h"

namespace thaw::test {

/// `count` numbers between −1 and 1 that differ from those of every other seed.
inline at::Tensor numbers(std::int64_t count, double seed) {
  return (at::arange(count, at::kDouble) * 0.37 + seed * 1.7).sin();
}

/// Of a frame: every width of element, so that it lies in several runs of a shard.
inline CacheEntry entry_of(std::int64_t frame) {
  const auto seed = static_cast<double>(frame);
  CacheEntry entry;
  entry.tensors["keys.0"] = numbers(40, seed).view({1, 5, 8}).to(at::kFloat);
  entry.tensors["values.0"] = numbers(40, seed + 0.1).view({1, 5, 8}).to(at::kFloat);
  entry.tensors["hidden"] = numbers(24, seed + 0.2).view({1, 3, 8}).to(at::kBFloat16);
  entry.tensors["mask"] = numbers(5, seed + 0.3).view({1, 5}) > 0;
  entry.tensors["ids"] = (numbers(5, seed + 0.4).view({1, 5}) * 1e6).to(at::kLong);
  entry.tensors["length"] = at::full({1}, seed, at::kInt);
  return entry;
}

inline CacheKey key_of(std::int64_t frame) { return {.frame = frame, .text = "pick up the cup", .view = 0}; }

inline CacheIdentity identity() {
  return {.fields = {{"base", "5feceb66"}, {"dtype", "float32"}, {"resize", "512x512"}, {"tokenizer", "6b86b273"}}};
}

/// A cache on disk whose every entry is a shard of its own, and which keeps none in memory.
inline CacheOptions on_disk(const std::filesystem::path& folder) {
  return {.folder = folder, .memory_bytes = 0, .disk_bytes = std::int64_t{1} << 30, .shard_bytes = 1};
}

inline CacheOptions in_memory(std::int64_t bytes = std::int64_t{1} << 20) {
  return {.folder = {}, .memory_bytes = bytes};
}

inline ::testing::AssertionResult same(const std::optional<CacheEntry>& actual, const CacheEntry& expected) {
  if (!actual) return ::testing::AssertionFailure() << "a miss";
  if (actual->tensors.size() != expected.tensors.size()) return ::testing::AssertionFailure() << "other keys";
  for (const auto& [key, tensor] : expected.tensors) {
    const auto found = actual->tensors.find(key);
    if (found == actual->tensors.end()) return ::testing::AssertionFailure() << "no " << key;
    if (!bitwise_equal(found->second, tensor)) {
      return ::testing::AssertionFailure() << key << ": " << compare_tensors(found->second, tensor).message;
    }
  }
  return ::testing::AssertionSuccess();
}

/// What `action` writes to stderr.
template <class Action>
std::string printed_by(Action&& action) {
  ::testing::internal::CaptureStderr();
  action();
  return ::testing::internal::GetCapturedStderr();
}

inline std::int64_t warnings_in(const std::string& printed) {
  std::int64_t count = 0;
  for (std::size_t at = printed.find("warning:"); at != std::string::npos; at = printed.find("warning:", at + 1)) {
    ++count;
  }
  return count;
}

}  // namespace thaw::test
