// Freeze rules as text and as calls.
#include <fmt/ranges.h>

#include "layouts.h"
#include "thaw/core/error.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw::rule_text_test {
namespace {

using test::message_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> rules_of(std::string_view text) { return LayerFreezePolicy::parse(text).rules(); }

std::string error_of(const std::string& text) {
  return message_of<UsageError>([&text] { (void)LayerFreezePolicy::parse(text); });
}

TEST(FreezeRuleText, EveryFormOfTheGrammarIsRead) {
  EXPECT_THAT(rules_of("vision=0,language=2,expert=all,a=none,b=first:3,c=[0,3,5-7],*=1,train:*state_proj*,"
                       "freeze:*.norm.*,train:/^m\\.k{1,2}$/,freeze:@norms"),
              ElementsAre("vision=0", "language=2", "expert=all", "a=none", "b=first:3", "c=[0,3,5-7]", "*=1",
                          "train:*state_proj*", "freeze:*.norm.*", "train:/^m\\.k{1,2}$/", "freeze:@norms"));
}

TEST(FreezeRuleText, SpacesAroundRulesAndSignsMeanNothing) {
  EXPECT_THAT(rules_of("  language =  2 ,\n a= first : 3 , b = [ 5 - 7 , 0 ] ,train : *x* "),
              ElementsAre("language=2", "a=first:3", "b=[0,5-7]", "train:*x*"));
}

TEST(FreezeRuleText, BlockListsAreSortedAndMergedIntoRanges) {
  EXPECT_THAT(rules_of("a=[7,1,0,1,2,9-10]"), ElementsAre("a=[0-2,7,9-10]"));
}

TEST(FreezeRuleText, CommasInSetsAndRegularExpressionsEndNoRule) {
  EXPECT_THAT(rules_of("train:*[a,b]*,freeze:/[^/,]{1,3}/,x=1"),
              ElementsAre("train:*[a,b]*", "freeze:/[^/,]{1,3}/", "x=1"));
}

TEST(FreezeRuleText, EmptyTextIsTheModelsOwnDefault) {
  EXPECT_THAT(rules_of(""), IsEmpty());
  EXPECT_THAT(rules_of(" \n"), IsEmpty());
}

TEST(FreezeRuleText, RulesJoinedReadBackAsThemselves) {
  std::mt19937 random(5);
  const auto below = [&random](unsigned n) { return random() % n; };
  const std::vector<std::string> names{"vision", "encoder.layers", "*", "a_b-c"};
  const std::vector<std::string> patterns{"*state*", "a.[0,1].*", "/a,b/", "@biases", "/x\\/y/", "?.bias"};
  for (int round = 0; round < 200; ++round) {
    LayerFreezePolicy policy;
    for (std::uint64_t i = below(5); i > 0; --i) {
      const std::string& stack = names[below(4)];
      const std::string& pattern = patterns[below(6)];
      const auto count = static_cast<std::int64_t>(below(30));
      switch (below(7)) {
        case 0:
          policy.last(stack, count);
          break;
        case 1:
          policy.first(stack, count);
          break;
        case 2:
          policy.all(stack);
          break;
        case 3:
          policy.none(stack);
          break;
        case 4:
          policy.blocks(stack, {count, count + 1, static_cast<std::int64_t>(below(9))});
          break;
        case 5:
          policy.train(pattern);
          break;
        default:
          policy.freeze(pattern);
      }
    }
    const std::vector<std::string> rules = policy.rules();
    EXPECT_EQ(rules_of(fmt::format("{}", fmt::join(rules, ","))), rules);
  }
}

TEST(FreezeRuleText, AnErrorShowsTheRuleThePositionAndTheGrammar) {
  EXPECT_THAT(
      error_of("vision=0,language=two"),
      AllOf(HasSubstr("freeze rule 'language=two' at character 19"), HasSubstr("expected a number, first:N, all"),
            HasSubstr("found 'two'"), HasSubstr("STACK=N (the last N blocks)")));
}

TEST(FreezeRuleText, EverySlipHasItsMessage) {
  const std::vector<std::pair<std::string, std::string>> slips{
      {"language", "expected a rule with '=' or ':', found 'language'"},
      {"a=1,,b=2", "expected a rule, found nothing between two commas"},
      {"a=1,", "expected a rule, found nothing between two commas or at an end"},
      {",a=1", "character 1 of"},
      {"=2", "expected a stack's name before '=', found nothing"},
      {"a b=2", "expected a stack's name before '=', found 'a b'"},
      {"@norms=2", "expected a stack's name before '=', found '@norms'"},
      {"a=", "behind '=', found nothing"},
      {"a=-1", "found '-1'"},
      {"a=2.5", "expected a number from 0 to 9999, found '2.5'"},
      {"a=99999999999999999999", "expected a number from 0 to 9999"},
      {"a=10000", "expected a number from 0 to 9999"},
      {"a=last:2", "found 'last:2'"},
      {"a=first", "expected first:N, found 'first'"},
      {"a=first2", "expected first:N, found 'first2'"},
      {"a=first:", "expected a number from 0 to 9999, found nothing"},
      {"a=[1", "expected a ']' for every '['"},
      {"a=[]", "expected a number from 0 to 9999, found nothing"},
      {"a=[1,x]", "found 'x'"},
      {"a=[5-3]", "expected a range that rises, found '5-3'"},
      {"a=[1]2", "expected nothing behind ']', found '[1]2'"},
      {"tran:*x*", "expected train or freeze before ':', found 'tran'"},
      {"train:", "expected a pattern behind ':', found nothing"},
      {"train:@norm", "expected @norms, @biases, @embeddings, @projectors or @adapters, found '@norm'"},
      {"train:/abc", "expected a '/' that ends the regular expression"},
      {"train:/(/", "expected an ECMAScript regular expression"},
      {"train://", "expected a regular expression between two slashes"},
      {"train:*\xc3\xa4*", "expected printable ASCII, found byte 0xc3"},
      {"train:a\x01", "expected printable ASCII, found byte 0x01"},
      {"train:*[ab", "expected a ']' for every '['"},
  };
  for (const auto& [text, message] : slips) {
    SCOPED_TRACE(text);
    EXPECT_THAT(error_of(text), AllOf(HasSubstr(message), HasSubstr("Rules, comma-separated")));
  }
}

TEST(FreezeRuleText, AMutatedTextIsRefusedOrReadsBackAsItself) {
  std::mt19937 random(29);
  const std::string whole =
      "vision=0,language=first:2,expert=[0,3,5-7],train:*s[a-c]*,freeze:/^m\\.k{1,2}$/,train:@norms,*=all";
  const std::string signs = ",=:[]/*@-. 09ax\\\n\xff";
  int refused = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string text = whole;
    for (std::uint64_t i = 1 + random() % 4; i > 0; --i) {
      const std::size_t at = random() % text.size();
      const char sign = signs[random() % signs.size()];
      if (random() % 2 == 0) {
        text[at] = sign;
      } else {
        text.insert(at, 1, sign);
      }
    }
    try {
      const std::vector<std::string> rules = rules_of(text);
      EXPECT_EQ(rules_of(fmt::format("{}", fmt::join(rules, ","))), rules) << text;
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("Rules, comma-separated"));
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_LT(refused, 5000);
}

TEST(FreezeRuleText, APatternNobodyTypedIsRefused) {
  std::string text = "train:";
  text.append(300, 'x');
  EXPECT_THAT(error_of(text), HasSubstr("expected a pattern of at most 256 characters, found 300"));
}

TEST(FreezeRuleText, AnEnormousListIsRefusedBeforeItIsBuilt) {
  std::string list = "a=[0-9999";
  for (int i = 0; i < 5000; ++i) list += ",0-9999";
  EXPECT_THAT(error_of(list + "]"), HasSubstr("too many of them"));
}

TEST(FreezeRuleText, ACallThatCannotBeWrittenAsTextIsRefused) {
  const auto error = [](auto call) { return message_of<UsageError>(call); };
  EXPECT_THAT(error([] { LayerFreezePolicy{}.last("language", -1); }), HasSubstr("found '-1'"));
  EXPECT_THAT(error([] { LayerFreezePolicy{}.all(""); }), HasSubstr("a stack's name"));
  EXPECT_THAT(error([] { LayerFreezePolicy{}.all("a,b"); }), HasSubstr("freeze rule"));
  EXPECT_THAT(error([] { LayerFreezePolicy{}.all("train:x"); }), HasSubstr("one rule that can be written as text"));
  EXPECT_THAT(error([] { LayerFreezePolicy{}.blocks("a", {}); }), HasSubstr("a number"));
  EXPECT_THAT(error([] { LayerFreezePolicy{}.train("a,x=1"); }), HasSubstr("one rule that can be written as text"));
  EXPECT_THAT(error([] { LayerFreezePolicy{}.freeze(""); }), HasSubstr("a pattern behind ':'"));
}

}  // namespace
}  // namespace thaw::rule_text_test
