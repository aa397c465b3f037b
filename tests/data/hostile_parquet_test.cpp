// Parquet files whose columns are not what info.json says, written here with Arrow.
#include <arrow/api.h>
#include <arrow/io/file.h>
#include <gmock/gmock.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/writer.h>

#include "../../src/data/parquet_impl.h"
#include "data/dataset_fixture.h"
#include "thaw/tensor/compare.h"

namespace thaw::hostile_parquet_test {
namespace {

using lerobot::ParquetBlobs;
using lerobot::ParquetFile;
using test::DatasetCopy;
using test::message_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

const char* const kData = "data/chunk-000/file-000.parquet";

template <class T>
T must(arrow::Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  return std::move(result).ValueUnsafe();
}
void must(const arrow::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

std::shared_ptr<arrow::Table> read_table(const fs::path& path) {
  auto file = must(arrow::io::ReadableFile::Open(path.string()));
  return must(
      must(parquet::arrow::FileReader::Make(arrow::default_memory_pool(), parquet::ParquetFileReader::Open(file)))
          ->ReadTable());
}

void write_table(const fs::path& path, const arrow::Table& table, std::int64_t rows_per_group = 64) {
  auto sink = must(arrow::io::FileOutputStream::Open(path.string()));
  const auto keep_types = parquet::ArrowWriterProperties::Builder().store_schema()->build();
  must(parquet::arrow::WriteTable(table, arrow::default_memory_pool(), sink, rows_per_group,
                                  parquet::default_writer_properties(), keep_types));
  must(sink->Close());
}

template <class Builder, class Value>
std::shared_ptr<arrow::Array> array_of(const std::vector<Value>& values) {
  Builder builder;
  for (const Value& value : values) must(builder.Append(value));
  return must(builder.Finish());
}

/// Lists of the given lengths; -1: null. Values count up from 0.
std::shared_ptr<arrow::Array> lists_of(const std::vector<int>& lengths) {
  auto values = std::make_shared<arrow::FloatBuilder>();
  arrow::ListBuilder lists(arrow::default_memory_pool(), values);
  float next = 0;
  for (const int length : lengths) {
    must(length < 0 ? lists.AppendNull() : lists.Append());
    for (int i = 0; i < length; ++i) must(values->Append(next++));
  }
  return must(lists.Finish());
}

/// One column "x" in a file of its own.
class OneColumn {
 public:
  explicit OneColumn(const std::shared_ptr<arrow::Array>& column) {
    const auto schema = arrow::schema({arrow::field("x", column->type())});
    write_table(folder_ / "t.parquet", *arrow::Table::Make(schema, {column}), 3);
  }
  [[nodiscard]] at::Tensor read(at::ScalarType dtype, std::vector<std::int64_t> shape) const {
    return ParquetFile(folder_ / "t.parquet", "t.parquet")
        .numbers({.name = "x", .dtype = dtype, .shape = std::move(shape)});
  }
  [[nodiscard]] std::string refusal(at::ScalarType dtype, std::vector<std::int64_t> shape) const {
    return message_of<FormatError>([&] { static_cast<void>(read(dtype, std::move(shape))); });
  }

 private:
  test::TemporaryFolder folder_;
};

TEST(ParquetNumbers, ReadListsOverSeveralRowGroups) {
  const OneColumn file(lists_of({2, 2, 2, 2, 2}));
  const Comparison same = compare_tensors(file.read(at::kFloat, {2}), at::arange(10, at::kFloat).view({5, 2}));
  EXPECT_TRUE(same) << same.message;
}

TEST(ParquetNumbers, ReadNestedLists) {
  auto values = std::make_shared<arrow::Int32Builder>();
  auto rows = std::make_shared<arrow::ListBuilder>(arrow::default_memory_pool(), values);
  arrow::ListBuilder lists(arrow::default_memory_pool(), rows);
  for (int row = 0, next = 0; row < 4; ++row) {
    must(lists.Append());
    for (int i = 0; i < 2; ++i) {
      must(rows->Append());
      for (int j = 0; j < 3; ++j) must(values->Append(next++));
    }
  }
  const OneColumn file(must(lists.Finish()));
  const Comparison same = compare_tensors(file.read(at::kLong, {2, 3}), at::arange(24, at::kLong).view({4, 2, 3}));
  EXPECT_TRUE(same) << same.message;
  EXPECT_THAT(file.refusal(at::kLong, {3, 2}), HasSubstr("t.parquet column 'x' row 0: expected a list of 3 values"));
  EXPECT_THAT(file.refusal(at::kLong, {2}), AllOf(HasSubstr("column 'x'"), HasSubstr("list")));
}

TEST(ParquetNumbers, TakeScalarsAlsoAsListsOfOne) {
  EXPECT_EQ(OneColumn(lists_of({1, 1, 1})).read(at::kFloat, {1}).sizes(), at::IntArrayRef({3}));
}

TEST(ParquetNumbers, ConvertWhatFitsAndRefuseWhatDoesNot) {
  const OneColumn wide(array_of<arrow::Int64Builder, std::int64_t>({1, 2, 300, -4}));
  EXPECT_EQ(wide.read(at::kInt, {1})[3].item<int>(), -4);
  EXPECT_THAT(wide.refusal(at::kByte, {1}), HasSubstr("row 2: expected a value that fits Byte, found 300"));
  EXPECT_EQ(OneColumn(array_of<arrow::DoubleBuilder, double>({0.5})).read(at::kFloat, {1}).item<float>(), 0.5F);
  EXPECT_THAT(OneColumn(array_of<arrow::DoubleBuilder, double>({0.5})).refusal(at::kLong, {1}),
              HasSubstr("expected Long, found double"));
  EXPECT_THAT(OneColumn(array_of<arrow::StringBuilder, std::string>({"a"})).refusal(at::kFloat, {1}),
              HasSubstr("found string"));
}

TEST(ParquetNumbers, ReadUnsignedOfAnyWidthAndBooleansAndNoDates) {
  const OneColumn huge(array_of<arrow::UInt64Builder, std::uint64_t>({7, std::uint64_t{1} << 63}));
  EXPECT_THAT(huge.refusal(at::kLong, {1}), HasSubstr("row 1: expected a value that fits Long, found 92233720368"));
  EXPECT_EQ(huge.read(at::kDouble, {1})[0].item<double>(), 7.0);
  const OneColumn flags(array_of<arrow::BooleanBuilder, bool>({false, true}));
  EXPECT_TRUE(flags.read(at::kBool, {1})[1].item<bool>());
  EXPECT_THAT(flags.refusal(at::kLong, {1}), HasSubstr("expected Long, found bool"));
  EXPECT_THAT(OneColumn(array_of<arrow::Date32Builder, std::int32_t>({3})).refusal(at::kInt, {1}),
              HasSubstr("expected Int, found date32"));
}

TEST(ParquetNumbers, NameTheRowOfANullOrAWrongLength) {
  EXPECT_THAT(OneColumn(lists_of({2, 2, 2, 2, 3, 2})).refusal(at::kFloat, {2}),
              HasSubstr("row 4: expected a list of 2 values (info.json), found 3"));
  EXPECT_THAT(OneColumn(lists_of({2, 2, 2, 2, -1})).refusal(at::kFloat, {2}),
              HasSubstr("row 4: expected a value, found null"));
  arrow::Int64Builder builder;
  must(builder.Append(1));
  must(builder.AppendNull());
  EXPECT_THAT(OneColumn(must(builder.Finish())).refusal(at::kLong, {1}),
              HasSubstr("row 1: expected a value, found null"));
}

TEST(ParquetFiles, MissingColumnComesWithTheNearestName) {
  const ParquetFile file(test::given_set("v30_h264") / kData, kData);
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(file.integers("task_indx")); }),
              AllOf(HasSubstr("'task_indx'"), HasSubstr("Did you mean 'task_index'")));
}

