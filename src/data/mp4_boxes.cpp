#include <fmt/format.h>

#include <array>

#include "mp4_boxes_impl.h"
#include "sniff_impl.h"
#include "thaw/core/error.h"

namespace thaw::lerobot {
namespace {

constexpr std::uint64_t kHeader = 8;
constexpr std::uint64_t kLongHeader = 16;
constexpr std::size_t kMaxBoxes = 1'000'000;

struct Box {
  std::string type;
  std::uint64_t size = 0;
};

std::uint64_t big_endian(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (const std::byte byte : bytes) value = value << 8 | std::to_integer<std::uint64_t>(byte);
  return value;
}

[[noreturn]] void refuse_mp4(const std::string& label, const std::string& found, const std::string& fix = {}) {
  throw FormatError(Problem{.where = label, .expected = "a complete MP4 file", .found = found, .fix = fix});
}

[[noreturn]] void refuse_cut(const std::string& label, const std::string& type) {
  refuse_mp4(label, fmt::format("a file cut off inside its '{}' box", type), "Copy or download it again.");
}

Box read_box(const InputFile& file, std::uint64_t at, const std::string& label) {
  const std::uint64_t left = file.size() - at;
  std::array<std::byte, kLongHeader> header{};
  if (left < kHeader) refuse_mp4(label, fmt::format("{} stray bytes at the end", left), "Copy or download it again.");
  file.read_at(at, std::span(header).first(std::min<std::uint64_t>(left, kLongHeader)));
  Box box{.type = std::string(reinterpret_cast<const char*>(header.data()) + 4, 4),
          .size = big_endian(std::span(header).first(4))};
  if (box.size == 1) box.size = left < kLongHeader ? 0 : big_endian(std::span(header).subspan(8, 8));
  if (box.size == 0) box.size = left;  // the last box may leave its size open
  if (box.size < kHeader) refuse_mp4(label, fmt::format("a box of {} bytes at byte {}", box.size, at));
  return box;
}

}  // namespace

Mp4Boxes check_mp4_boxes(const InputFile& file, const std::string& label) {
  Mp4Boxes boxes;
  bool has_moov = false;
  std::uint64_t at = 0;
  for (std::size_t count = 0; at < file.size(); ++count) {
    const Box box = read_box(file, at, label);
    if (count == 0 && box.type != "ftyp") refuse_mp4(label, describe_content(file));
    if (box.size > file.size() - at) refuse_cut(label, box.type);
    if (count == kMaxBoxes) refuse_mp4(label, "more than a million boxes");
    has_moov = has_moov || box.type == "moov";
    boxes.fragmented = boxes.fragmented || box.type == "moof";
    at += box.size;
  }
  if (!has_moov) refuse_mp4(label, at == 0 ? "an empty file" : "no 'moov' box", "The recording was not finished.");
  return boxes;
}

}  // namespace thaw::lerobot
