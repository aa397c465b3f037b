/// A progress line on a terminal (redrawn in place), plain lines elsewhere (at most one every few seconds).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace thaw {

struct ProgressOptions {
  std::string label;                            ///< "train", "download", …
  std::int64_t total = 0;                       ///< units of work; 0 when unknown
  std::int64_t start = 0;                       ///< units already done (a resumed run)
  std::chrono::milliseconds redraw{100};        ///< on a terminal
  std::chrono::milliseconds plain_every{5000};  ///< elsewhere
  bool quiet = false;
};

class Progress {
 public:
  explicit Progress(ProgressOptions options);
  ~Progress();  ///< ends the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// `done` units are finished; `detail` is shown behind the bar ("loss 0.31 lr 1e-4"). Time left is estimated.
  void update(std::int64_t done, std::string_view detail);
  void finish(std::string_view summary = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thaw
