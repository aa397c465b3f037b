/// Opening Parquet files nobody vouches for: our own positioned reads, bounded memory, Arrow's errors as ours.
#pragma once

#include <arrow/memory_pool.h>
#include <arrow/result.h>
#include <arrow/status.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace thaw::lerobot {

constexpr std::int64_t kMaxReaderBytes = std::int64_t{2} << 30;

/// Counts what one reader allocates and refuses beyond the limit: a page header may claim gigabytes.
class ReaderMemory {
 public:
  ReaderMemory() : counted_(arrow::default_memory_pool()), capped_(&counted_, kMaxReaderBytes) {}
  [[nodiscard]] arrow::MemoryPool* pool() { return &capped_; }

 private:
  arrow::ProxyMemoryPool counted_;
  arrow::CappedMemoryPool capped_;
};

/// @throws FormatError
[[noreturn]] void refuse_parquet(const std::string& label, const std::string& reason);

inline void check(const arrow::Status& status, const std::string& label) {
  if (!status.ok()) refuse_parquet(label, status.message());
}

template <class T>
[[nodiscard]] T take(arrow::Result<T> result, const std::string& label) {
  check(result.status(), label);
  return std::move(result).ValueUnsafe();
}

/// Runs what may throw Arrow's exceptions.
template <class Run>
auto guarded(const std::string& label, Run&& run) {
  try {
    return run();
  } catch (const ::parquet::ParquetException& error) {
    refuse_parquet(label, error.what());
  } catch (const std::bad_alloc&) {
    refuse_parquet(label, "sizes that need more memory than there is");
  }
}

/// `label` names the file in messages. @throws IoError; FormatError when it is no complete Parquet file
[[nodiscard]] std::unique_ptr<::parquet::ParquetFileReader> open_parquet(const std::filesystem::path& path,
                                                                         const std::string& label,
                                                                         ReaderMemory& memory);

/// The leaves of a top-level column. Names hold dots and slashes, so paths are not compared as text.
[[nodiscard]] std::vector<int> leaves_of(const ::parquet::SchemaDescriptor& schema, const std::string& column);

/// The leaf with a column's bytes, or -1.
[[nodiscard]] int blob_leaf(const ::parquet::SchemaDescriptor& schema, const std::string& column);

}  // namespace thaw::lerobot
