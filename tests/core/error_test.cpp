#include "thaw/core/error.h"

#include <gmock/gmock.h>

namespace thaw::error_test {
namespace {

TEST(Error, MessageSaysWhereExpectedFoundAndFix) {
  const Problem problem{.where = "a.json", .expected = "an integer", .found = "'x'", .fix = "Write a number."};
  EXPECT_EQ(describe(problem), "a.json: expected an integer, found 'x'. Write a number.");
}

TEST(Error, EmptyPartsLeaveNoPunctuationBehind) {
  EXPECT_EQ(describe(Problem{.found = "nothing"}), "found nothing");
  EXPECT_EQ(describe(Problem{.where = "a", .found = "b"}), "a: found b");
  EXPECT_EQ(describe(Problem{.where = "a", .fix = "Do c."}), "a. Do c.");
  EXPECT_EQ(describe(Problem{}), "");
}

TEST(Error, HostileNameCannotSteerTheTerminal) {
  EXPECT_EQ(describe(Problem{.where = "tensor 'a\x1b[2J\r'", .fix = "One line\nor two."}),
            "tensor 'a\\x1b[2J\\x0d'. One line\nor two.");
}

TEST(Error, OnlyAFailedCheckExitsWithOne) {
  EXPECT_EQ(CheckFailed("x").exit_code(), ExitCode::check_failed);
  EXPECT_EQ(UsageError("x").exit_code(), ExitCode::bad_input);
  EXPECT_EQ(FormatError("x").exit_code(), ExitCode::bad_input);
  EXPECT_EQ(IoError("x").exit_code(), ExitCode::bad_input);
  EXPECT_EQ(MismatchError("x").exit_code(), ExitCode::bad_input);
}

}  // namespace
}  // namespace thaw::error_test
