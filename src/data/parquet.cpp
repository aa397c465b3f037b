#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <arrow/api.h>
#include <arrow/io/interfaces.h>
#include <fmt/format.h>
#include <parquet/arrow/reader.h>
#include <parquet/column_reader.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>

#include <array>
#include <cstring>
#include <limits>
#include <type_traits>

#include "parquet_impl.h"
#include "sniff_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/names.h"

namespace thaw::lerobot {
namespace {

constexpr std::int64_t kMaxReaderBytes = std::int64_t{2} << 30;
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

/// Counts what one reader allocates and refuses beyond the limit: a page header may claim gigabytes.
class ReaderMemory {
 public:
  ReaderMemory() : counted_(arrow::default_memory_pool()), capped_(&counted_, kMaxReaderBytes) {}
  [[nodiscard]] arrow::MemoryPool* pool() { return &capped_; }

 private:
  arrow::ProxyMemoryPool counted_;
  arrow::CappedMemoryPool capped_;
};

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

[[noreturn]] void refuse(const std::string& label, const std::string& reason) {
  throw FormatError(Problem{.where = label, .expected = "a readable Parquet file", .found = first_line(reason)});
}

void check(const arrow::Status& status, const std::string& label) {
  if (!status.ok()) refuse(label, status.message());
}

template <class T>
T take(arrow::Result<T> result, const std::string& label) {
  check(result.status(), label);
  return std::move(result).ValueUnsafe();
}

/// Runs what may throw Arrow's exceptions.
template <class Run>
auto guarded(const std::string& label, Run&& run) {
  try {
    return run();
  } catch (const ::parquet::ParquetException& error) {
    refuse(label, error.what());
  } catch (const std::bad_alloc&) {
    refuse(label, "sizes that need more memory than there is");
  }
}

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

/// The leaves of a top-level column. Names hold dots and slashes, so paths are not compared as text.
std::vector<int> leaves_of(const ::parquet::SchemaDescriptor& schema, const std::string& column) {
  std::vector<int> leaves;
  for (int leaf = 0; leaf < schema.num_columns(); ++leaf) {
    if (schema.GetColumnRoot(leaf)->name() == column) leaves.push_back(leaf);
  }
  return leaves;
}

/// The leaf with a column's bytes, or -1.
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

/// Where a value of a column chunk lies, for messages.
struct Place {
  std::string label;
  std::string column;
  std::int64_t first_row = 0;
  std::int64_t items_per_row = 1;