TEST(ParquetFiles, TaskTextIsFoundUnderBothNamesPandasGivesIt) {
  for (const char* name : {"task", "__index_level_0__"}) {
    const DatasetCopy copy("v30_h264");
    auto table = read_table(copy / "meta/tasks.parquet");
    table = must(table->RenameColumns({"task_index", name}));
    write_table(copy / "meta/tasks.parquet", *table);
    EXPECT_THAT(LeRobotDataset::open(copy.root()).tasks(),
                ElementsAre("Reach a goal position", "Open a drawer", "Press a button from the top"));
  }
}

TEST(ParquetBlobs, ReadInAnyOrder) {
  std::vector<std::string> texts;
  for (int i = 0; i < 50; ++i)
    texts.push_back(std::string(static_cast<std::size_t>(20 + i * 1000), static_cast<char>('a' + i % 26)));
  const test::TemporaryFolder folder;
  const auto column = array_of<arrow::BinaryBuilder, std::string>(texts);
  write_table(folder / "t.parquet", *arrow::Table::Make(arrow::schema({arrow::field("x", column->type())}), {column}),
              20);
  ParquetBlobs blobs(folder / "t.parquet", "t.parquet", "x");
  for (const int row : {0, 1, 2, 30, 31, 5, 49, 48, 20, 19, 19})
    EXPECT_EQ(blobs.read(row), texts[static_cast<std::size_t>(row)]) << row;
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(blobs.read(50)); }),
              HasSubstr("row 50: expected a row, found 50 rows"));
}

