#include <fmt/format.h>

#include <cstdio>

#include "stderr_line_impl.h"

namespace thaw::detail {
namespace {

void put(std::string_view text) {
  // A closed stderr is nothing a program could report anywhere.
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

StderrLine& StderrLine::instance() {
  static StderrLine line;
  return line;
}

void StderrLine::clear_drawn() {
  if (!drawn_.empty()) put("\r\x1b[K");
}

void StderrLine::print(std::string_view line) {
  const std::lock_guard lock(mutex_);
  clear_drawn();
  put(fmt::format("{}\n{}", line, drawn_));
}

void StderrLine::redraw(std::string_view text) {
  const std::lock_guard lock(mutex_);
  put(fmt::format("\r{}\x1b[K", text));
  drawn_ = text;
}

void StderrLine::end() {
  const std::lock_guard lock(mutex_);
  if (!drawn_.empty()) put("\n");
  drawn_.clear();
}

}  // namespace thaw::detail
