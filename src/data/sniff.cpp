#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "sniff_impl.h"

namespace thaw::lerobot {

std::string describe_content(const InputFile& file) {
  if (file.size() == 0) return "an empty file";
  std::array<std::byte, 64> head{};
  const std::size_t length = std::min<std::uint64_t>(file.size(), head.size());
  file.read_at(0, std::span(head).first(length));
  std::string text(reinterpret_cast<const char*>(head.data()), length);
  if (text.starts_with("version https://git-lfs")) return "a Git LFS pointer (fetch the data with 'git lfs pull')";
  if (text.starts_with("PAR1")) return "a Parquet file";
  if (text.starts_with("PK\x03\x04")) return "a zip archive";
  if (text.starts_with("#EXTM3U")) return "a playlist";
  if (length >= 8 && text.substr(4, 4) == "ftyp") return "an MP4 file";
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && text[first] == '<') return "an HTML page or other markup (a failed download?)";
  const bool printable = std::all_of(text.begin(), text.end(),
                                     [](unsigned char c) { return std::isprint(c) != 0 || std::isspace(c) != 0; });
  return printable ? "text" : "unknown data";
}

}  // namespace thaw::lerobot
