#include "thaw/train/tensorboard.h"

#include "toy.h"

namespace thaw::tensorboard_test {
namespace {

std::string bytes(std::initializer_list<int> values) {
  std::string text;
  for (const int value : values) text.push_back(static_cast<char>(value));
  return text;
}

TEST(TensorBoard, Crc32cGivesTheCheckValuesOfRfc3720) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  EXPECT_EQ(crc32c(""), 0U);
}

TEST(TensorBoard, MaskRotatesAndAdds) {
  const std::uint32_t crc = crc32c("123456789");
  EXPECT_EQ(masked_crc32c("123456789"), ((crc >> 15) | (crc << 17)) + 0xa282ead8U);
}

TEST(TensorBoard, RecordIsLengthCrcPayloadCrc) {
  const std::string record = tf_record("abc");
  ASSERT_EQ(record.size(), 8U + 4U + 3U + 4U);
  EXPECT_EQ(record.substr(0, 8), bytes({3, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(record.substr(12, 3), "abc");
  const auto little = [](std::uint32_t v) {
    return bytes({static_cast<int>(v & 0xff), static_cast<int>((v >> 8) & 0xff), static_cast<int>((v >> 16) & 0xff),
                  static_cast<int>(v >> 24)});
  };
  EXPECT_EQ(record.substr(8, 4), little(masked_crc32c(record.substr(0, 8))));
  EXPECT_EQ(record.substr(15), little(masked_crc32c("abc")));
}

TEST(TensorBoard, VersionEventIsTheOneReadersLookFor) {
  EXPECT_EQ(version_event(1.0), bytes({0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x1a, 13}) + "brain.Event:2");
}

TEST(TensorBoard, ScalarEventIsTimeStepAndSummary) {
  // Event{wall_time: 1, step: 300, summary{value{tag: "a", simple_value: 1.0}}}
  EXPECT_EQ(scalar_event(1.0, 300, "a", 1.0F), bytes({0x09, 0,  0,    0, 0,    0, 0,   0xf0, 0x3f, 0x10, 0xac, 0x02,
                                                      0x2a, 10, 0x0a, 8, 0x0a, 1, 'a', 0x15, 0,    0,    0x80, 0x3f}));
}

TEST(TensorBoard, FileIsAStreamOfRecordsThatBeginsWithTheVersion) {
  const toy::Folder folder;
  std::filesystem::path path;
  {
    TensorBoardFile file(folder.path());
    file.on_log({.step = 10, .loss = 0.5, .learning_rate = 1e-4});
    file.on_evaluation(20, {.loss = 0.25, .metrics = {{"action_mse", 0.1}}, .samples = 4});
    path = file.path();
  }
  EXPECT_THAT(path.filename().string(), testing::StartsWith("events.out.tfevents."));
  const std::string content = toy::file_bytes(path);
  std::vector<std::string> payloads;
  for (std::size_t at = 0; at < content.size();) {
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < 8; ++i)
      length |= static_cast<std::uint64_t>(static_cast<unsigned char>(content.at(at + i))) << (8 * i);
    payloads.push_back(content.substr(at + 12, length));
    EXPECT_EQ(tf_record(payloads.back()), content.substr(at, length + 16));
    at += length + 16;
  }
  ASSERT_EQ(payloads.size(), 9U);
  EXPECT_THAT(payloads[0], testing::HasSubstr("brain.Event:2"));
  EXPECT_THAT(payloads[1], testing::HasSubstr("train/loss"));
  EXPECT_THAT(payloads[8], testing::HasSubstr("eval/action_mse"));
}

}  // namespace
}  // namespace thaw::tensorboard_test
