// Frames through the processors of checkpoints that LeRobot wrote: the committed one, and every checkpoint_* below the
// folders of THAW_GOLDEN_DIRS.
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <sstream>

#include "support/paths.h"
#include "thaw/core/json.h"
#include "thaw/policy/batch.h"
#include "thaw/policy/processor.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::processor_golden_test {
namespace {

namespace fs = std::filesystem;

struct Checkpoint {
  std::map<std::string, at::Tensor> cases;
  Json frames;
  ProcessorPipeline preprocessor;
  ProcessorPipeline postprocessor;
};

Checkpoint load(const fs::path& folder) {
  const TokenizerSearch tokenizers{.checkpoint = folder / "pretrained_model", .override_folder = folder / "tokenizer"};
  return {.cases = read_safetensors(folder / "cases.safetensors"),
          .frames = read_json(folder / "cases.json")["frames"],
          .preprocessor = ProcessorPipeline::load(folder / "pretrained_model", "policy_preprocessor", tokenizers),
          .postprocessor = ProcessorPipeline::load(folder / "pretrained_model", "policy_postprocessor", tokenizers)};
}

/// Tensors under "<frame>/<kind>/".
std::map<std::string, at::Tensor> tensors_of(const Checkpoint& checkpoint, std::size_t frame, const std::string& kind) {
  const std::string prefix = std::to_string(frame) + "/" + kind + "/";
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [key, tensor] : checkpoint.cases) {
    if (key.starts_with(prefix)) tensors[key.substr(prefix.size())] = tensor;
  }
  return tensors;
}

Batch raw_batch(const Checkpoint& checkpoint, std::size_t frame) {
  const Sample sample{.tensors = tensors_of(checkpoint, frame, "raw"),
                      .task = checkpoint.frames[frame]["task"].get<std::string>(),
                      .index = checkpoint.frames[frame]["index"].get<std::int64_t>(),
                      .episode = 0};
  return collate(std::vector{sample});
}

void check_frame(const Checkpoint& checkpoint, std::size_t frame, const std::string& where) {
  const Batch processed = checkpoint.preprocessor(raw_batch(checkpoint, frame));
  const auto expected = tensors_of(checkpoint, frame, "processed");
  ASSERT_TRUE(expected.contains("observation.language.tokens")) << where;
  for (const auto& [key, tensor] : expected) {
    const Bound bound{.absolute = tensor.is_floating_point() ? 1e-6 : 0.0};
    const auto result = compare_tensors(processed.at(key), tensor, bound);
    EXPECT_TRUE(result) << where << " " << key << ": " << result.message;
  }
  for (const auto& [key, tensor] : tensors_of(checkpoint, frame, "raw")) {
    if (!key.starts_with("observation.image")) continue;
    const auto result = compare_tensors(processed.at(key), (tensor.to(at::kFloat) / 255.0).unsqueeze(0));
    EXPECT_TRUE(result) << where << " " << key << ": " << result.message;
  }

  const std::string prefix = std::to_string(frame) + "/";
  const Batch output =
      checkpoint.postprocessor(postprocessor_input(processed, checkpoint.cases.at(prefix + "actions")));
  const auto robot = compare_tensors(output.at("action"), checkpoint.cases.at(prefix + "robot_actions"),
                                     {.absolute = 1e-7, .relative = 1e-6});
  EXPECT_TRUE(robot) << where << " robot actions: " << robot.message;
}

void check(const fs::path& folder) {
  const Checkpoint checkpoint = load(folder);
  ASSERT_GT(checkpoint.frames.size(), 0U);
  for (std::size_t frame = 0; frame < checkpoint.frames.size(); ++frame) {
    check_frame(checkpoint, frame, folder.filename().string() + " frame " + std::to_string(frame));
  }
  std::cout << "processors of " << folder.filename().string() << ": " << checkpoint.frames.size() << " frames"
            << std::endl;
}

TEST(ProcessorGolden, FramesOfTheCommittedCheckpointEqualTheReference) {
  check(fs::path(thaw::test::source_dir()) / "tests" / "golden" / "checkpoint_smolvla");
}

TEST(ProcessorGolden, FramesOfEveryFurtherCheckpointEqualTheReference) {
  const char* folders = std::getenv("THAW_GOLDEN_DIRS");
  if (folders == nullptr) GTEST_SKIP() << "THAW_GOLDEN_DIRS names no folder of further checkpoints";
  std::stringstream list(folders);
  for (std::string folder; std::getline(list, folder, ':');) {
    if (folder.empty()) continue;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().filename().string().starts_with("checkpoint_")) check(entry.path());
    }
  }
}

TEST(ProcessorGolden, FramesOfABatchEqualThoseAlone) {
  const Checkpoint checkpoint = load(fs::path(thaw::test::source_dir()) / "tests" / "golden" / "checkpoint_smolvla");
  std::vector<Sample> samples;
  for (std::size_t frame = 0; frame < checkpoint.frames.size(); ++frame) {
    samples.push_back({.tensors = tensors_of(checkpoint, frame, "raw"),
                       .task = checkpoint.frames[frame]["task"].get<std::string>(),
                       .index = static_cast<std::int64_t>(frame),
                       .episode = 0});
  }
  const Batch together = checkpoint.preprocessor(collate(samples));
  for (std::size_t frame = 0; frame < samples.size(); ++frame) {
    const auto row = static_cast<std::int64_t>(frame);
    for (const auto& [key, tensor] : tensors_of(checkpoint, frame, "processed")) {
      at::Tensor found = together.at(key).slice(0, row, row + 1);
      if (key.starts_with("observation.language")) found = found.slice(1, 0, tensor.size(1));  // less padding alone
      EXPECT_TRUE(compare_tensors(found, tensor, {.absolute = tensor.is_floating_point() ? 1e-6 : 0.0})) << key;
    }
  }
}

}  // namespace
}  // namespace thaw::processor_golden_test
