#include "thaw/core/names.h"

#include <gmock/gmock.h>

namespace thaw::names_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(GlobMatch, WithoutWildcardsIsEquality) {
  EXPECT_TRUE(glob_match("a.b", "a.b"));
  EXPECT_FALSE(glob_match("a.b", "axb"));
  EXPECT_FALSE(glob_match("a", "ab"));
  EXPECT_FALSE(glob_match("ab", "a"));
  EXPECT_TRUE(glob_match("", ""));
  EXPECT_FALSE(glob_match("", "a"));
}

TEST(GlobMatch, StarCrossesDots) {
  EXPECT_TRUE(glob_match("expert.*.weight", "expert.blocks.3.mlp.weight"));
  EXPECT_FALSE(glob_match("expert.*.weight", "expert.weight"));
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("**a**", "a"));
  EXPECT_TRUE(glob_match("*ab*ab", "abababab"));
  EXPECT_FALSE(glob_match("*ab*ab*c", "abababab"));
}

TEST(GlobMatch, QuestionMarkTakesExactlyOne) {
  EXPECT_TRUE(glob_match("block.?", "block.3"));
  EXPECT_FALSE(glob_match("block.?", "block.13"));
  EXPECT_FALSE(glob_match("block.?", "block."));
}

TEST(GlobMatch, SetsHoldRangesAndLetters) {
  EXPECT_TRUE(glob_match("b[0-2x]", "b1"));
  EXPECT_TRUE(glob_match("b[0-2x]", "bx"));
  EXPECT_FALSE(glob_match("b[0-2x]", "b3"));
  EXPECT_TRUE(glob_match("b[!0-2]", "b3"));
  EXPECT_FALSE(glob_match("b[!0-2]", "b0"));
  EXPECT_TRUE(glob_match("[]]", "]"));
  EXPECT_TRUE(glob_match("[a-]", "-"));
  EXPECT_TRUE(glob_match("*.[0-9]", "a.b.7"));
}

TEST(GlobMatch, OpenBracketThatIsNeverClosedStandsForItself) {
  EXPECT_TRUE(glob_match("a[b", "a[b"));
  EXPECT_FALSE(glob_match("a[b", "ab"));
  EXPECT_TRUE(glob_match("[", "["));
}

TEST(GlobMatch, ManyStarsDoNotTakeExponentialTime) {
  std::string pattern;
  for (int i = 0; i < 50; ++i) pattern += "*a";
  EXPECT_FALSE(glob_match(pattern + "b", std::string(5000, 'a')));
}

const std::vector<std::string> kStacks{"expert", "language", "vision", "vision.patch", "state_proj"};

TEST(NearestNames, NearestComesFirst) {
  EXPECT_THAT(nearest_names("visoin", kStacks), ElementsAre("vision"));
  EXPECT_THAT(nearest_names("experts", kStacks, 1), ElementsAre("expert"));
}

TEST(NearestNames, PartOfANameIsLikeIt) { EXPECT_THAT(nearest_names("proj", kStacks), ElementsAre("state_proj")); }

TEST(NearestNames, TiesKeepTheirOrderAndCountLimits) {
  const std::vector<std::string> names{"b1", "a1", "c1", "d1"};
  EXPECT_THAT(nearest_names("x1", names, 2), ElementsAre("b1", "a1"));
}

TEST(NearestNames, NothingAlikeGivesNothing) {
  EXPECT_THAT(nearest_names("qqqqqq", kStacks), IsEmpty());
  EXPECT_THAT(nearest_names("", kStacks), IsEmpty());
  EXPECT_THAT(nearest_names("a", {}), IsEmpty());
}

TEST(Suggest, AsksOrListsWhatIsKnown) {
  EXPECT_EQ(suggest("languag", kStacks), "Did you mean 'language'?");
  EXPECT_EQ(suggest("qqqqqq", kStacks), "Known: expert, language, vision, vision.patch, state_proj.");
  EXPECT_EQ(suggest("a", {}), "There are none.");
}

TEST(Suggest, ListsAtMostTwelve) {
  std::vector<std::string> names;
  for (int i = 0; i < 13; ++i) names.push_back("name" + std::to_string(100 + i));
  EXPECT_EQ(suggest("?", names),
            "Known: name100, name101, name102, name103, name104, name105, name106, name107, name108, name109, name110, "
            "name111, …");
}

}  // namespace
}  // namespace thaw::names_test
