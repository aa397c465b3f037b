/// stderr is shared by messages and by a progress line that is redrawn in place: whoever writes clears the line first.
#pragma once

#include <mutex>
#include <string>
#include <string_view>

namespace thaw::detail {

class StderrLine {
 public:
  static StderrLine& instance();

  /// Writes one line, above the progress line if there is one.
  void print(std::string_view line);
  /// Shows `text` in place of the last drawn line, without ending it.
  void redraw(std::string_view text);
  /// Ends the drawn line, so that it stays on the screen.
  void end();

 private:
  void clear_drawn();

  std::mutex mutex_;
  std::string drawn_;
};

}  // namespace thaw::detail
