/// The `data_path` and `video_path` templates of info.json: Python format strings, of which only `{name}` and
/// `{name:0Nd}` with known names and N <= 9 are taken. Anything else in braces could read attributes or ask for a
/// gigabyte of zeros.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace thaw::lerobot {

struct TemplateValues {
  std::map<std::string, std::int64_t> numbers;  ///< "chunk_index", "file_index", "episode_chunk", "episode_index"
  std::string video_key;
};

class PathTemplate {
 public:
  PathTemplate() = default;
  /// @throws FormatError naming `where` and the placeholder that is not among `numbers` and "video_key"
  PathTemplate(const std::string& text, const std::vector<std::string>& numbers, const std::string& where);
  [[nodiscard]] std::string expand(const TemplateValues& values) const;

 private:
  struct Piece {
    std::string literal;      ///< text before the placeholder
    std::string placeholder;  ///< empty at the end of the template
    int width = 0;
  };
  std::vector<Piece> pieces_;
};

}  // namespace thaw::lerobot
