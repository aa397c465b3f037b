/// Parquet files through Arrow C++. Only named columns are read; this header names no Arrow type.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace thaw::lerobot {

/// A numeric column as info.json declares it. Shape {1} is a scalar.
struct ColumnSpec {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<std::int64_t> shape{1};
};

/// Reads whole columns. Every array is checked by Arrow's ValidateFull; a null, a list of another length than declared
/// or another type is a FormatError naming file, column and row. A reader may not allocate more than 2 GiB.
class ParquetFile {
 public:
  /// `label` names the file in messages. @throws IoError; FormatError when it is no complete Parquet file
  ParquetFile(const std::filesystem::path& path, std::string label);
  ~ParquetFile();
  ParquetFile(ParquetFile&&) noexcept;
  ParquetFile& operator=(ParquetFile&&) noexcept;

  [[nodiscard]] std::int64_t rows() const;
  [[nodiscard]] bool has(const std::string& column) const;

  /// (rows) for shape {1}, else (rows, shape…), in the declared dtype. Numbers of another width are converted where
  /// every value fits.
  [[nodiscard]] at::Tensor numbers(const ColumnSpec& column) const;
  [[nodiscard]] std::vector<std::int64_t> integers(const std::string& column) const;
  [[nodiscard]] std::vector<double> reals(const std::string& column) const;
  [[nodiscard]] std::vector<std::string> texts(const std::string& column) const;
  [[nodiscard]] std::vector<std::vector<std::string>> text_lists(const std::string& column) const;
  /// The one column of texts: pandas calls an index column `__index_level_0__` or by its name.
  [[nodiscard]] std::string text_column() const;
  /// Whether the column holds bytes: plain, or `bytes` in a struct as Hugging Face datasets writes images.
  [[nodiscard]] bool holds_blobs(const std::string& column) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Byte strings of one column by row, read page by page: reading on from the last row is cheap, going back restarts the
/// row group. Not thread-safe.
class ParquetBlobs {
 public:
  ParquetBlobs(const std::filesystem::path& path, std::string label, const std::string& column);
  ~ParquetBlobs();
  ParquetBlobs(ParquetBlobs&&) noexcept;
  ParquetBlobs& operator=(ParquetBlobs&&) noexcept;
  /// @throws FormatError when the row has no bytes
  [[nodiscard]] std::string read(std::int64_t row);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thaw::lerobot
