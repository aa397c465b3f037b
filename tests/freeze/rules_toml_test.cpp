// Freeze rules written in TOML.
#include "layouts.h"
#include "thaw/core/error.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw::rules_toml_test {
namespace {

using test::message_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> rules_of(std::string_view text) {
  return LayerFreezePolicy::from_toml(text, "freeze.toml").rules();
}

std::string error_of(const std::string& text) {
  return message_of<UsageError>([&text] { (void)LayerFreezePolicy::from_toml(text, "freeze.toml"); });
}

TEST(FreezeRulesToml, ATableIsReadInTheOrderOfItsText) {
  EXPECT_THAT(rules_of("vision = 0\nlanguage = [0, 3]\nexpert = \"all\"\nfreeze = [\"*.norm.*\", \"@biases\"]\n"
                       "train = [\"*state_proj*\"]\na = \"first:2\"\n"),
              ElementsAre("vision=0", "language=[0,3]", "expert=all", "freeze:*.norm.*", "freeze:@biases",
                          "train:*state_proj*", "a=first:2"));
}

TEST(FreezeRulesToml, AnArrayOfRulesIsReadInOrder) {
  EXPECT_THAT(rules_of("[\"vision=0\", 'train:*x*']"), ElementsAre("vision=0", "train:*x*"));
  EXPECT_THAT(rules_of("\n[ \"language = 2\" ]"), ElementsAre("language=2"));
  EXPECT_THAT(rules_of("[]"), IsEmpty());
  EXPECT_THAT(rules_of("rules = [\"vision=0\"]\nlanguage = 1"), ElementsAre("vision=0", "language=1"));
}

TEST(FreezeRulesToml, OfARunsConfigurationOnlyTheFreezeTableIsRead) {
  EXPECT_THAT(rules_of("steps = 100\nseed = 1\n[freeze]\nlanguage = 2\nencoder.layers = 1\n\"decoder.layers\" = 3\n"
                       "[data]\nworkers = 4\n"),
              ElementsAre("language=2", "encoder.layers=1", "decoder.layers=3"));
}

TEST(FreezeRulesToml, AnEmptyDocumentIsTheModelsOwnDefault) { EXPECT_THAT(rules_of("# nothing\n"), IsEmpty()); }

TEST(FreezeRulesToml, EveryFaultNamesFileLineAndColumn) {
  EXPECT_THAT(error_of("language = 2\nvision = -1"), AllOf(HasSubstr("freeze.toml:2:10"), HasSubstr("found '-1'")));
  EXPECT_THAT(error_of("vision = 1.5"), AllOf(HasSubstr("freeze.toml:1:10"), HasSubstr("floating-point")));
  EXPECT_THAT(error_of("vision = \"some\""), AllOf(HasSubstr("freeze.toml:1:10"), HasSubstr("found 'some'")));
  EXPECT_THAT(error_of("vision = [\"a\"]"), HasSubstr("expected a list of block numbers"));
  EXPECT_THAT(error_of("train = \"x\""), AllOf(HasSubstr("freeze.toml:1:9"), HasSubstr("an array of patterns")));
  EXPECT_THAT(error_of("train = [1]"), HasSubstr("an array of patterns in quotes"));
  EXPECT_THAT(error_of("[\"vision=0\", 3]"), HasSubstr("an array of rules in quotes"));
  EXPECT_THAT(error_of("[\"vision=0,language=1\"]"), HasSubstr("is not one rule"));
  EXPECT_THAT(error_of("vision = \"1,a=2\""), HasSubstr("is not one rule"));
  EXPECT_THAT(error_of("\"train:x\" = 2"), HasSubstr("a block stack's name"));
  EXPECT_THAT(error_of("vision = "), AllOf(HasSubstr("freeze.toml:1:"), HasSubstr("expected TOML")));
  EXPECT_THAT(error_of("a = 1\na = 2"), HasSubstr("freeze.toml:2:"));
  EXPECT_THAT(error_of(std::string(std::size_t{2} << 20, '#')), HasSubstr("at most 1048576 bytes"));
}

}  // namespace
}  // namespace thaw::rules_toml_test