  [[nodiscard]] std::string at(std::int64_t item) const {
    return fmt::format("{} column '{}' row {}", label, column, first_row + item / items_per_row);
  }
};

void check_no_nulls(const arrow::Array& array, const Place& place) {
  if (array.null_count() == 0) return;
  std::int64_t item = 0;
  while (!array.IsNull(item)) ++item;
  throw FormatError(Problem{.where = place.at(item), .expected = "a value", .found = "null"});
}

[[noreturn]] void refuse_type(const arrow::Array& array, const Place& place, const std::string& expected) {
  throw FormatError(Problem{.where = fmt::format("{} column '{}'", place.label, place.column),
                            .expected = expected,
                            .found = array.type()->ToString()});
}

/// The child values of a list array of which every list must hold `length` items.
template <class ListArray>
std::shared_ptr<arrow::Array> fixed_items(const ListArray& lists, std::int64_t length, const Place& place) {
  for (std::int64_t i = 0; i < lists.length(); ++i) {
    if (lists.value_length(i) == length) continue;
    throw FormatError(Problem{.where = place.at(i),
                              .expected = fmt::format("a list of {} values (info.json)", length),
                              .found = std::to_string(lists.value_length(i))});
  }
  const std::int64_t first = lists.length() == 0 ? 0 : lists.value_offset(0);
  return lists.values()->Slice(first, lists.length() * length);
}

std::shared_ptr<arrow::Array> without_extension(std::shared_ptr<arrow::Array> array) {
  while (array->type_id() == arrow::Type::EXTENSION) {
    array = static_cast<const arrow::ExtensionArray&>(*array).storage();
  }
  return array;
}

/// nullptr when `array` is no list.
std::shared_ptr<arrow::Array> list_items(const arrow::Array& array, std::int64_t length, const Place& place) {
  switch (array.type_id()) {
    case arrow::Type::LIST:
      return fixed_items(static_cast<const arrow::ListArray&>(array), length, place);
    case arrow::Type::LARGE_LIST:
      return fixed_items(static_cast<const arrow::LargeListArray&>(array), length, place);
    case arrow::Type::FIXED_SIZE_LIST:
      return fixed_items(static_cast<const arrow::FixedSizeListArray&>(array), length, place);
    default:
      return nullptr;
  }
}

/// The numbers of a column of (nested) lists, each level checked against the declared shape.
std::shared_ptr<arrow::Array> leaf_values(std::shared_ptr<arrow::Array> array, const ColumnSpec& column, Place place) {
  const bool scalar = column.shape.size() == 1 && column.shape[0] == 1;
  for (const std::int64_t extent : column.shape) {
    array = without_extension(std::move(array));
    check_no_nulls(*array, place);
    std::shared_ptr<arrow::Array> items = list_items(*array, extent, place);
    if (items == nullptr && scalar) return array;
    if (items == nullptr) refuse_type(*array, place, fmt::format("lists of shape [{}]", fmt::join(column.shape, ", ")));
    place.items_per_row *= extent;
    array = std::move(items);
  }
  array = without_extension(std::move(array));
  check_no_nulls(*array, place);
  return array;
}

template <class To, class From>
bool fits(From value) {
  constexpr bool integers = std::is_integral_v<To> && std::is_integral_v<From>;
  if constexpr (integers && !std::is_same_v<From, bool>) {
    return std::in_range<To>(value);
  } else {
    return true;
  }
}

template <class To, class Array>
at::Tensor convert(const Array& array, at::ScalarType dtype, const Place& place) {
  at::Tensor out = at::empty({array.length()}, dtype);
  To* values = out.template mutable_data_ptr<To>();
  for (std::int64_t i = 0; i < array.length(); ++i) {
    const auto value = array.Value(i);
    if (!fits<To>(value)) {
      throw FormatError(Problem{.where = place.at(i),
                                .expected = fmt::format("a value that fits {}", c10::toString(dtype)),
                                .found = fmt::format("{}", value)});
    }
    values[i] = static_cast<To>(value);
  }
  return out;
}

at::Tensor convert_halves(const arrow::HalfFloatArray& array, at::ScalarType dtype) {
  const auto* bits = reinterpret_cast<const at::Half*>(array.raw_values());
  return at::from_blob(const_cast<at::Half*>(bits), {array.length()}, at::kHalf).to(dtype, false, true);  // NOLINT
}

template <class Array>
at::Tensor convert_integers(const Array& array, at::ScalarType dtype, const Place& place) {
  switch (dtype) {
    case at::kByte:
      return convert<std::uint8_t>(array, dtype, place);
    case at::kChar:
      return convert<std::int8_t>(array, dtype, place);
    case at::kShort:
      return convert<std::int16_t>(array, dtype, place);
    case at::kInt:
      return convert<std::int32_t>(array, dtype, place);
    case at::kLong:
      return convert<std::int64_t>(array, dtype, place);
    case at::kFloat:
      return convert<float>(array, dtype, place);
    case at::kDouble:
      return convert<double>(array, dtype, place);
    default:
      refuse_type(array, place, c10::toString(dtype));
  }
}

template <class Array>
at::Tensor convert_reals(const Array& array, at::ScalarType dtype, const Place& place) {
  switch (dtype) {
    case at::kHalf:
      return convert<float>(array, at::kFloat, place).to(at::kHalf);
    case at::kFloat:
      return convert<float>(array, dtype, place);
    case at::kDouble:
      return convert<double>(array, dtype, place);
    default:
      refuse_type(array, place, c10::toString(dtype));
  }
}

at::Tensor to_tensor(const arrow::Array& array, at::ScalarType dtype, const Place& place) {
  using arrow::Type;
  switch (array.type_id()) {
    case Type::UINT8:
      return convert_integers(static_cast<const arrow::UInt8Array&>(array), dtype, place);
    case Type::INT8:
      return convert_integers(static_cast<const arrow::Int8Array&>(array), dtype, place);
    case Type::UINT16:
      return convert_integers(static_cast<const arrow::UInt16Array&>(array), dtype, place);
    case Type::INT16:
      return convert_integers(static_cast<const arrow::Int16Array&>(array), dtype, place);
    case Type::UINT32:
      return convert_integers(static_cast<const arrow::UInt32Array&>(array), dtype, place);
    case Type::INT32:
      return convert_integers(static_cast<const arrow::Int32Array&>(array), dtype, place);
    case Type::INT64:
      return convert_integers(static_cast<const arrow::Int64Array&>(array), dtype, place);
    case Type::FLOAT:
      return convert_reals(static_cast<const arrow::FloatArray&>(array), dtype, place);
    case Type::DOUBLE:
      return convert_reals(static_cast<const arrow::DoubleArray&>(array), dtype, place);
    case Type::HALF_FLOAT:
      if (!at::isFloatingType(dtype)) break;
      return convert_halves(static_cast<const arrow::HalfFloatArray&>(array), dtype);
    case Type::BOOL:
      if (dtype != at::kBool) break;
      return convert<bool>(static_cast<const arrow::BooleanArray&>(array), dtype, place);
    default:
      break;
  }
  refuse_type(array, place, c10::toString(dtype));
}

template <class Array>
void append_texts(const Array& array, std::vector<std::string>& texts) {
  for (std::int64_t i = 0; i < array.length(); ++i) texts.emplace_back(array.GetView(i));
}

void append_texts(const arrow::Array& array, const Place& place, std::vector<std::string>& texts) {
  check_no_nulls(array, place);
  if (array.type_id() == arrow::Type::STRING) {
    append_texts(static_cast<const arrow::StringArray&>(array), texts);
  } else if (array.type_id() == arrow::Type::LARGE_STRING) {
    append_texts(static_cast<const arrow::LargeStringArray&>(array), texts);
  } else {
    refuse_type(array, place, "texts");
  }
}

}  // namespace

// --- ParquetFile ---

struct ParquetFile::Impl {
  std::string label;
  ReaderMemory memory;
  std::unique_ptr<::parquet::arrow::FileReader> reader;

