#include "thaw/train/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>

#include "thaw/core/error.h"

namespace thaw {
namespace {

constexpr std::uint32_t kCastagnoli = 0x82f63b78;  // reflected

std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < table.size(); ++byte) {
    std::uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? kCastagnoli : 0);
    table[byte] = value;
  }
  return table;
}

/// `value` in `Bytes` little-endian bytes, whatever the machine's order is.
template <std::size_t Bytes>
void append_little_endian(std::string& out, std::uint64_t value) {
  for (std::size_t byte = 0; byte < Bytes; ++byte) out.push_back(static_cast<char>((value >> (8 * byte)) & 0xff));
}

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7f) | 0x80));
  out.push_back(static_cast<char>(value));
}

// Protocol-buffer wire types.
enum class Wire : std::uint32_t { varint = 0, fixed64 = 1, length = 2, fixed32 = 5 };

void append_key(std::string& out, std::uint32_t field, Wire wire) {
  append_varint(out, (field << 3) | static_cast<std::uint32_t>(wire));
}

void append_bytes(std::string& out, std::uint32_t field, std::string_view bytes) {
  append_key(out, field, Wire::length);
  append_varint(out, bytes.size());
  out.append(bytes);
}

// Field numbers of tensorboard.Event, Summary and Summary.Value.
constexpr std::uint32_t kEventWallTime = 1;
constexpr std::uint32_t kEventStep = 2;
constexpr std::uint32_t kEventFileVersion = 3;
constexpr std::uint32_t kEventSummary = 5;
constexpr std::uint32_t kSummaryValue = 1;
constexpr std::uint32_t kValueTag = 1;
constexpr std::uint32_t kValueSimple = 2;

std::string event_at(double wall_time) {
  std::string event;
  append_key(event, kEventWallTime, Wire::fixed64);
  append_little_endian<8>(event, std::bit_cast<std::uint64_t>(wall_time));
  return event;
}

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "localhost";
  return name.data();
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static const std::array<std::uint32_t, 256> kTable = make_crc_table();
  std::uint32_t value = 0xffffffff;
  for (const char byte : bytes) value = kTable[(value ^ static_cast<unsigned char>(byte)) & 0xff] ^ (value >> 8);
  return ~value;
}

std::uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8U; }

std::string tf_record(std::string_view payload) {
  std::string record;
  append_little_endian<8>(record, payload.size());
  append_little_endian<4>(record, masked_crc32c(record));
  record.append(payload);
  append_little_endian<4>(record, masked_crc32c(payload));
  return record;
}

std::string version_event(double wall_time) {
  std::string event = event_at(wall_time);
  append_bytes(event, kEventFileVersion, "brain.Event:2");
  return event;
}

std::string scalar_event(double wall_time, std::int64_t step, std::string_view tag, float value) {
  std::string entry;
  append_bytes(entry, kValueTag, tag);
  append_key(entry, kValueSimple, Wire::fixed32);
  append_little_endian<4>(entry, std::bit_cast<std::uint32_t>(value));
  std::string summary;
  append_bytes(summary, kSummaryValue, entry);
  std::string event = event_at(wall_time);
  append_key(event, kEventStep, Wire::varint);
  append_varint(event, static_cast<std::uint64_t>(step));
  append_bytes(event, kEventSummary, summary);
  return event;
}

TensorBoardFile::TensorBoardFile(const std::filesystem::path& folder) {
  const double time = now();
  path_ = folder /
          fmt::format("events.out.tfevents.{:010d}.{}.{}", static_cast<std::int64_t>(time), host_name(), ::getpid());
  out_.open(path_, std::ios::binary | std::ios::app);
  out_ << tf_record(version_event(time)) << std::flush;
  if (!out_)
    throw IoError(
        Problem{.where = path_.string(), .expected = "a file to write events to", .found = std::strerror(errno)});
}

void TensorBoardFile::scalar(std::int64_t step, std::string_view tag, double value) {
  out_ << tf_record(scalar_event(now(), step, tag, static_cast<float>(value)));
}

void TensorBoardFile::on_log(const LogRecord& record) {
  scalar(record.step, "train/loss", record.loss);
  scalar(record.step, "train/grad_norm", record.grad_norm);
  scalar(record.step, "train/lr", record.learning_rate);
  scalar(record.step, "train/samples_per_s", record.samples_per_second);
  scalar(record.step, "train/data_wait_share", record.data_wait_share);
  scalar(record.step, "train/skipped_steps", static_cast<double>(record.skipped_steps));
  out_.flush();
}

void TensorBoardFile::on_evaluation(std::int64_t step, const EvaluationResult& result) {
  scalar(step, "eval/loss", result.loss);
  for (const auto& [name, value] : result.metrics) scalar(step, "eval/" + name, value);
  out_.flush();
}

}  // namespace thaw
