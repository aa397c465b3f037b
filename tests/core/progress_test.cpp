#include "thaw/core/progress.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <pty.h>
#include <unistd.h>

#include "thaw/core/log.h"

namespace thaw::progress_test {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

/// stderr is a terminal of 60 columns while this lives.
class Terminal {
 public:
  Terminal() {
    winsize size{};
    size.ws_col = 60;
    size.ws_row = 20;
    opened_ = ::openpty(&master_, &slave_, nullptr, nullptr, &size) == 0;
    if (!opened_) return;
    saved_ = ::dup(STDERR_FILENO);
    ::dup2(slave_, STDERR_FILENO);
  }
  ~Terminal() { restore(); }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  [[nodiscard]] bool opened() const { return opened_; }

  /// What was written since, with stderr given back.
  std::string take() {
    restore();
    ::fcntl(master_, F_SETFL, O_NONBLOCK);
    std::string text;
    std::array<char, 4096> block{};
    for (ssize_t got = 0; (got = ::read(master_, block.data(), block.size())) > 0;) {
      text.append(block.data(), static_cast<std::size_t>(got));
    }
    return text;
  }

 private:
  void restore() {
    if (saved_ < 0) return;
    ::dup2(saved_, STDERR_FILENO);
    ::close(saved_);
    saved_ = -1;
  }
  bool opened_ = false;
  int master_ = -1;
  int slave_ = -1;
  int saved_ = -1;
};

std::size_t lines_of(const std::string& text) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

TEST(Progress, WritesPlainLinesWhereThereIsNoTerminal) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress({.label = "train", .total = 4, .plain_every = milliseconds(0)});
    for (int i = 1; i <= 4; ++i) progress.update(i, "loss 0.5");
    progress.finish("done");
  }
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(lines_of(text), 5U);
  EXPECT_THAT(text, AllOf(HasSubstr("train 2/4 50%"), HasSubstr("loss 0.5"), HasSubstr("train: done (0:00)")));
  EXPECT_THAT(text, AllOf(Not(HasSubstr("\r")), Not(HasSubstr("\x1b"))));
}

TEST(Progress, ShowsTheFirstAndTheLastUpdateAndFewBetween) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress({.label = "train", .total = 1000});
    for (int i = 1; i <= 1000; ++i) progress.update(i, "");
  }
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(lines_of(text), 2U);
  EXPECT_THAT(text, AllOf(HasSubstr("train 1/1000 0%"), HasSubstr("train 1000/1000 100%")));
}

TEST(Progress, EstimatesTheTimeLeftFromWhatThisRunDid) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress({.label = "train", .total = 1'000'000'000, .start = 999'999'000, .plain_every = milliseconds(0)});
    ::usleep(20'000);
    progress.update(999'999'500, "");  // 500 units in 20 ms; counted from zero, the rest would take no time at all
  }
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, ContainsRegex("  [0-9]+\\.[0-9]/s, 0:00 left"));
  const double rate = std::stod(text.substr(text.find("%  ") + 3));
  EXPECT_LE(rate, 500 / 0.02);
}

TEST(Progress, UnknownTotalHasNoPercentAndNoTimeLeft) {
  ::testing::internal::CaptureStderr();
  { Progress({.label = "scan"}).update(7, ""); }
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr("scan 7"), Not(HasSubstr("%")), Not(HasSubstr("left"))));
}

TEST(Progress, QuietWritesNothing) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress({.label = "train", .total = 1, .quiet = true});
    progress.update(1, "x");
    progress.finish("done");
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(Progress, RedrawsOneLineOnATerminal) {
  Terminal terminal;
  if (!terminal.opened()) GTEST_SKIP() << "no pseudo-terminal can be opened here";
  {
    Progress progress({.label = "train", .total = 4, .redraw = milliseconds(0)});
    for (int i = 1; i <= 4; ++i) progress.update(i, std::string(100, 'd'));
  }
  const std::string text = terminal.take();
  EXPECT_EQ(lines_of(text), 1U);
  EXPECT_EQ(std::count(text.begin(), text.end(), '['), 8);  // four bars, four "clear to the end of the line"
  EXPECT_THAT(text, HasSubstr("train [============            ] 2/4"));
  for (std::size_t begin = 0; (begin = text.find("\rtrain", begin)) != std::string::npos; ++begin) {
    EXPECT_LT(text.find("\x1b[K", begin) - begin - 1, 60U);  // a longer line would wrap and could not be redrawn
  }
}

TEST(Progress, MessageIsPrintedAboveTheLine) {
  Terminal terminal;
  if (!terminal.opened()) GTEST_SKIP() << "no pseudo-terminal can be opened here";
  {
    Progress progress({.label = "train", .total = 4});
    progress.update(1, "");
    log_warning("careful");
  }
  EXPECT_THAT(terminal.take(), ContainsRegex("\r\x1b\\[Kwarning: careful\r?\ntrain \\["));
}

TEST(Log, WarningsStayWhenQuiet) {
  ::testing::internal::CaptureStderr();
  log_info("one");
  set_quiet(true);
  log_info("two");
  log_warning("three");
  set_quiet(false);
  log_info("four");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "one\nwarning: three\nfour\n");
}

TEST(Log, MessageIsOneLineAndCannotSteerTheTerminal) {
  ::testing::internal::CaptureStderr();
  log_info("a\nb\x1b[2Jc {} é");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "a\\x0ab\\x1b[2Jc {} é\n");
}

}  // namespace
}  // namespace thaw::progress_test