// --- whole datasets ---

/// A copy of v30_h264 with one column of the data file (or the episode table) replaced.
std::string refusal_with_column(const std::string& file, const std::string& column,
                                const std::function<std::shared_ptr<arrow::Array>(const arrow::Array&)>& change) {
  const DatasetCopy copy("v30_h264");
  auto table = must(read_table(copy / file)->CombineChunks());
  const int index = table->schema()->GetFieldIndex(column);
  const std::shared_ptr<arrow::Array> changed = change(*table->column(index)->chunk(0));
  table = must(
      table->SetColumn(index, arrow::field(column, changed->type()), std::make_shared<arrow::ChunkedArray>(changed)));
  write_table(copy / file, *table);
  return message_of<Error>([&] { static_cast<void>(LeRobotDataset::open(copy.root())); });
}

/// Replaces one number of an int64 column.
auto with_number(std::int64_t row, std::int64_t value) {
  return [=](const arrow::Array& array) {
    std::vector<std::int64_t> numbers;
    for (std::int64_t i = 0; i < array.length(); ++i)
      numbers.push_back(static_cast<const arrow::Int64Array&>(array).Value(i));
    numbers[static_cast<std::size_t>(row)] = value;
    return array_of<arrow::Int64Builder>(numbers);
  };
}

auto with_real(std::int64_t row, float value) {
  return [=](const arrow::Array& array) {
    std::vector<float> numbers;
    for (std::int64_t i = 0; i < array.length(); ++i)
      numbers.push_back(static_cast<const arrow::FloatArray&>(array).Value(i));
    numbers[static_cast<std::size_t>(row)] = value;
    return array_of<arrow::FloatBuilder>(numbers);
  };
}

TEST(HostileColumns, RunningNumbersMustRun) {
  EXPECT_THAT(refusal_with_column(kData, "index", with_number(20, std::numeric_limits<std::int64_t>::max())),
              HasSubstr("column 'index' row 20 (episode 1): expected 20, found 9223372036854775807"));
  EXPECT_THAT(refusal_with_column(kData, "episode_index", with_number(3, 1)),
              HasSubstr("column 'episode_index' row 3 (episode 0): expected 0, found 1"));
  EXPECT_THAT(refusal_with_column(kData, "frame_index", with_number(17, 5)),
              HasSubstr("column 'frame_index' row 17 (episode 1): expected 1, found 5"));
  EXPECT_THAT(refusal_with_column(kData, "task_index", with_number(2, 3)),
              HasSubstr("expected one of the 3 tasks in meta/tasks, found 3"));
  EXPECT_THAT(refusal_with_column(kData, "task_index", with_number(2, -1)), HasSubstr("found -1"));
}

