#include "core/throws.h"
#include "thaw/core/error.h"
#include "thaw/policy/processor_steps.h"
#include "thaw/tensor/compare.h"

namespace thaw::tokenizer_step_test {
namespace {

using test::message_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// One id a byte, after a 1 and before a 2 when asked for.
class BytesTokenizer final : public Tokenizer {
 public:
  explicit BytesTokenizer(TruncationSide side = TruncationSide::right, bool specials = false)
      : side_(side), specials_(specials) {}
  [[nodiscard]] std::vector<std::int64_t> encode(std::string_view text) const override {
    std::vector<std::int64_t> ids(text.begin(), text.end());
    if (!specials_) return ids;
    ids.insert(ids.begin(), 1);
    ids.push_back(2);
    return ids;
  }
  [[nodiscard]] std::int64_t vocabulary_size() const override { return 256; }
  [[nodiscard]] std::int64_t pad_id() const override { return 99; }
  [[nodiscard]] TruncationSide truncation_side() const override { return side_; }
  [[nodiscard]] AddedSpecials added_specials() const override {
    return {.before = specials_ ? 1 : 0, .after = specials_ ? 1 : 0};
  }
  [[nodiscard]] std::string digest() const override { return {}; }

 private:
  TruncationSide side_;
  bool specials_;
};

Batch batch_of(std::vector<std::string> tasks) {
  std::vector<std::int64_t> indices(tasks.size(), 0);
  return {.tensors = {}, .tasks = std::move(tasks), .indices = std::move(indices)};
}

Batch run(const TokenizerStepOptions& options, std::vector<std::string> tasks,
          const BytesTokenizer& tokenizer = BytesTokenizer()) {
  Batch batch = batch_of(std::move(tasks));
  make_tokenizer_step(options, std::make_shared<BytesTokenizer>(tokenizer))->apply(batch);
  return batch;
}

at::Tensor rows(const std::vector<std::vector<std::int64_t>>& values) {
  std::vector<at::Tensor> tensors;
  for (const auto& row : values) tensors.push_back(at::tensor(row, at::kLong));
  return at::stack(tensors);
}

TEST(TokenizerStep, PadsToTheLongestOfTheBatchOnTheRight) {
  const Batch batch = run({.max_length = 10, .padding = TokenPadding::longest}, {"ab", "c"});
  EXPECT_TRUE(compare_tensors(batch.at(kTokensKey), rows({{'a', 'b'}, {'c', 99}})));
  EXPECT_TRUE(compare_tensors(batch.at(kAttentionMaskKey), rows({{1, 1}, {1, 0}}).to(at::kBool)));
}

TEST(TokenizerStep, PadsToMaxLengthOnTheLeft) {
  const Batch batch = run({.max_length = 4, .padding_side = PaddingSide::left}, {"ab", "cde"});
  EXPECT_TRUE(compare_tensors(batch.at(kTokensKey), rows({{99, 99, 'a', 'b'}, {99, 'c', 'd', 'e'}})));
  EXPECT_TRUE(compare_tensors(batch.at(kAttentionMaskKey), rows({{0, 0, 1, 1}, {0, 1, 1, 1}}).to(at::kBool)));
}

TEST(TokenizerStep, TruncationKeepsTheFirstOrTheLastIds) {
  const TokenizerStepOptions options{.max_length = 3};
  EXPECT_TRUE(compare_tensors(run(options, {"abcde"}).at(kTokensKey), rows({{'a', 'b', 'c'}})));
  const BytesTokenizer left(TruncationSide::left);
  EXPECT_TRUE(compare_tensors(run(options, {"abcde"}, left).at(kTokensKey), rows({{'c', 'd', 'e'}})));
}

TEST(TokenizerStep, TruncationKeepsTheSpecialTokens) {
  const TokenizerStepOptions options{.max_length = 4};
  for (const auto& [side, kept] : {std::pair{TruncationSide::right, "ab"}, std::pair{TruncationSide::left, "de"}}) {
    const Batch batch = run(options, {"abcde"}, BytesTokenizer(side, /*specials=*/true));
    EXPECT_TRUE(compare_tensors(batch.at(kTokensKey), rows({{1, kept[0], kept[1], 2}})));
  }
  EXPECT_THAT(message_of<MismatchError>(
                  [] { run({.max_length = 1}, {"ab"}, BytesTokenizer(TruncationSide::right, /*specials=*/true)); }),
              HasSubstr("special tokens"));
}

TEST(TokenizerStep, TextThatIsTooLongThrowsWithoutTruncation) {
  EXPECT_THAT(message_of<MismatchError>([] { run({.max_length = 2, .truncation = false}, {"abc"}); }),
              AllOf(HasSubstr("at most 2"), HasSubstr("found 3")));
  const Batch longest = run({.max_length = 2, .padding = TokenPadding::longest, .truncation = false}, {"abc"});
  EXPECT_TRUE(compare_tensors(longest.at(kTokensKey), rows({{'a', 'b', 'c'}})));
}

TEST(TokenizerStep, BadOptionsAreNamed) {
  EXPECT_THAT(message_of<UsageError>([] { TokenizerStepOptions{.max_length = 0}.validate(); }),
              HasSubstr("max_length"));
  EXPECT_THAT(message_of<UsageError>([] { TokenizerStepOptions{.task_key = "prompt"}.validate(); }),
              HasSubstr("'prompt'"));
  EXPECT_THAT(
      message_of<UsageError>([] { static_cast<void>(make_tokenizer_step({}, std::shared_ptr<const Tokenizer>())); }),
      HasSubstr("null"));
}

TEST(TokenizerStep, TokenizerIsMissedAtTheFirstUseOnly) {
  const auto step = make_tokenizer_step({.tokenizer_name = "org/absent"},
                                        TokenizerSearch{.checkpoint = {}, .override_folder = "/nonexistent/folder"});
  Batch batch = batch_of({"a"});
  EXPECT_THAT(message_of<IoError>([&] { step->apply(batch); }),
              AllOf(HasSubstr("'org/absent'"), HasSubstr("/nonexistent/folder")));
}

}  // namespace
}  // namespace thaw::tokenizer_step_test
