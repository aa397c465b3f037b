// Shards that are not as they were written. Nothing wrong is ever given out, and what is not damaged still is.
#include <gmock/gmock.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "cache/entries.h"
#include "core/temporary_folder.h"
#include "thaw/core/files.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::damage_test {
namespace {

namespace fs = std::filesystem;
using test::entry_of;
using test::identity;
using test::key_of;
using test::on_disk;
using test::printed_by;
using test::same;
using test::TemporaryFolder;
using test::warnings_in;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// Four entries in two shards: 0 and 1, 2 and 3.
class DamagedShard : public ::testing::Test {
 protected:
  DamagedShard() : folder_(test::memory_folder()) { write(CacheStorage::exact); }

  void write(CacheStorage storage) {
    options_ = on_disk(folder_.path());
    options_.shard_bytes = 1 << 20;
    options_.storage = storage;
    PrefixCache cache(identity(), options_);
    for (std::int64_t frame = 0; frame < 4; ++frame) {
      cache.store(key_of(frame), entry_of(frame));
      if (frame == 1) cache.flush();
    }
    path_ = cache.folder() / "shard-000001.safetensors";
    cache.flush();
    content_ = read_text(path_);
  }

  /// Not atomically: the same file, as damage would leave it.
  void replace(std::string_view content) const {
    std::ofstream(path_, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
  }

  [[nodiscard]] std::string flipped_at(std::size_t position) const {
    std::string damaged = content_;
    damaged[position] = static_cast<char>(damaged[position] ^ 1);
    return damaged;
  }

  [[nodiscard]] std::size_t data_begin() const {
    std::uint64_t header = 0;
    std::memcpy(&header, content_.data(), sizeof header);
    return sizeof header + header;
  }

  /// Opens the cache and asks for everything. The entries of the other shard must be there, those of the first must be
  /// right or missing. Returns how many are missing.
  [[nodiscard]] int missing_after_opening() const {
    PrefixCache cache(identity(), options_);
    int missing = 0;
    for (std::int64_t frame = 0; frame < 4; ++frame) {
      const auto found = cache.find(key_of(frame));
      if (frame >= 2 || found) {
        EXPECT_TRUE(same(found, entry_of(frame))) << "frame " << frame;
      } else {
        ++missing;
      }
    }
    return missing;
  }

  TemporaryFolder folder_;
  CacheOptions options_;
  fs::path path_;
  std::string content_;
};

TEST_F(DamagedShard, AFlippedByteInThePayloadCostsItsEntryAndNoOther) {
  ASSERT_EQ(missing_after_opening(), 0);
  static_cast<void>(printed_by([&] {
    for (std::size_t at = data_begin(); at < content_.size(); at += 3) {
      replace(flipped_at(at));
      EXPECT_EQ(missing_after_opening(), 1) << "byte " << at;
    }
  }));
}

TEST_F(DamagedShard, AFlippedByteInTheHeaderIsDetected) {
  static_cast<void>(printed_by([&] {
    for (std::size_t at = 0; at < data_begin(); at += 2) {
      replace(flipped_at(at));
      EXPECT_GE(missing_after_opening(), 1) << "byte " << at << " in " << content_.substr(at, 20);
    }
  }));
}

TEST_F(DamagedShard, ATruncatedFileCostsItsOwnEntries) {
  static_cast<void>(printed_by([&] {
    for (std::size_t size = 0; size < content_.size(); size += 101) {
      replace(content_.substr(0, size));
      EXPECT_EQ(missing_after_opening(), 2) << size << " bytes";
    }
  }));
}

TEST_F(DamagedShard, ThatIsFoundWhileReadingIsCountedForgottenAndSaidOnce) {
  PrefixCache cache(identity(), options_);
  replace(content_.substr(0, data_begin() + 4));  // under the reader
  const std::string printed = printed_by([&] {
    EXPECT_TRUE(cache.contains(key_of(0)));
    EXPECT_FALSE(cache.find(key_of(0)).has_value());
    EXPECT_FALSE(cache.contains(key_of(0)));
    EXPECT_FALSE(cache.find(key_of(1)).has_value());
    EXPECT_FALSE(cache.find(key_of(1)).has_value());
    EXPECT_TRUE(same(cache.find(key_of(2)), entry_of(2)));
  });
  EXPECT_THAT(printed, AllOf(HasSubstr("damage was found"), HasSubstr("shard-000001.safetensors")));
  EXPECT_EQ(warnings_in(printed), 1);
  EXPECT_EQ(cache.statistics().damaged, 2);
  EXPECT_EQ(cache.statistics().misses, 3);
  EXPECT_EQ(cache.statistics().hits, 1);
}

TEST_F(DamagedShard, WhatIsRecomputedIsStoredAgainAndFoundFromThenOn) {
  replace(flipped_at(data_begin()));
  static_cast<void>(printed_by([&] {
    PrefixCache cache(identity(), options_);
    for (const std::int64_t frame : {0, 1}) {
      if (!cache.find(key_of(frame))) cache.store(key_of(frame), entry_of(frame));
    }
    EXPECT_EQ(cache.statistics().stored, 1);
  }));
  const std::string printed = printed_by([&] { EXPECT_EQ(missing_after_opening(), 0); });
  EXPECT_EQ(printed, "") << "the older copy is not read";
  EXPECT_EQ(read_text(path_), flipped_at(data_begin())) << "a shard is never rewritten";
}

TEST_F(DamagedShard, GoesFirstWhenRoomIsNeeded) {
  replace("no safetensors file");
  static_cast<void>(printed_by([&] {
    PrefixCache cache(identity(), options_);
    options_.disk_bytes = cache.statistics().disk_bytes;
  }));
  options_.shard_bytes = 1;
  static_cast<void>(printed_by([&] {
    PrefixCache cache(identity(), options_);
    EXPECT_EQ(cache.statistics().shards, 2) << "it is not deleted before";
    cache.store(key_of(9), {.tensors = {{"k", at::ones({1})}}});
    EXPECT_FALSE(fs::exists(path_));
  }));
}

// ---- files of other hands ----

struct Forgery {
  std::string name;
  CacheStorage storage;
  std::function<void(std::vector<NamedTensor>&, std::map<std::string, std::string>&)> forge;
  std::string said;
};

/// Changes one text of the metadata.
auto replacing(const std::string& key, const std::string& from, const std::string& to) {
  return [=](std::vector<NamedTensor>&, std::map<std::string, std::string>& metadata) {
    std::string& text = metadata.at(key);
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << text;
    text.replace(at, from.size(), to);
  };
}

auto setting(const std::string& key, const std::string& value) {
  return [=](std::vector<NamedTensor>&, std::map<std::string, std::string>& metadata) { metadata[key] = value; };
}

auto renaming(const std::string& from, const std::string& to) {
  return [=](std::vector<NamedTensor>& tensors, std::map<std::string, std::string>&) {
    for (NamedTensor& tensor : tensors) {
      if (tensor.name == from) tensor.name = to;
    }
  };
}

auto with_tensor(const std::string& name, const at::Tensor& tensor) {
  return [=](std::vector<NamedTensor>& tensors, std::map<std::string, std::string>&) {
    std::erase_if(tensors, [&](const NamedTensor& other) { return other.name == name; });
    tensors.push_back({name, tensor});
  };
}

auto without_tensor(const std::string& name) {
  return [=](std::vector<NamedTensor>& tensors, std::map<std::string, std::string>&) {
    std::erase_if(tensors, [&](const NamedTensor& other) { return other.name == name; });
  };
}

std::vector<Forgery> forgeries() {
  constexpr auto kExact = CacheStorage::exact;
  constexpr auto kInt8 = CacheStorage::int8;
  const std::string entries = "thaw.cache.entries";
  const std::string fields = "thaw.cache.identity_fields";
  return {
      {"no metadata", kExact, [](auto&, auto& metadata) { metadata.clear(); }, "'thaw.cache.schema', found none"},
      {"a newer schema", kExact, setting("thaw.cache.schema", "2"), "expected 1, found 2"},
      {"another digest", kExact, setting("thaw.cache.identity", std::string(64, '0')), "expected the identity"},
      {"another field", kExact, replacing(fields, "512x512", "256x256"), "expected the identity"},
      {"fields of numbers", kExact, setting(fields, R"({"base":1})"), "expected texts, found number"},
      {"fields that are no object", kExact, setting(fields, "7"), "found number"},
      {"entries that are no JSON", kExact, setting(entries, "[{]"), "thaw.cache.entries"},
      {"entries that are no list", kExact, setting(entries, "{}"), "expected a list, found object"},
      {"entries that are no objects", kExact, setting(entries, "[1,2]"), "thaw.cache.entries"},
      {"fewer entries than tensors", kExact, setting(entries, "[]"), "the number of an entry and a key"},
      {"an entry without a frame", kExact, replacing(entries, R"("frame":0)", R"("page":0)"), "'frame'"},
      {"a frame that is a text", kExact, replacing(entries, R"("frame":0)", R"("frame":"0")"), "frame"},
      {"a frame with a fraction", kExact, replacing(entries, R"("frame":0)", R"("frame":0.5)"), "frame"},
      {"forms that are a list", kExact, replacing(entries, R"("forms":{})", R"("forms":[1])"), "expected an object"},
      {"a name without a number", kExact, renaming("000000/ids", "../../x"), "found ../../x"},
      {"a name with an odd number", kExact, renaming("000000/ids", "00000x/ids"), "found 00000x/ids"},
      {"a name with a number too large", kExact, renaming("000000/ids", "99999999999999999999/ids"), "/ids"},
      {"a name without a key", kExact, renaming("000000/ids", "000000"), "found 000000"},
      {"a name that stands for another", kExact, renaming("000000/ids", "0/keys.0"), "one tensor of a name"},
      {"scales without values", kExact, with_tensor("000000#scale/x", at::ones({1})), "no scales without values"},
      {"scales of an exact tensor", kExact, with_tensor("000000#scale/ids", at::ones({1})), "no scales"},
      {"no scales", kInt8, without_tensor("000000#scale/keys.0"), "expected scales, found none"},
      {"scales of another shape", kInt8, with_tensor("000000#scale/keys.0", at::ones({1, 1, 1})), "(1, 1, 1)"},
      {"scales of another type", kInt8, with_tensor("000000#scale/keys.0", at::ones({1, 5, 1}, at::kInt)), "int32"},
      {"values of another type", kInt8, with_tensor("000000/keys.0", at::ones({1, 5, 8}, at::kByte)), "uint8"},
      {"an unknown form", kInt8, replacing(entries, R"("storage":"int8")", R"("storage":"zip")"), "found zip"},
      {"a form of integers", kInt8, replacing(entries, R"("dtype":"F32")", R"("dtype":"I32")"), "floating-point"},
      {"a form of one byte", kInt8, replacing(entries, R"("dtype":"F32")", R"("dtype":"F8_E5M2")"), "two bytes"},
      {"an entry without tensors", kExact,
       [](auto& tensors, auto& /*metadata*/) {
         std::erase_if(tensors, [](const NamedTensor& tensor) { return tensor.name.starts_with("000000"); });
       },
       "an entry without any"},
  };
}

TEST_F(DamagedShard, AForgedOneIsSkippedWithTheReason) {
  for (const Forgery& forgery : forgeries()) {
    SCOPED_TRACE(forgery.name);
    fs::remove_all(path_.parent_path());
    write(forgery.storage);
    auto metadata = SafetensorsFile(path_).metadata();
    std::vector<NamedTensor> tensors;
    for (const auto& [name, tensor] : read_safetensors(path_)) tensors.push_back({name, tensor});
    forgery.forge(tensors, metadata);
    write_safetensors(path_, tensors, metadata);

    const std::string printed = printed_by([&] {
      PrefixCache cache(identity(), options_);
      EXPECT_FALSE(cache.contains(key_of(0)));
      EXPECT_FALSE(cache.contains(key_of(1)));
      EXPECT_TRUE(cache.find(key_of(2)).has_value());
      EXPECT_EQ(cache.statistics().shards, 2);
    });
    EXPECT_THAT(printed, AllOf(HasSubstr("a shard is skipped"), HasSubstr("shard-000001"), HasSubstr(forgery.said)));
    EXPECT_EQ(warnings_in(printed), 1) << printed;
  }
}

TEST_F(DamagedShard, ThatIsNoFileIsSkipped) {
  fs::remove(path_);
  fs::create_directory(path_);
  const std::string printed = printed_by([&] { EXPECT_EQ(missing_after_opening(), 2); });
  EXPECT_THAT(printed, HasSubstr("expected a regular file, found a folder"));
}

TEST_F(DamagedShard, FilesOfOtherNamesAreNotTouched) {
  for (const char* name : {"shard-1.safetensors", "shard-00000x.safetensors", "shard-000009.tmp", "notes.txt",
                           "shard-9999999999999999999.safetensors"}) {
    std::ofstream(path_.parent_path() / name) << "mine";
  }
  const std::string printed = printed_by([&] { EXPECT_EQ(missing_after_opening(), 0); });
  EXPECT_EQ(printed, "");
  EXPECT_EQ(read_text(path_.parent_path() / "shard-1.safetensors"), "mine");
}

TEST_F(DamagedShard, KeysThatLookLikePathsAreOnlyKeys) {
  CacheEntry entry;
  const std::vector<std::string> keys{"../../x", "/etc/x", "a/../b", "#scale/x", "", std::string("nul\0nul", 7)};
  for (std::size_t i = 0; i < keys.size(); ++i) entry.tensors[keys[i]] = test::numbers(3, i).view({1, 3});
  for (const auto storage : {CacheStorage::exact, CacheStorage::int8}) {
    const TemporaryFolder outer(test::memory_folder());
    CacheOptions options = on_disk(outer / "a/b/cache");
    options.storage = storage;
    if (storage == CacheStorage::exact) {
      { PrefixCache(identity(), options).store({.frame = 1, .text = "../../y"}, entry); }
      EXPECT_TRUE(same(PrefixCache(identity(), options).find({.frame = 1, .text = "../../y"}), entry));
    } else {
      { PrefixCache(identity(), options).store({.frame = 1, .text = "../../y"}, entry); }
      const auto found = PrefixCache(identity(), options).find({.frame = 1, .text = "../../y"});
      ASSERT_TRUE(found.has_value());
      EXPECT_EQ(found->tensors.size(), keys.size());
    }
    EXPECT_THAT(outer.names(), ::testing::ElementsAre("a"));
    std::vector<std::string> files;
    for (const auto& file : fs::recursive_directory_iterator(outer.path())) {
      if (file.is_regular_file()) files.push_back(file.path().filename().string());
    }
    EXPECT_THAT(files, ::testing::UnorderedElementsAre(".lock", "shard-000001.safetensors"));
  }
}

}  // namespace
}  // namespace thaw::damage_test
