// What a cache is asked for.
#include <gmock/gmock.h>

#include "cache/entries.h"
#include "core/temporary_folder.h"
#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::options_test {
namespace {

using test::entry_of;
using test::identity;
using test::in_memory;
using test::key_of;
using test::message_of;
using ::testing::HasSubstr;

std::string refusal(const CacheOptions& options) {
  return message_of<UsageError>([&] { options.validate(); });
}

TEST(CacheOptions, ABudgetThatKeepsNothingIsRefused) {
  EXPECT_THAT(refusal({.memory_bytes = 0}),
              HasSubstr("CacheOptions::memory_bytes: expected at least 1 bytes, found 0"));
  EXPECT_THAT(refusal({.folder = "f", .memory_bytes = -1, .disk_bytes = 1}), HasSubstr("memory_bytes"));
  EXPECT_THAT(refusal({.folder = "f", .memory_bytes = 5, .disk_bytes = 0}), HasSubstr("CacheOptions::disk_bytes"));
  EXPECT_THAT(refusal({.memory_bytes = 5, .shard_bytes = 0}), HasSubstr("CacheOptions::shard_bytes"));
  EXPECT_NO_THROW((CacheOptions{.folder = "f", .memory_bytes = 0, .disk_bytes = 1}.validate()));
  EXPECT_NO_THROW((CacheOptions{.memory_bytes = 1}.validate()));
}

TEST(CacheIdentity, EveryFieldAndItsNameCount) {
  const std::string digest = identity().digest();
  EXPECT_EQ(digest.size(), 64U);
  for (const auto& [name, value] : identity().fields) {
    CacheIdentity other = identity();
    other.fields[name] = value + "0";
    EXPECT_NE(other.digest(), digest) << name;
    other.fields.erase(name);
    EXPECT_NE(other.digest(), digest) << "without " << name;
  }
}

TEST(CacheIdentity, FieldsDoNotRunTogether) {
  EXPECT_NE((CacheIdentity{.fields = {{"a", "1"}, {"b", "2"}}}.digest()),
            (CacheIdentity{.fields = {{"a", "11:b=1:2"}}}.digest()));
  EXPECT_NE((CacheIdentity{.fields = {{"ab", "c"}}}.digest()), (CacheIdentity{.fields = {{"a", "bc"}}}.digest()));
}

TEST(CacheIdentity, OneWithoutFieldsOrWithoutTextIsRefused) {
  const auto refusal_of = [](const CacheIdentity& odd) {
    return message_of<UsageError>([&] { const PrefixCache cache(odd, in_memory()); });
  };
  EXPECT_THAT(refusal_of({}), HasSubstr("expected the fields that decide"));
  EXPECT_THAT(refusal_of({.fields = {{"base", "\xff"}}}), HasSubstr("CacheIdentity, 'base': expected UTF-8"));
}

TEST(CacheKey, IsOrderedByFrameTextAndView) {
  EXPECT_LT((CacheKey{1, "z", 9}), (CacheKey{2, "a", 0}));
  EXPECT_LT((CacheKey{1, "a", 9}), (CacheKey{1, "b", 0}));
  EXPECT_LT((CacheKey{1, "a", 0}), (CacheKey{1, "a", 1}));
  EXPECT_EQ((CacheKey{1, "a", 1}), (CacheKey{1, "a", 1}));
}

TEST(PrefixCache, AnEntryThatNoShardCouldHoldIsRefusedAtOnce) {
  PrefixCache cache(identity(), in_memory());
  const auto refusal_of = [&](const CacheKey& key, const CacheEntry& entry) {
    return message_of<UsageError>([&] { cache.store(key, entry); });
  };
  const auto with = [](const std::string& key, at::Tensor tensor) {
    return CacheEntry{.tensors = {{key, std::move(tensor)}}};
  };
  EXPECT_THAT(refusal_of(key_of(5), {}), HasSubstr("frame 5, tensors: expected at least one, found none"));
  EXPECT_THAT(refusal_of(key_of(5), with("k", at::ones({2, 3}))), HasSubstr("'k': expected one sample (1, …)"));
  EXPECT_THAT(refusal_of(key_of(5), with("k", at::ones({}))), HasSubstr("expected one sample (1, …)"));
  EXPECT_THAT(refusal_of(key_of(5), with("k", at::ones({1, 1, 1, 1, 1, 1, 1, 1, 1}))), HasSubstr("8 dimensions"));
  EXPECT_THAT(refusal_of(key_of(5), with("k", at::Tensor{})), HasSubstr("an undefined one"));
  EXPECT_THAT(refusal_of(key_of(5), with("k", at::ones({1}, at::kComplexFloat))), HasSubstr("element type"));
  EXPECT_THAT(refusal_of(key_of(5), with(std::string(513, 'k'), at::ones({1}))), HasSubstr("at most 512 bytes"));
  EXPECT_THAT(refusal_of(key_of(5), with("\xc3", at::ones({1}))), HasSubstr("a key of frame 5: expected UTF-8"));
  EXPECT_THAT(refusal_of({.frame = 5, .text = "\xff"}, entry_of(5)), HasSubstr("the text of frame 5: expected UTF-8"));
  EXPECT_THAT(refusal_of({.frame = 5, .text = std::string(65537, 't')}, entry_of(5)), HasSubstr("at most 65536"));
  EXPECT_EQ(cache.statistics().entries, 0);
}

}  // namespace
}  // namespace thaw::options_test
