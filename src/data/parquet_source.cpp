#include <arrow/buffer.h>
#include <arrow/io/interfaces.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "parquet_source_impl.h"
#include "sniff_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"

namespace thaw::lerobot {
namespace {

constexpr std::size_t kMagicBytes = 4;
constexpr std::size_t kSmallestFile = 12;  // magic, footer length, magic

/// Arrow's view of an InputFile: positioned reads, no mapping.
class FileSource : public arrow::io::RandomAccessFile {
 public:
  explicit FileSource(InputFile file) : file_(std::move(file)) { set_mode(arrow::io::FileMode::READ); }

  arrow::Status Close() override {
    closed_ = true;
    return arrow::Status::OK();
  }
  [[nodiscard]] bool closed() const override { return closed_; }
  [[nodiscard]] arrow::Result<std::int64_t> Tell() const override { return position_; }
  arrow::Status Seek(std::int64_t position) override {
    position_ = position;
    return arrow::Status::OK();
  }
  arrow::Result<std::int64_t> GetSize() override { return static_cast<std::int64_t>(file_.size()); }

  arrow::Result<std::int64_t> ReadAt(std::int64_t position, std::int64_t count, void* out) override {
    const auto size = static_cast<std::int64_t>(file_.size());
    if (position < 0 || count < 0 || position > size)
      return arrow::Status::IOError("a read beyond the end of the file");
    const std::int64_t available = std::min(count, size - position);
    try {
      file_.read_at(static_cast<std::uint64_t>(position),
                    {static_cast<std::byte*>(out), static_cast<std::size_t>(available)});
    } catch (const Error& error) {
      return arrow::Status::IOError(error.what());
    }
    return available;
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> ReadAt(std::int64_t position, std::int64_t count) override {
    const std::int64_t left = std::max<std::int64_t>(0, static_cast<std::int64_t>(file_.size()) - position);
    ARROW_ASSIGN_OR_RAISE(auto buffer, arrow::AllocateResizableBuffer(std::min(count, left)));
    ARROW_ASSIGN_OR_RAISE(const std::int64_t got, ReadAt(position, count, buffer->mutable_data()));
    ARROW_RETURN_NOT_OK(buffer->Resize(got));
    return std::shared_ptr<arrow::Buffer>(std::move(buffer));
  }
  arrow::Result<std::int64_t> Read(std::int64_t count, void* out) override {
    ARROW_ASSIGN_OR_RAISE(const std::int64_t got, ReadAt(position_, count, out));
    position_ += got;
    return got;
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> Read(std::int64_t count) override {
    ARROW_ASSIGN_OR_RAISE(auto buffer, ReadAt(position_, count));
    position_ += buffer->size();
    return buffer;
  }

 private:
  InputFile file_;
  std::int64_t position_ = 0;
  bool closed_ = false;
};

void check_magic(const InputFile& file, const std::string& label) {
  std::array<std::byte, kMagicBytes> magic{};
  if (file.size() >= kMagicBytes) file.read_at(0, magic);
  if (std::memcmp(magic.data(), "PAR1", kMagicBytes) != 0) {
    throw FormatError(Problem{.where = label, .expected = "a Parquet file", .found = describe_content(file)});
  }
  if (file.size() >= kSmallestFile) file.read_at(file.size() - kMagicBytes, magic);
  if (file.size() >= kSmallestFile && std::memcmp(magic.data(), "PAR1", kMagicBytes) == 0) return;
  throw FormatError(
      Problem{.where = label,
              .expected = "a Parquet footer (PAR1) at the end",
              .found = "none",
              .fix = "The file is incomplete: copied in part, or the recording stopped before finalize()."});
}

}  // namespace

void refuse_parquet(const std::string& label, const std::string& reason) {
  const std::string first_line = reason.substr(0, reason.find('\n'));
  throw FormatError(Problem{.where = label, .expected = "a readable Parquet file", .found = first_line});
}

std::unique_ptr<::parquet::ParquetFileReader> open_parquet(const std::filesystem::path& path, const std::string& label,
                                                           ReaderMemory& memory) {
  InputFile file(path);
  check_magic(file, label);
  return guarded(label, [&] {
    ::parquet::ReaderProperties properties(memory.pool());
    properties.enable_buffered_stream();
    properties.set_buffer_size(std::int64_t{1} << 20);
    return ::parquet::ParquetFileReader::Open(std::make_shared<FileSource>(std::move(file)), properties);
  });
}

std::vector<int> leaves_of(const ::parquet::SchemaDescriptor& schema, const std::string& column) {
  std::vector<int> leaves;
  for (int leaf = 0; leaf < schema.num_columns(); ++leaf) {
    if (schema.GetColumnRoot(leaf)->name() == column) leaves.push_back(leaf);
  }
  return leaves;
}

int blob_leaf(const ::parquet::SchemaDescriptor& schema, const std::string& column) {
  for (const int leaf : leaves_of(schema, column)) {
    const ::parquet::ColumnDescriptor* descriptor = schema.Column(leaf);
    const std::vector<std::string> path = descriptor->path()->ToDotVector();
    const bool named = path.size() == 1 || (path.size() == 2 && path.back() == "bytes");
    if (named && descriptor->physical_type() == ::parquet::Type::BYTE_ARRAY &&
        descriptor->max_repetition_level() == 0) {
      return leaf;
    }
  }
  return -1;
}

}  // namespace thaw::lerobot
