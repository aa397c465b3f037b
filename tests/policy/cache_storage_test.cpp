#include "thaw/policy/cache_storage.h"

#include <gmock/gmock.h>

#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::cache_storage_test {
namespace {

using test::message_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(CacheStorage, NamesAndTheirSpellings) {
  for (const auto storage : {CacheStorage::exact, CacheStorage::bf16, CacheStorage::int8}) {
    EXPECT_EQ(parse_cache_storage(cache_storage_name(storage)), storage);
  }
  EXPECT_EQ(parse_cache_storage("fp32"), CacheStorage::exact);
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(parse_cache_storage("fp16")); }),
              AllOf(HasSubstr("exact (or fp32), bf16 or int8"), HasSubstr("'fp16'")));
}

}  // namespace
}  // namespace thaw::cache_storage_test