  [[nodiscard]] const ::parquet::SchemaDescriptor& schema() const {
    return *reader->parquet_reader()->metadata()->schema();
  }

  /// Calls `use(array, place)` for every chunk of a column.
  template <class Use>
  void for_each_chunk(const std::string& column, Use&& use) const {
    const std::vector<int> leaves = leaves_of(schema(), column);
    if (leaves.empty()) {
      std::vector<std::string> names;
      for (int i = 0; i < schema().group_node()->field_count(); ++i)
        names.push_back(schema().group_node()->field(i)->name());
      throw FormatError(Problem{.where = label,
                                .expected = fmt::format("a column '{}'", column),
                                .found = "none",
                                .fix = suggest(column, names)});
    }
    guarded(label, [&] {
      const std::shared_ptr<arrow::Table> table = take(reader->ReadTable(leaves), label);
      check(table->ValidateFull(), fmt::format("{} column '{}'", label, column));
      Place place{.label = label, .column = column};
      for (const std::shared_ptr<arrow::Array>& chunk : table->column(0)->chunks()) {
        use(chunk, place);
        place.first_row += chunk->length();
      }
    });
  }
};

ParquetFile::ParquetFile(const std::filesystem::path& path, std::string label) : impl_(std::make_unique<Impl>()) {
  impl_->label = std::move(label);
  auto file = open_parquet(path, impl_->label, impl_->memory);
  impl_->reader = guarded(impl_->label, [&] {
    return take(::parquet::arrow::FileReader::Make(impl_->memory.pool(), std::move(file)), impl_->label);
  });
}

ParquetFile::~ParquetFile() = default;
ParquetFile::ParquetFile(ParquetFile&&) noexcept = default;
ParquetFile& ParquetFile::operator=(ParquetFile&&) noexcept = default;

std::int64_t ParquetFile::rows() const { return impl_->reader->parquet_reader()->metadata()->num_rows(); }

std::vector<std::string> ParquetFile::columns() const {
  const auto* root = impl_->schema().group_node();
  std::vector<std::string> names;
  for (int i = 0; i < root->field_count(); ++i) names.push_back(root->field(i)->name());
  return names;
}

bool ParquetFile::has(const std::string& column) const { return !leaves_of(impl_->schema(), column).empty(); }

bool ParquetFile::holds_blobs(const std::string& column) const { return blob_leaf(impl_->schema(), column) >= 0; }

at::Tensor ParquetFile::numbers(const ColumnSpec& column) const {
  std::vector<at::Tensor> parts;
  impl_->for_each_chunk(column.name, [&](const std::shared_ptr<arrow::Array>& chunk, const Place& place) {
    const std::shared_ptr<arrow::Array> leaf = leaf_values(chunk, column, place);
    Place leaf_place = place;
    leaf_place.items_per_row = std::max<std::int64_t>(1, c10::multiply_integers(column.shape));
    parts.push_back(to_tensor(*leaf, column.dtype, leaf_place));
  });
  std::vector<std::int64_t> shape{-1};
  const bool scalar = column.shape.size() == 1 && column.shape[0] == 1;
  if (!scalar) shape.insert(shape.end(), column.shape.begin(), column.shape.end());
  if (parts.empty()) {
    shape[0] = 0;
    return at::empty(shape, column.dtype);
  }
  return at::cat(parts).view(shape);
}

std::vector<std::int64_t> ParquetFile::integers(const std::string& column) const {
  const at::Tensor values = numbers({.name = column, .dtype = at::kLong});
  return {values.const_data_ptr<std::int64_t>(), values.const_data_ptr<std::int64_t>() + values.numel()};
}

std::vector<double> ParquetFile::reals(const std::string& column) const {
  const at::Tensor values = numbers({.name = column, .dtype = at::kDouble});
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel()};
}

