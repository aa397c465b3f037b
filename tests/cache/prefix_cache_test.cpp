#include "thaw/cache/prefix_cache.h"

#include <gmock/gmock.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "cache/entries.h"
#include "core/temporary_folder.h"
#include "core/throws.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::prefix_cache_test {
namespace {

namespace fs = std::filesystem;
using test::entry_of;
using test::identity;
using test::in_memory;
using test::key_of;
using test::on_disk;
using test::printed_by;
using test::same;
using test::TemporaryFolder;
using test::warnings_in;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

void store_all(PrefixCache& cache, std::int64_t begin, std::int64_t end) {
  for (std::int64_t frame = begin; frame < end; ++frame) cache.store(key_of(frame), entry_of(frame));
}

std::vector<std::int64_t> known(const PrefixCache& cache, std::int64_t end) {
  std::vector<std::int64_t> frames;
  for (std::int64_t frame = 0; frame < end; ++frame) {
    if (cache.contains(key_of(frame))) frames.push_back(frame);
  }
  return frames;
}

std::vector<std::string> shards_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& file : fs::directory_iterator(folder)) {
    if (file.path().extension() == ".safetensors") names.push_back(file.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// ---- one cache ----

TEST(PrefixCache, GivesBackWhatWasStored) {
  const TemporaryFolder folder;
  for (const CacheOptions& options : {in_memory(), on_disk(folder.path())}) {
    PrefixCache cache(identity(), options);
    EXPECT_FALSE(cache.find(key_of(4)).has_value());
    store_all(cache, 0, 5);
    for (std::int64_t frame = 0; frame < 5; ++frame) EXPECT_TRUE(same(cache.find(key_of(frame)), entry_of(frame)));
    const CacheStatistics statistics = cache.statistics();
    EXPECT_EQ(statistics.entries, 5);
    EXPECT_EQ(statistics.stored, 5);
    EXPECT_EQ(statistics.hits, 5);
    EXPECT_EQ(statistics.misses, 1);
    EXPECT_EQ(statistics.evicted + statistics.damaged, 0);
  }
}

TEST(PrefixCache, FrameTextAndViewAreDifferentEntries) {
  PrefixCache cache(identity(), in_memory());
  cache.store({.frame = 1, .text = "a", .view = 0}, entry_of(10));
  cache.store({.frame = 1, .text = "b", .view = 0}, entry_of(11));
  cache.store({.frame = 1, .text = "a", .view = 1}, entry_of(12));
  EXPECT_TRUE(same(cache.find({.frame = 1, .text = "a", .view = 0}), entry_of(10)));
  EXPECT_TRUE(same(cache.find({.frame = 1, .text = "b", .view = 0}), entry_of(11)));
  EXPECT_TRUE(same(cache.find({.frame = 1, .text = "a", .view = 1}), entry_of(12)));
  EXPECT_FALSE(cache.contains({.frame = 1, .text = "", .view = 0}));
  EXPECT_FALSE(cache.find({.frame = 1, .text = "", .view = 0}).has_value());
}

TEST(PrefixCache, AKnownKeyKeepsWhatItHas) {
  const TemporaryFolder folder;
  for (const CacheOptions& options : {in_memory(), on_disk(folder.path())}) {
    PrefixCache cache(identity(), options);
    cache.store(key_of(1), entry_of(1));
    cache.store(key_of(1), entry_of(2));
    EXPECT_TRUE(same(cache.find(key_of(1)), entry_of(1)));
    EXPECT_EQ(cache.statistics().stored, 1);
  }
}

TEST(PrefixCache, WritingIntoAFoundEntryDoesNotReachTheCache) {
  const TemporaryFolder folder;
  CacheOptions both = on_disk(folder.path());
  both.memory_bytes = 1 << 20;
  { PrefixCache(identity(), both).store(key_of(1), entry_of(1)); }
  PrefixCache cache(identity(), both);
  for (int round = 0; round < 3; ++round) {  // from disk, then from memory
    auto found = cache.find(key_of(1));
    ASSERT_TRUE(same(found, entry_of(1))) << "round " << round;
    for (auto& [key, tensor] : found->tensors) tensor.zero_();
  }
  EXPECT_EQ(cache.statistics().disk_hits, 1) << "what was read once is in memory";
}

TEST(PrefixCache, WritingIntoAStoredEntryDoesNotReachTheCache) {
  PrefixCache cache(identity(), in_memory());
  const CacheEntry entry = entry_of(1);
  cache.store(key_of(1), entry);
  for (const auto& [key, tensor] : entry.tensors) tensor.zero_();
  EXPECT_TRUE(same(cache.find(key_of(1)), entry_of(1)));
}

// ---- budgets ----

TEST(MemoryBudget, TheLeastRecentlyUsedEntryGoesFirst) {
  PrefixCache cache(identity(), in_memory(3 * entry_of(0).bytes()));
  store_all(cache, 0, 3);
  static_cast<void>(cache.find(key_of(0)));
  cache.store(key_of(3), entry_of(3));
  EXPECT_THAT(known(cache, 5), ElementsAre(0, 2, 3));
  cache.store(key_of(4), entry_of(4));
  EXPECT_THAT(known(cache, 5), ElementsAre(0, 3, 4));
  const CacheStatistics statistics = cache.statistics();
  EXPECT_EQ(statistics.evicted, 2);
  EXPECT_EQ(statistics.memory_bytes, 3 * entry_of(0).bytes());
  EXPECT_FALSE(cache.find(key_of(1)).has_value());
}

TEST(MemoryBudget, AskingWhetherAnEntryIsKnownIsNoUseOfIt) {
  PrefixCache cache(identity(), in_memory(2 * entry_of(0).bytes()));
  store_all(cache, 0, 2);
  EXPECT_TRUE(cache.contains(key_of(0)));
  cache.store(key_of(2), entry_of(2));
  EXPECT_THAT(known(cache, 3), ElementsAre(1, 2));
}

TEST(MemoryBudget, AnEntryLargerThanItIsNotKeptAndThatIsSaidOnce) {
  PrefixCache cache(identity(), in_memory(entry_of(0).bytes() - 1));
  const std::string printed = printed_by([&] { store_all(cache, 0, 3); });
  EXPECT_THAT(printed, HasSubstr(fmt::format("an entry of {} bytes is larger than the budget", entry_of(0).bytes())));
  EXPECT_EQ(warnings_in(printed), 1);
  EXPECT_EQ(cache.statistics().entries, 0);
  EXPECT_EQ(cache.statistics().stored, 0);
}

TEST(MemoryBudget, EntriesOfShardsLeaveMemoryAndStayKnown) {
  const TemporaryFolder folder;
  CacheOptions options = on_disk(folder.path());
  options.memory_bytes = 2 * entry_of(0).bytes();
  PrefixCache cache(identity(), options);
  store_all(cache, 0, 6);
  EXPECT_EQ(cache.statistics().memory_bytes, 2 * entry_of(0).bytes());
  EXPECT_EQ(cache.statistics().entries, 6);
  EXPECT_EQ(cache.statistics().evicted, 0);
  EXPECT_TRUE(same(cache.find(key_of(5)), entry_of(5)));
  EXPECT_EQ(cache.statistics().disk_hits, 0);
  EXPECT_TRUE(same(cache.find(key_of(0)), entry_of(0)));
  EXPECT_EQ(cache.statistics().disk_hits, 1);
}

TEST(DiskBudget, TheShardThatWasNotUsedForLongestIsDeleted) {
  const TemporaryFolder folder;
  CacheOptions options = on_disk(folder.path());
  {
    PrefixCache probe(CacheIdentity{.fields = {{"probe", "1"}}}, options);
    store_all(probe, 0, 1);
    options.disk_bytes = 3 * probe.statistics().disk_bytes + probe.statistics().disk_bytes / 2;
  }
  PrefixCache cache(identity(), options);
  store_all(cache, 0, 3);
  EXPECT_TRUE(same(cache.find(key_of(0)), entry_of(0)));
  store_all(cache, 3, 4);
  EXPECT_THAT(known(cache, 5), ElementsAre(0, 2, 3));
  store_all(cache, 4, 5);
  EXPECT_THAT(known(cache, 5), ElementsAre(0, 3, 4));
  EXPECT_THAT(shards_in(cache.folder()),
              ElementsAre("shard-000001.safetensors", "shard-000004.safetensors", "shard-000005.safetensors"));
  EXPECT_FALSE(cache.find(key_of(1)).has_value());
  EXPECT_EQ(cache.statistics().evicted, 2);
  EXPECT_LE(cache.statistics().disk_bytes, options.disk_bytes);
  EXPECT_EQ(cache.statistics().shards, 3);
}

TEST(DiskBudget, OneThatShrankIsKeptAtTheNextOpening) {
  const TemporaryFolder folder;
  CacheOptions options = on_disk(folder.path());
  {
    PrefixCache cache(identity(), options);
    store_all(cache, 0, 4);
    options.disk_bytes = cache.statistics().disk_bytes / 2 + 10;
  }
  const PrefixCache cache(identity(), options);
  EXPECT_THAT(known(cache, 4), ElementsAre(2, 3)) << "the oldest go first";
  EXPECT_LE(cache.statistics().disk_bytes, options.disk_bytes);
  EXPECT_EQ(shards_in(cache.folder()).size(), 2U);
}

TEST(DiskBudget, AnEntryLargerThanItIsKeptInMemoryAlone) {
  const TemporaryFolder folder;
  CacheOptions options = on_disk(folder.path());
  options.disk_bytes = 10;
  options.memory_bytes = 1 << 20;
  PrefixCache cache(identity(), options);
  store_all(cache, 0, 1);
  EXPECT_TRUE(same(cache.find(key_of(0)), entry_of(0)));
  EXPECT_EQ(cache.statistics().shards, 0);
}

// ---- shards ----

TEST(Shards, AreCommittedWhenFullAtFlushAndAtTheEnd) {
  const TemporaryFolder folder;
  CacheOptions options = on_disk(folder.path());
  options.shard_bytes = 3 * entry_of(0).bytes();
  {
    PrefixCache cache(identity(), options);
    store_all(cache, 0, 2);
    EXPECT_EQ(cache.statistics().shards, 0);
    EXPECT_EQ(cache.statistics().memory_bytes, 2 * entry_of(0).bytes()) << "an open shard is in memory";
    EXPECT_TRUE(same(cache.find(key_of(1)), entry_of(1)));
    store_all(cache, 2, 3);
    EXPECT_EQ(cache.statistics().shards, 1);
    EXPECT_EQ(cache.statistics().memory_bytes, 0);
    store_all(cache, 3, 4);
    cache.flush();
    EXPECT_EQ(cache.statistics().shards, 2);
    cache.flush();
    EXPECT_EQ(cache.statistics().shards, 2) << "an empty shard is no shard";
    store_all(cache, 4, 5);
  }
  PrefixCache cache(identity(), options);
  EXPECT_EQ(cache.statistics().shards, 3);
  for (std::int64_t frame = 0; frame < 5; ++frame) EXPECT_TRUE(same(cache.find(key_of(frame)), entry_of(frame)));
}

TEST(Shards, ThatWereReopenedAreAddedToAndNeverRewritten) {
  const TemporaryFolder folder;
  { store_all(*std::make_unique<PrefixCache>(identity(), on_disk(folder.path())), 0, 2); }
  PrefixCache cache(identity(), on_disk(folder.path()));
  const std::string before = read_text(cache.folder() / "shard-000001.safetensors");
  store_all(cache, 0, 3);
  EXPECT_EQ(cache.statistics().stored, 1);
  EXPECT_THAT(shards_in(cache.folder()),
              ElementsAre("shard-000001.safetensors", "shard-000002.safetensors", "shard-000003.safetensors"));
  EXPECT_EQ(read_text(cache.folder() / "shard-000001.safetensors"), before);
}

TEST(Shards, AreSafetensorsFilesThatSayWhatTheyHold) {
  const TemporaryFolder folder;
  CacheOptions options = on_disk(folder.path());
  options.storage = CacheStorage::int8;
  options.shard_bytes = 1 << 20;
  PrefixCache cache(identity(), options);
  store_all(cache, 0, 2);
  cache.flush();
  const SafetensorsFile shard(cache.folder() / "shard-000001.safetensors");
  EXPECT_EQ(shard.entry("000001/keys.0").dtype, at::kChar);
  EXPECT_EQ(shard.entry("000001#scale/keys.0").dtype, at::kFloat);
  EXPECT_THAT(shard.entry("000001#scale/keys.0").shape, ElementsAre(1, 5, 1));
  EXPECT_TRUE(bitwise_equal(shard.read("000001/ids"), entry_of(1).tensors.at("ids")));
  const at::Tensor by_hand = shard.read("000001/keys.0").to(at::kFloat) * shard.read("000001#scale/keys.0");
  EXPECT_TRUE(bitwise_equal(by_hand, cache.find(key_of(1))->tensors.at("keys.0")));
  EXPECT_THAT(shard.metadata().at("thaw.cache.identity_fields"), HasSubstr(R"("resize":"512x512")"));
  EXPECT_THAT(shard.metadata().at("thaw.cache.entries"), HasSubstr(R"({"frame":1,"text":"pick up the cup","view":0)"));
  EXPECT_EQ(cache.folder().filename().string(), shard.metadata().at("thaw.cache.identity").substr(0, 16));
}

TEST(Shards, OfManySmallEntriesAreCommittedBeforeTheirHeaderGrowsTooLarge) {
  const TemporaryFolder folder(test::memory_folder());
  CacheOptions options = on_disk(folder.path());
  options.shard_bytes = std::int64_t{1} << 30;
  PrefixCache cache(identity(), options);
  const CacheEntry small{.tensors = {{"k", at::ones({1})}}};
  const std::string text(60'000, 't');
  for (std::int64_t frame = 0; frame < 80; ++frame) cache.store({.frame = frame, .text = text}, small);
  EXPECT_EQ(cache.statistics().shards, 1);
}

// ---- identities ----

TEST(Identity, AnotherOneMissesAndBothLieSideBySide) {
  const TemporaryFolder folder;
  { store_all(*std::make_unique<PrefixCache>(identity(), on_disk(folder.path())), 0, 2); }
  for (const auto& [name, value] : identity().fields) {
    CacheIdentity changed = identity();
    changed.fields[name] = value + " changed";
    PrefixCache cache(changed, on_disk(folder.path()));
    EXPECT_FALSE(cache.contains(key_of(0))) << name;
    EXPECT_FALSE(cache.find(key_of(0)).has_value()) << name;
    cache.store(key_of(0), entry_of(100));
    EXPECT_TRUE(same(cache.find(key_of(0)), entry_of(100)));
  }
  PrefixCache cache(identity(), on_disk(folder.path()));
  EXPECT_TRUE(same(cache.find(key_of(0)), entry_of(0)));
  EXPECT_EQ(folder.names().size(), 1 + identity().fields.size());
}

TEST(Identity, AnotherFormOfStorageMisses) {
  const TemporaryFolder folder;
  CacheOptions options = on_disk(folder.path());
  options.storage = CacheStorage::int8;
  { store_all(*std::make_unique<PrefixCache>(identity(), options), 0, 1); }
  EXPECT_FALSE(PrefixCache(identity(), on_disk(folder.path())).contains(key_of(0)));
  EXPECT_TRUE(PrefixCache(identity(), options).contains(key_of(0)));
}

TEST(Identity, AShardFromAnotherFolderIsSkipped) {
  const TemporaryFolder folder;
  CacheIdentity other = identity();
  other.fields["base"] = "another";
  fs::path foreign;
  {
    PrefixCache cache(other, on_disk(folder.path()));
    store_all(cache, 0, 1);
    foreign = cache.folder() / "shard-000001.safetensors";
  }
  fs::path own;
  {
    PrefixCache cache(identity(), on_disk(folder.path()));
    store_all(cache, 1, 2);
    own = cache.folder();
  }
  fs::copy_file(foreign, own / "shard-000002.safetensors");
  const std::string printed = printed_by([&] {
    PrefixCache cache(identity(), on_disk(folder.path()));
    EXPECT_FALSE(cache.find(key_of(0)).has_value());
    EXPECT_TRUE(same(cache.find(key_of(1)), entry_of(1)));
  });
  EXPECT_THAT(printed, AllOf(HasSubstr("shard-000002.safetensors"), HasSubstr("expected the identity")));
  EXPECT_EQ(warnings_in(printed), 1);
}

// ---- several caches on one folder ----

TEST(TwoCaches, TheSecondSaysSoAndReadsWhatWasCommitted) {
  const TemporaryFolder folder;
  PrefixCache first(identity(), on_disk(folder.path()));
  store_all(first, 0, 2);
  ::testing::internal::CaptureStderr();
  CacheOptions options = on_disk(folder.path());
  options.memory_bytes = 1 << 20;
  PrefixCache second(identity(), options);
  const std::string printed = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(printed, AllOf(HasSubstr("a lock held by process"), HasSubstr("in memory only")));
  EXPECT_EQ(warnings_in(printed), 1);
  EXPECT_TRUE(first.writes());
  EXPECT_FALSE(second.writes());

  EXPECT_TRUE(same(second.find(key_of(1)), entry_of(1)));
  store_all(second, 2, 4);
  second.flush();
  EXPECT_TRUE(same(second.find(key_of(3)), entry_of(3)));
  EXPECT_EQ(second.statistics().shards, 2);
  EXPECT_EQ(shards_in(first.folder()).size(), 2U) << "the second wrote";
  store_all(first, 2, 3);
  EXPECT_TRUE(same(first.find(key_of(2)), entry_of(2)));
}

TEST(TwoCaches, TheNextOneWritesOnceTheFirstHasEnded) {
  const TemporaryFolder folder;
  {
    const PrefixCache first(identity(), on_disk(folder.path()));
    EXPECT_TRUE(first.writes());
  }
  const PrefixCache next(identity(), on_disk(folder.path()));
  EXPECT_TRUE(next.writes());
}

TEST(TwoCaches, OfDifferentIdentitiesBothWrite) {
  const TemporaryFolder folder;
  CacheIdentity other = identity();
  other.fields["base"] = "another";
  const PrefixCache first(identity(), on_disk(folder.path()));
  const PrefixCache second(other, on_disk(folder.path()));
  EXPECT_TRUE(first.writes());
  EXPECT_TRUE(second.writes());
}

TEST(TwoCaches, AShardDeletedUnderAReaderIsAMissWithoutAWord) {
  const TemporaryFolder folder;
  PrefixCache first(identity(), on_disk(folder.path()));
  store_all(first, 0, 2);
  ::testing::internal::CaptureStderr();
  PrefixCache reader(identity(), on_disk(folder.path()));
  static_cast<void>(::testing::internal::GetCapturedStderr());
  fs::remove(first.folder() / "shard-000001.safetensors");
  const std::string printed = printed_by([&] {
    EXPECT_TRUE(reader.contains(key_of(0)));
    EXPECT_FALSE(reader.find(key_of(0)).has_value());
    EXPECT_FALSE(reader.contains(key_of(0)));
    EXPECT_TRUE(same(reader.find(key_of(1)), entry_of(1)));
  });
  EXPECT_EQ(printed, "");
  EXPECT_EQ(reader.statistics().damaged, 0);
  EXPECT_EQ(reader.statistics().misses, 1);
}

TEST(TwoCaches, OnlyTheOneThatWritesRemovesWhatAKilledProcessLeft) {
  const TemporaryFolder folder;
  fs::path left;
  {
    const PrefixCache cache(identity(), on_disk(folder.path()));
    left = cache.folder() / ".thaw-tmp-12345-0-deadbeef";
  }
  std::ofstream(left) << "half a shard";
  {
    const DirectoryLock other(left.parent_path());
    static_cast<void>(printed_by([&] { const PrefixCache reader(identity(), on_disk(folder.path())); }));
    EXPECT_TRUE(fs::exists(left)) << "it may be the other's";
  }
  const PrefixCache cache(identity(), on_disk(folder.path()));
  EXPECT_FALSE(fs::exists(left));
}

TEST(PrefixCache, AFolderThatCannotBeMadeIsSaidBeforeAnythingIsComputed) {
  const TemporaryFolder folder;
  const fs::path file = folder.write("a-file", "");
  EXPECT_THAT(test::message_of<IoError>([&] { const PrefixCache cache(identity(), on_disk(file)); }),
              AllOf(HasSubstr("a-file"), HasSubstr("a folder for the prefix cache")));
}

// ---- threads ----

TEST(Threads, FindWhileOthersStoreAndEntriesComeAndGo) {
  const TemporaryFolder folder(test::memory_folder());
  constexpr std::int64_t kFrames = 60;
  CacheOptions options = on_disk(folder.path());
  options.memory_bytes = 5 * entry_of(0).bytes();
  options.shard_bytes = 4 * entry_of(0).bytes();
  options.disk_bytes = 80 * entry_of(0).bytes();
  PrefixCache cache(identity(), options);
  std::vector<CacheEntry> expected;
  for (std::int64_t frame = 0; frame < kFrames; ++frame) expected.push_back(entry_of(frame));

  std::atomic<bool> done{false};
  std::atomic<std::int64_t> finds{0};
  std::atomic<std::int64_t> wrong{0};
  const auto look = [&](std::int64_t start) {
    for (std::int64_t i = start; !done || i < start + 500; i += 7) {
      const auto frame = static_cast<std::size_t>(i % kFrames);
      const auto found = cache.find(key_of(i % kFrames));
      ++finds;
      if (found && !same(found, expected[frame])) ++wrong;
    }
  };
  const auto keep = [&](std::int64_t start) {
    for (std::int64_t i = 0; i < 3 * kFrames; ++i) {
      const std::int64_t frame = (start + i) % kFrames;
      cache.store(key_of(frame), expected[static_cast<std::size_t>(frame)]);
      if (i % 50 == 0) cache.flush();
    }
  };
  std::vector<std::thread> readers;
  for (std::int64_t i = 0; i < 3; ++i) readers.emplace_back(look, i);
  std::thread writer(keep, 0);
  std::thread other_writer(keep, kFrames / 2);
  writer.join();
  other_writer.join();
  done = true;
  for (std::thread& reader : readers) reader.join();

  EXPECT_EQ(wrong, 0);
  const CacheStatistics statistics = cache.statistics();
  EXPECT_EQ(statistics.hits + statistics.misses, finds);
  EXPECT_GT(statistics.hits, 0);
  EXPECT_GT(statistics.evicted, 0);
  EXPECT_EQ(statistics.damaged, 0);
  EXPECT_LE(statistics.disk_bytes, options.disk_bytes);
}

}  // namespace
}  // namespace thaw::prefix_cache_test
