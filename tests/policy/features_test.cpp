#include "thaw/policy/features.h"

#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::features_test {
namespace {

using test::message_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Features, TypeNamesAreLeRobotsAndRoundTrip) {
  for (const char* name : {"VISUAL", "STATE", "ACTION", "ENV"}) {
    EXPECT_EQ(feature_type_name(parse_feature_type(name)), name);
  }
  EXPECT_EQ(parse_feature_type("LANGUAGE"), FeatureType::other);
}

TEST(Features, UnknownTypeThrowsWithTheNearestName) {
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(parse_feature_type("VISUALS")); }),
              AllOf(HasSubstr("'VISUALS'"), HasSubstr("Did you mean 'VISUAL'")));
}

TEST(Features, FindsByNameAndReturnsNullForAnother) {
  const Features features{{.name = "observation.state", .type = FeatureType::state, .shape = {4}},
                          {.name = "action", .type = FeatureType::action, .shape = {7}}};
  ASSERT_NE(find_feature(features, "action"), nullptr);
  EXPECT_EQ(find_feature(features, "action")->shape, std::vector<std::int64_t>{7});
  EXPECT_EQ(find_feature(features, "actions"), nullptr);
}

}  // namespace
}  // namespace thaw::features_test
