#include <fmt/format.h>
#include <parquet/column_reader.h>

#include "parquet_impl.h"
#include "parquet_source_impl.h"
#include "thaw/core/error.h"

namespace thaw::lerobot {

struct ParquetBlobs::Impl {
  std::string label;
  std::string column;
  ReaderMemory memory;
  std::unique_ptr<::parquet::ParquetFileReader> file;
  int leaf = -1;
  int group = -1;                // open row group
  std::int64_t group_begin = 0;  // its first row
  std::int64_t next_row = 0;     // of the file
  std::shared_ptr<::parquet::ColumnReader> reader;

  [[nodiscard]] std::string where(std::int64_t row) const {
    return fmt::format("{} column '{}' row {}", label, column, row);
  }

  void open_group_of(std::int64_t row) {
    std::int64_t begin = 0;
    for (int g = 0; g < file->metadata()->num_row_groups(); ++g) {
      const std::int64_t rows = file->metadata()->RowGroup(g)->num_rows();
      if (row < begin + rows) {
        group = g;
        group_begin = begin;
        next_row = begin;
        reader = file->RowGroup(g)->Column(leaf);
        return;
      }
      begin += rows;
    }
    throw FormatError(Problem{.where = where(row), .expected = "a row", .found = fmt::format("{} rows", begin)});
  }

  void seek(std::int64_t row) {
    const bool ahead =
        reader != nullptr && row >= next_row && row < group_begin + file->metadata()->RowGroup(group)->num_rows();
    if (!ahead) open_group_of(row);
    auto& blobs = static_cast<::parquet::ByteArrayReader&>(*reader);
    next_row += blobs.Skip(row - next_row);
  }

  std::string read(std::int64_t row) {
    seek(row);
    auto& blobs = static_cast<::parquet::ByteArrayReader&>(*reader);
    std::int16_t definition = 0;
    std::int64_t count = 0;
    ::parquet::ByteArray bytes;
    const bool there = next_row == row && blobs.ReadBatch(1, &definition, nullptr, &bytes, &count) == 1;
    ++next_row;
    if (!there || count != 1) {
      throw FormatError(Problem{.where = where(row), .expected = "the bytes of an image", .found = "none"});
    }
    return {reinterpret_cast<const char*>(bytes.ptr), bytes.len};
  }
};

ParquetBlobs::ParquetBlobs(const std::filesystem::path& path, std::string label, const std::string& column)
    : impl_(std::make_unique<Impl>()) {
  impl_->label = std::move(label);
  impl_->column = column;
  impl_->file = open_parquet(path, impl_->label, impl_->memory);
  impl_->leaf = blob_leaf(*impl_->file->metadata()->schema(), column);
  if (impl_->leaf >= 0) return;
  throw FormatError(
      Problem{.where = impl_->label, .expected = fmt::format("a column '{}' of image bytes", column), .found = "none"});
}

ParquetBlobs::~ParquetBlobs() = default;
ParquetBlobs::ParquetBlobs(ParquetBlobs&&) noexcept = default;
ParquetBlobs& ParquetBlobs::operator=(ParquetBlobs&&) noexcept = default;

std::string ParquetBlobs::read(std::int64_t row) {
  return guarded(impl_->label, [&] { return impl_->read(row); });
}

}  // namespace thaw::lerobot
