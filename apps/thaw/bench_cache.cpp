// thaw bench cache: how fast a prefix cache takes entries and gives them back, from memory and from disk.
#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>

#include <memory>

#include "bench.h"
#include "bench_policy.h"
#include "flags.h"
#include "thaw/cache/prefix_cache.h"
#include "thaw/core/files.h"

namespace thaw::cli {
namespace {

struct CacheFlags {
  std::filesystem::path folder;
  std::string storage = "bf16";
  std::int64_t entries = 256;
  std::int64_t tokens = 128;
  std::int64_t width = 960;
  RoundFlags rounds;
};

void validate(const CacheFlags& flags) {
  const auto in_range = [](const char* flag, std::int64_t value, std::int64_t most) {
    if (value >= 1 && value <= most) return;
    throw UsageError(Problem{.where = flag, .expected = fmt::format("1 to {}", most), .found = std::to_string(value)});
  };
  in_range("--entries", flags.entries, 1'000'000);
  in_range("--tokens", flags.tokens, 1'000'000);
  in_range("--width", flags.width, 1'000'000);
  if (std::filesystem::exists(flags.folder)) {
    throw UsageError(Problem{.where = "--folder",
                             .expected = "a folder that does not exist yet",
                             .found = flags.folder.string(),
                             .fix = "It is made, and removed at the end."});
  }
}

/// Removes the folder it is given, whatever happens.
class ScratchFolder {
 public:
  explicit ScratchFolder(std::filesystem::path path) : path_(std::move(path)) {}
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

 private:
  std::filesystem::path path_;
};

class CacheBench {
 public:
  explicit CacheBench(const CacheFlags& flags)
      : flags_(flags), entry_{.tensors = {{"image_tokens", at::randn({1, flags.tokens, flags.width})}}} {}

  /// A new cache is filled and read twice: as it is, and by a second one that finds everything on disk.
  [[nodiscard]] Json round() {
    const ScratchFolder scratch(flags_.folder);
    Json json = Json::object();
    {
      PrefixCache cache(identity(), options(/*memory=*/true));
      json["store_entries_per_s"] = rate([&](const CacheKey& key) { cache.store(key, entry_); });
      cache.flush();
      json["memory_entries_per_s"] = rate([&](const CacheKey& key) { found(cache, key); });
      json["stored_bytes_per_entry"] =
          static_cast<double>(cache.statistics().disk_bytes) / static_cast<double>(flags_.entries);
    }
    PrefixCache cache(identity(), options(/*memory=*/false));
    json["disk_entries_per_s"] = rate([&](const CacheKey& key) { found(cache, key); });
    return json;
  }

  [[nodiscard]] Json facts() const {
    return Json{
        {"ready", true}, {"storage", flags_.storage}, {"entries", flags_.entries}, {"bytes_per_entry", entry_.bytes()}};
  }

 private:
  [[nodiscard]] static CacheIdentity identity() { return {.fields = {{"purpose", "thaw bench cache"}}}; }

  [[nodiscard]] CacheOptions options(bool memory) const {
    constexpr std::int64_t kEnough = std::int64_t{1} << 40;
    return {.folder = flags_.folder,
            .memory_bytes = memory ? kEnough : 0,
            .disk_bytes = kEnough,
            .storage = parse_cache_storage(flags_.storage)};
  }

  static void found(PrefixCache& cache, const CacheKey& key) {
    if (!cache.find(key)) throw CheckFailed(fmt::format("entry of frame {} was not found", key.frame));
  }

  [[nodiscard]] double rate(const std::function<void(const CacheKey&)>& one) const {
    const Clock::time_point begin = Clock::now();
    for (std::int64_t frame = 0; frame < flags_.entries; ++frame) one({.frame = frame});
    return static_cast<double>(flags_.entries) / seconds_between(begin, Clock::now());
  }

  CacheFlags flags_;
  CacheEntry entry_;
};

void run_cache(const CacheFlags& flags, const Outcome& outcome) {
  validate(flags);
  flags.rounds.apply();
  CacheBench bench(flags);
  print_rounds(run_rounds(flags.rounds, bench.facts(), [&bench] { return bench.round(); }), flags.rounds, outcome.json);
}

}  // namespace

void add_bench_cache_command(CLI::App& bench, Outcome& outcome) {
  const auto flags = std::make_shared<CacheFlags>();
  CLI::App* command = add_subcommand(bench, outcome, "cache", "entries a second into and out of a prefix cache",
                                     "  thaw bench cache --folder scratch --storage bf16 --entries 512");
  command->add_option("--folder", flags->folder, "made for the measurement and removed again")->required();
  command->add_option("--storage", flags->storage, "exact, bf16 or int8");
  command->add_option("--entries", flags->entries, "entries of one round");
  command->add_option("--tokens", flags->tokens, "rows of an entry (SmolVLA's vision output: 64 a camera)");
  command->add_option("--width", flags->width, "columns of an entry");
  flags->rounds.add_to(*command);
  command->callback([flags, &outcome] { run_cache(*flags, outcome); });
}

}  // namespace thaw::cli
