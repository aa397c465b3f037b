#include "thaw/cache/assemble.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include "cache/entries.h"
#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::assemble_test {
namespace {

using test::entry_of;
using test::message_of;
using test::same;
using ::testing::AllOf;
using ::testing::HasSubstr;

CacheEntry one(const std::string& key, at::Tensor tensor) { return {.tensors = {{key, std::move(tensor)}}}; }

std::string refusal(std::vector<CacheEntry> entries) {
  return message_of<MismatchError>([&] { static_cast<void>(assemble(entries)); });
}

TEST(Assemble, StacksEntriesInTheirOrder) {
  const std::vector<CacheEntry> entries{entry_of(3), entry_of(1), entry_of(2)};
  const auto batch = assemble(entries);
  ASSERT_EQ(batch.size(), entries.front().tensors.size());
  for (const auto& [key, tensor] : batch) {
    ASSERT_EQ(tensor.size(0), 3) << key;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const at::Tensor row = tensor.narrow(0, static_cast<std::int64_t>(i), 1);
      EXPECT_TRUE(bitwise_equal(row.contiguous(), entries[i].tensors.at(key))) << key << " of entry " << i;
    }
  }
}

TEST(Assemble, AShorterTextIsPaddedAtItsEndWithZerosAndFalse) {
  CacheEntry text_of_2 = one("hidden", at::ones({1, 2, 3}, at::kBFloat16));
  text_of_2.tensors["mask"] = at::ones({1, 2}, at::kBool);
  CacheEntry text_of_4 = one("hidden", at::full({1, 4, 3}, 2.0, at::kBFloat16));
  text_of_4.tensors["mask"] = at::ones({1, 4}, at::kBool);

  const auto batch = assemble(std::vector<CacheEntry>{text_of_2, text_of_4, text_of_2});
  const at::Tensor hidden = at::zeros({3, 4, 3}, at::kBFloat16);
  hidden.select(0, 0).narrow(0, 0, 2).fill_(1);
  hidden.select(0, 1).fill_(2);
  hidden.select(0, 2).narrow(0, 0, 2).fill_(1);
  EXPECT_TRUE(bitwise_equal(batch.at("hidden"), hidden));
  const at::Tensor mask = at::ones({3, 4}, at::kBool);
  mask.select(0, 0).narrow(0, 2, 2).fill_(false);
  mask.select(0, 2).narrow(0, 2, 2).fill_(false);
  EXPECT_TRUE(bitwise_equal(batch.at("mask"), mask));
}

TEST(Assemble, AnyOneDimensionBesideTheFirstMayBePadded) {
  const auto batch = assemble(std::vector<CacheEntry>{one("k", at::ones({1, 2, 5})), one("k", at::ones({1, 2, 3}))});
  EXPECT_EQ(batch.at("k").sizes(), at::IntArrayRef({2, 2, 5}));
  EXPECT_TRUE(compare_tensors(batch.at("k").sum(at::IntArrayRef{0, 1}), at::tensor({4.0F, 4.0F, 4.0F, 2.0F, 2.0F})));
}

TEST(Assemble, EntriesThatDoNotFitAreNamed) {
  const auto good = one("k", at::ones({1, 2, 3}));
  EXPECT_THAT(refusal({good, good, one("j", at::ones({1, 2, 3}))}),
              AllOf(HasSubstr("cache entries 0 and 2"), HasSubstr("expected the same keys: k, found j")));
  EXPECT_THAT(refusal({good, one("k", at::ones({1, 2, 3}, at::kHalf))}),
              AllOf(HasSubstr("'k'"), HasSubstr("float32 (1, 2, 3)"), HasSubstr("found float16 (1, 2, 3)")));
  EXPECT_THAT(refusal({good, one("k", at::ones({1, 2}))}), HasSubstr("found float32 (1, 2)"));
  EXPECT_THAT(refusal({good, one("k", at::ones({1, 4, 4}))}), HasSubstr("but for one length, found float32 (1, 4, 4)"));
  EXPECT_THAT(refusal({good, one("k", at::ones({1, 4, 3})), one("k", at::ones({1, 2, 4}))}),
              HasSubstr("expected other lengths in dimension 1 alone, found another length in dimension 2 of entry 2"));
  EXPECT_THAT(refusal({good, one("k", at::ones({2, 2, 3}))}), HasSubstr("expected one sample (1, …)"));
  EXPECT_THAT(refusal({one("k", at::ones({}))}), HasSubstr("expected one sample (1, …)"));
  EXPECT_THAT(refusal({one("k", at::Tensor{})}), HasSubstr("an undefined tensor"));
}

TEST(Assemble, NeedsAnEntry) {
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(assemble({})); }), HasSubstr("at least one"));
}

TEST(Split, IsTheInverseOfAssemble) {
  const std::vector<CacheEntry> entries{entry_of(7), entry_of(8)};
  const auto parts = split(assemble(entries));
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_TRUE(same(parts[0], entries[0]));
  EXPECT_TRUE(same(parts[1], entries[1]));
}

TEST(Split, GivesContiguousTensorsWithoutHistoryThatShareNothing) {
  const at::Tensor batch = at::arange(12, at::kFloat).view({3, 4}).t().set_requires_grad(true);  // (4, 3), strided
  const at::Tensor expected = batch.detach().clone().narrow(0, 1, 1).contiguous();
  const auto parts = split({{"k", batch * 1.0}});
  ASSERT_EQ(parts.size(), 4U);
  const at::Tensor& part = parts[1].tensors.at("k");
  EXPECT_TRUE(part.is_contiguous());
  EXPECT_FALSE(part.requires_grad());
  EXPECT_EQ(part.storage().nbytes(), 3 * sizeof(float)) << "the batch would live as long as any entry";
  parts[0].tensors.at("k").fill_(-1);
  EXPECT_TRUE(bitwise_equal(part, expected));
}

TEST(Split, TensorsOfSeveralBatchSizesAreNamed) {
  const auto refusal_of = [](std::map<std::string, at::Tensor> tensors) {
    return message_of<MismatchError>([&] { static_cast<void>(split(tensors)); });
  };
  EXPECT_THAT(refusal_of({{"a", at::ones({2, 1})}, {"b", at::ones({3, 1})}}),
              AllOf(HasSubstr("'b' at the cut"), HasSubstr("as many samples as 'a' has"), HasSubstr("(3, 1)")));
  EXPECT_THAT(refusal_of({{"a", at::ones({})}}), HasSubstr("'a' at the cut"));
  EXPECT_THAT(refusal_of({{"a", at::Tensor{}}}), HasSubstr("an undefined tensor"));
  EXPECT_TRUE(split({}).empty());
}

}  // namespace
}  // namespace thaw::assemble_test
