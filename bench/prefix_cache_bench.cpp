// The prefix cache: entries in and out, from memory and from disk, in each form of storage.
#include <ATen/ATen.h>
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "thaw/cache/assemble.h"
#include "thaw/cache/prefix_cache.h"

namespace {

namespace fs = std::filesystem;
using thaw::CacheEntry;
using thaw::CacheStorage;
using thaw::PrefixCache;

constexpr std::int64_t kEntries = 128;
constexpr std::int64_t kEnough = std::int64_t{1} << 40;

/// SmolVLA's vision output of two cameras.
CacheEntry vision_output() { return {.tensors = {{"image_tokens", at::randn({1, 128, 960})}}}; }

class Scratch {
 public:
  Scratch() : path_(fs::temp_directory_path() / ("thaw-bench-cache-" + std::to_string(getpid()))) {}
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

thaw::CacheOptions options_of(const benchmark::State& state, const fs::path& folder, std::int64_t memory) {
  return {.folder = folder,
          .memory_bytes = memory,
          .disk_bytes = kEnough,
          .storage = static_cast<CacheStorage>(state.range(0))};
}

thaw::CacheIdentity identity() { return {.fields = {{"purpose", "micro-benchmark"}}}; }

void fill(PrefixCache& cache) {
  const CacheEntry entry = vision_output();
  for (std::int64_t frame = 0; frame < kEntries; ++frame) cache.store({.frame = frame}, entry);
  cache.flush();
}

void report(benchmark::State& state) {
  const auto bytes = state.iterations() * vision_output().bytes();
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes));
  state.SetLabel(std::string(thaw::cache_storage_name(static_cast<CacheStorage>(state.range(0)))));
}

void store(benchmark::State& state) {
  const CacheEntry entry = vision_output();
  PrefixCache cache(identity(), options_of(state, {}, std::int64_t{256} << 20));
  std::int64_t frame = 0;
  for (auto _ : state) cache.store({.frame = frame++}, entry);
  report(state);
}

void find_in_memory(benchmark::State& state) {
  PrefixCache cache(identity(), options_of(state, {}, kEnough));
  fill(cache);
  std::int64_t frame = 0;
  for (auto _ : state) benchmark::DoNotOptimize(cache.find({.frame = frame++ % kEntries}));
  report(state);
}

void find_on_disk(benchmark::State& state) {
  const Scratch scratch;
  {
    PrefixCache cache(identity(), options_of(state, scratch.path(), 0));
    fill(cache);
  }
  PrefixCache cache(identity(), options_of(state, scratch.path(), 0));
  std::int64_t frame = 0;
  for (auto _ : state) benchmark::DoNotOptimize(cache.find({.frame = frame++ % kEntries}));
  report(state);
}

void assemble_batch(benchmark::State& state) {
  const std::vector<CacheEntry> entries(static_cast<std::size_t>(state.range(0)), vision_output());
  for (auto _ : state) benchmark::DoNotOptimize(thaw::assemble(entries));
}

void storages(benchmark::internal::Benchmark* benchmark) {
  benchmark->Unit(benchmark::kMicrosecond)->UseRealTime();
  for (const CacheStorage storage : {CacheStorage::exact, CacheStorage::bf16, CacheStorage::int8}) {
    benchmark->Arg(static_cast<std::int64_t>(storage));
  }
}

BENCHMARK(store)->Apply(storages);
BENCHMARK(find_in_memory)->Apply(storages);
BENCHMARK(find_on_disk)->Apply(storages);
BENCHMARK(assemble_batch)->ArgName("batch")->Arg(4)->Arg(32)->Unit(benchmark::kMicrosecond);

}  // namespace