TEST(HostileColumns, TimesMustBeTheirFrames) {
  EXPECT_THAT(refusal_with_column(kData, "timestamp", with_real(2, 99.0F)),
              HasSubstr("column 'timestamp' row 2 (episode 0): expected about 0.1000 s"));
  EXPECT_THAT(refusal_with_column(kData, "timestamp", with_real(2, -0.1F)), HasSubstr("found -0.1"));
  EXPECT_THAT(refusal_with_column(kData, "timestamp", with_real(2, std::nanf(""))), HasSubstr("found nan"));
}

TEST(HostileColumns, WrongListsAreNamed) {
  EXPECT_THAT(refusal_with_column(kData, "action",
                                  [](const arrow::Array& array) {
                                    std::vector<int> lengths(static_cast<std::size_t>(array.length()), 4);
                                    lengths[77] = 3;
                                    return lists_of(lengths);
                                  }),
              HasSubstr("column 'action' row 77: expected a list of 4 values (info.json), found 3"));
}

TEST(HostileColumns, EpisodeTableMustDescribeTheData) {
  const std::string table = "meta/episodes/chunk-000/file-000.parquet";
  EXPECT_THAT(refusal_with_column(table, "length", with_number(1, 3)),
              HasSubstr("episode 1: expected a range of 3 frames (length), found [16, 41)"));
  EXPECT_THAT(refusal_with_column(table, "dataset_to_index", with_number(0, std::numeric_limits<std::int64_t>::max())),
              HasSubstr("episode 0"));
  EXPECT_THAT(refusal_with_column(table, "episode_index", with_number(2, 9)), HasSubstr("row 2 'episode_index'"));
  EXPECT_THAT(refusal_with_column(table, "data/file_index", with_number(5, 1)),
              AllOf(HasSubstr("data/chunk-000/file-001.parquet"), HasSubstr("No such file")));
  EXPECT_THAT(refusal_with_column(table, "data/file_index", with_number(2, -1)),
              HasSubstr("expected a number of a file, found -1"));
  EXPECT_THAT(refusal_with_column(table, "videos/observation.images.corner/file_index", with_number(5, 7)),
              HasSubstr("file-007.mp4"));
  EXPECT_THAT(refusal_with_column(table, "videos/observation.images.corner/from_timestamp",
                                  [](const arrow::Array& array) {
                                    std::vector<double> seconds(static_cast<std::size_t>(array.length()), -1.0);
                                    return array_of<arrow::DoubleBuilder>(seconds);
                                  }),
              HasSubstr("from_timestamp"));
}

TEST(HostileColumns, FewerRowsThanTheTableSaysAreNamed) {
  const DatasetCopy copy("v30_h264");
  write_table(copy / kData, *read_table(copy / kData)->Slice(0, 100));
  EXPECT_THAT(
      copy.refusal<MismatchError>(),
      HasSubstr(std::string(kData) + ": expected 112 rows for episodes 0 to 5 of the episode table, found 100"));
}

TEST(HostileColumns, NullPictureIsNamedWhenItIsRead) {
  const DatasetCopy copy("v30_png");
  auto table = must(read_table(copy / kData)->CombineChunks());
  const int index = table->schema()->GetFieldIndex("observation.images.corner");
  const auto& pictures = static_cast<const arrow::StructArray&>(*table->column(index)->chunk(0));
  arrow::BinaryBuilder bytes;
  for (std::int64_t i = 0; i < pictures.length(); ++i) {
    must(i == 7 ? bytes.AppendNull()
                : bytes.Append(static_cast<const arrow::BinaryArray&>(*pictures.field(0)).GetView(i)));
  }
  const auto changed = must(
      arrow::StructArray::Make({must(bytes.Finish()), pictures.field(1)}, std::vector<std::string>{"bytes", "path"}));
  table = must(table->SetColumn(index, arrow::field("observation.images.corner", changed->type()),
                                std::make_shared<arrow::ChunkedArray>(changed)));
  write_table(copy / kData, *table);
  const LeRobotDataset dataset = LeRobotDataset::open(copy.root());
  EXPECT_EQ(dataset.sample(8).tensors.at("observation.images.corner").dim(), 3);
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(dataset.sample(7)); }),
              HasSubstr("row 7: expected the bytes of an image, found none"));
}

}  // namespace
}  // namespace thaw::hostile_parquet_test