std::vector<std::string> ParquetFile::texts(const std::string& column) const {
  std::vector<std::string> texts;
  impl_->for_each_chunk(column, [&](const std::shared_ptr<arrow::Array>& chunk, const Place& place) {
    append_texts(*chunk, place, texts);
  });
  return texts;
}

std::vector<std::vector<std::string>> ParquetFile::text_lists(const std::string& column) const {
  std::vector<std::vector<std::string>> lists;
  impl_->for_each_chunk(column, [&](const std::shared_ptr<arrow::Array>& chunk, const Place& place) {
    check_no_nulls(*chunk, place);
    if (chunk->type_id() != arrow::Type::LIST) refuse_type(*chunk, place, "lists of texts");
    const auto& array = static_cast<const arrow::ListArray&>(*chunk);
    for (std::int64_t i = 0; i < array.length(); ++i) {
      Place row = place;
      row.first_row += i;
      append_texts(*array.value_slice(i), row, lists.emplace_back());
    }
  });
  return lists;
}

std::string ParquetFile::text_column() const {
  std::vector<std::string> found;
  const ::parquet::SchemaDescriptor& schema = impl_->schema();
  for (int leaf = 0; leaf < schema.num_columns(); ++leaf) {
    if (schema.Column(leaf)->physical_type() == ::parquet::Type::BYTE_ARRAY) {
      found.push_back(schema.GetColumnRoot(leaf)->name());
    }
  }
  if (found.size() == 1) return found.front();
  throw FormatError(Problem{.where = impl_->label,
                            .expected = "one column of texts",
                            .found = found.empty() ? "none" : fmt::format("'{}'", fmt::join(found, "', '"))});
}

// --- ParquetBlobs ---

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
