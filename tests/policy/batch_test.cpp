#include "thaw/policy/batch.h"

#include "core/throws.h"
#include "thaw/core/error.h"
#include "thaw/tensor/compare.h"

namespace thaw::batch_test {
namespace {

using test::message_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Sample sample(std::int64_t index, at::Tensor state) {
  return {.tensors = {{"observation.state", std::move(state)}, {"timestamp", at::scalar_tensor(index * 0.5)}},
          .task = "task " + std::to_string(index),
          .index = index,
          .episode = index / 10};
}

TEST(Collate, StacksTensorsTasksAndIndicesInOrder) {
  const std::vector<Sample> samples{sample(7, at::tensor({1.0, 2.0})), sample(3, at::tensor({3.0, 4.0}))};
  const Batch batch = collate(samples);
  EXPECT_EQ(batch.size(), 2);
  EXPECT_TRUE(compare_tensors(batch.at("observation.state"), at::tensor({1.0, 2.0, 3.0, 4.0}).reshape({2, 2})));
  EXPECT_TRUE(compare_tensors(batch.at("timestamp"), at::tensor({3.5F, 1.5F})));
  EXPECT_THAT(batch.tasks, ElementsAre("task 7", "task 3"));
  EXPECT_THAT(batch.indices, ElementsAre(7, 3));
}

TEST(Collate, OtherShapeThrowsNamingKeyShapesAndFrames) {
  const std::vector<Sample> samples{sample(7, at::zeros({2})), sample(31, at::zeros({3}))};
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(collate(samples)); }),
              AllOf(HasSubstr("'observation.state'"), HasSubstr("[2] as in frame 7 (episode 0)"),
                    HasSubstr("[3] in frame 31 (episode 3)")));
}

TEST(Collate, OtherDtypeThrowsNamingBoth) {
  const std::vector<Sample> samples{sample(0, at::zeros({2})), sample(1, at::zeros({2}, at::kLong))};
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(collate(samples)); }),
              AllOf(HasSubstr("Float"), HasSubstr("Long")));
}

TEST(Collate, KeyOfOneSampleOnlyThrowsWhicheverHasIt) {
  Sample more = sample(5, at::zeros({2}));
  more.tensors["observation.images.wrist"] = at::zeros({3, 2, 2});
  const Sample less = sample(6, at::zeros({2}));
  for (const auto& samples : {std::vector{more, less}, std::vector{less, more}}) {
    EXPECT_THAT(
        message_of<MismatchError>([&] { static_cast<void>(collate(samples)); }),
        AllOf(HasSubstr("'observation.images.wrist'"), HasSubstr("it in frame 5"), HasSubstr("none in frame 6")));
  }
}

TEST(Collate, NoSamplesThrow) {
  EXPECT_THAT(message_of<MismatchError>([] { static_cast<void>(collate({})); }), HasSubstr("at least one sample"));
}

TEST(Batch, MissingKeyThrowsWithTheNearestKey) {
  const Batch batch{.tensors = {{"observation.state", at::zeros({1, 2})}}, .tasks = {}, .indices = {}};
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(batch.at("observation.stat")); }),
              AllOf(HasSubstr("'observation.stat'"), HasSubstr("'observation.state'")));
}

TEST(Batch, ToDeviceKeepsValues) {
  const Batch batch = to_device(collate(std::vector{sample(1, at::tensor({1.0, 2.0}))}), at::kCPU);
  EXPECT_TRUE(compare_tensors(batch.at("observation.state"), at::tensor({1.0, 2.0}).unsqueeze(0)));
}

TEST(ImagesToFloat, DividesByteImagesBy255AndLeavesTheRest) {
  const at::Tensor bytes = at::tensor({0, 1, 128, 255}, at::kByte);
  const at::Tensor floats = at::tensor({0.25F});
  Batch batch{.tensors = {{"observation.images.front", bytes},
                          {"observation.image", bytes},
                          {"observation.images.done", floats},
                          {"observation.state", bytes},
                          {"done", bytes}},
              .tasks = {},
              .indices = {}};
  images_to_float(batch);
  const at::Tensor expected = at::tensor({0.0F, 1.0F / 255.0F, 128.0F / 255.0F, 1.0F});
  EXPECT_TRUE(bitwise_equal(batch.at("observation.images.front"), expected));
  EXPECT_TRUE(bitwise_equal(batch.at("observation.image"), expected));
  EXPECT_TRUE(bitwise_equal(batch.at("observation.images.done"), floats));
  EXPECT_TRUE(bitwise_equal(batch.at("observation.state"), bytes));
  EXPECT_TRUE(bitwise_equal(batch.at("done"), bytes));
}

}  // namespace
}  // namespace thaw::batch_test
