#include "thaw/core/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "printable_impl.h"
#include "stderr_line_impl.h"

namespace thaw {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kBarWidth = 24;
constexpr std::size_t kDefaultColumns = 80;

std::size_t terminal_columns() {
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : kDefaultColumns;
}

// "0:07", "12:30", "3:05:00"
std::string duration_text(double seconds) {
  const std::int64_t whole = std::llround(seconds);
  const std::int64_t hours = whole / 3600;
  const std::int64_t minutes = whole / 60 % 60;
  if (hours == 0) return fmt::format("{}:{:02}", minutes, whole % 60);
  return fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60);
}

std::string bar(double fraction) {
  const auto filled = static_cast<std::size_t>(fraction * static_cast<double>(kBarWidth));
  return std::string(filled, '=') + std::string(kBarWidth - filled, ' ');
}

// Cut at a character, not inside one: a byte 10xxxxxx continues the one before it.
std::string fit(std::string text, std::size_t columns) {
  std::size_t shown = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const bool continues = (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
    if (continues || ++shown <= columns) continue;
    text.resize(at);
    break;
  }
  return text;
}

}  // namespace

struct Progress::Impl {
  ProgressOptions options;
  bool terminal = isatty(STDERR_FILENO) == 1;
  bool finished = false;
  std::int64_t done = options.start;
  Clock::time_point began = Clock::now();
  Clock::time_point last_shown{};  // the epoch of the clock: nothing shown yet
  bool shown = false;

  explicit Impl(ProgressOptions given) : options(std::move(given)) {}

  [[nodiscard]] double elapsed_seconds() const { return std::chrono::duration<double>(Clock::now() - began).count(); }

  // Only what this process did counts towards its speed.
  [[nodiscard]] double per_second() const {
    const double seconds = elapsed_seconds();
    return seconds > 0 ? static_cast<double>(done - options.start) / seconds : 0.0;
  }

  [[nodiscard]] double fraction() const {
    return std::clamp(static_cast<double>(done) / static_cast<double>(options.total), 0.0, 1.0);
  }

  [[nodiscard]] std::string counts() const {
    if (options.total <= 0) return fmt::format("{}", done);
    return fmt::format("{}/{}", done, options.total);
  }

  [[nodiscard]] std::string speed() const {
    const double rate = per_second();
    if (rate <= 0) return "";
    std::string text = rate >= 1 ? fmt::format("{:.1f}/s", rate) : fmt::format("{:.1f} s each", 1 / rate);
    if (options.total <= done) return text;
    return fmt::format("{}, {} left", text, duration_text(static_cast<double>(options.total - done) / rate));
  }

  [[nodiscard]] std::string line(std::string_view note) const {
    std::string text = options.label;
    if (terminal && options.total > 0) text += fmt::format(" [{}]", bar(fraction()));
    text += fmt::format(" {}", counts());
    if (options.total > 0) text += fmt::format(" {:.0f}%", 100 * fraction());
    if (const std::string how_fast = speed(); !how_fast.empty()) text += fmt::format("  {}", how_fast);
    if (!note.empty()) text += fmt::format("  {}", note);
    return detail::printable(text);
  }

  [[nodiscard]] bool due() const {
    const auto interval = terminal ? options.redraw : options.plain_every;
    return !shown || done == options.total || Clock::now() - last_shown >= interval;
  }

  void show(std::string_view note) {
    auto& out = detail::StderrLine::instance();
    if (terminal) {
      out.redraw(fit(line(note), terminal_columns() - 1));
    } else {
      out.print(line(note));
    }
    last_shown = Clock::now();
    shown = true;
  }

  void finish() {
    if (!finished && terminal && !options.quiet) detail::StderrLine::instance().end();
    finished = true;
  }
};

Progress::Progress(ProgressOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}

Progress::~Progress() { impl_->finish(); }

void Progress::update(std::int64_t done, std::string_view detail) {
  impl_->done = done;
  if (!impl_->finished && !impl_->options.quiet && impl_->due()) impl_->show(detail);
}

void Progress::finish(std::string_view summary) {
  const bool first = !impl_->finished;
  impl_->finish();
  if (!first || impl_->options.quiet || summary.empty()) return;
  detail::StderrLine::instance().print(detail::printable(
      fmt::format("{}: {} ({})", impl_->options.label, summary, duration_text(impl_->elapsed_seconds()))));
}

}  // namespace thaw
