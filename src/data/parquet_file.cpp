#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <arrow/api.h>
#include <fmt/format.h>
#include <parquet/arrow/reader.h>

#include <algorithm>

#include "arrow_checks_impl.h"
#include "arrow_values_impl.h"
#include "parquet_impl.h"
#include "parquet_source_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw::lerobot {

struct ParquetFile::Impl {
  std::string label;
  ReaderMemory memory;
  std::unique_ptr<::parquet::arrow::FileReader> reader;

  [[nodiscard]] const ::parquet::SchemaDescriptor& schema() const {
    return *reader->parquet_reader()->metadata()->schema();
  }

  /// Of the top-level columns.
  [[nodiscard]] std::vector<std::string> names() const {
    const auto* root = schema().group_node();
    std::vector<std::string> names;
    names.reserve(static_cast<std::size_t>(root->field_count()));
    for (int i = 0; i < root->field_count(); ++i) names.push_back(root->field(i)->name());
    return names;
  }

  /// Calls `use(array, place)` for every chunk of a column.
  template <class Use>
  void for_each_chunk(const std::string& column, Use&& use) const {
    const std::vector<int> leaves = leaves_of(schema(), column);
    if (leaves.empty()) {
      throw FormatError(Problem{.where = label,
                                .expected = fmt::format("a column '{}'", column),
                                .found = "none",
                                .fix = suggest(column, names())});
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

}  // namespace thaw::lerobot
