// What loading a checkpoint holds at most: the model in the types it is loaded in, and one tensor of the file beside
// it.
#include <malloc.h>
#include <torch/nn/module.h>

#include <cstdlib>
#include <fstream>
#include <optional>

#include "models/tiny_cases.h"
#include "support/live_bytes.h"
#include "support/temporary_folder.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::loading_memory_test {
namespace {

namespace fs = std::filesystem;

// Numbers beside the weights: sums that tell whether a tensor is finite, statistics of the processors.
constexpr double kOtherBytes = 8192;

double bytes_of(const torch::nn::Module& module) {
  double bytes = 0;
  for (const auto& parameter : module.named_parameters()) bytes += static_cast<double>(parameter.value().nbytes());
  return bytes;
}

double largest_tensor(const torch::nn::Module& module) {
  double largest = 0;
  for (const auto& parameter : module.named_parameters()) {
    largest = std::max(largest, static_cast<double>(parameter.value().nbytes()));
  }
  return largest;
}

/// model.safetensors as two files with an index.
void split_into_shards(const fs::path& folder) {
  const auto tensors = read_safetensors(folder / "model.safetensors");
  fs::remove(folder / "model.safetensors");
  std::vector<NamedTensor> shards[2];
  Json map = Json::object();
  for (const auto& [name, tensor] : tensors) {
    const std::size_t shard = map.size() % 2;
    shards[shard].push_back({.name = name, .tensor = tensor});
    map[name] = fmt::format("model-0000{}-of-00002.safetensors", shard + 1);
  }
  for (std::size_t i = 0; i < 2; ++i) {
    write_safetensors(folder / fmt::format("model-0000{}-of-00002.safetensors", i + 1), shards[i]);
  }
  write_text_atomic(folder / "model.safetensors.index.json",
                    Json{{"metadata", Json::object()}, {"weight_map", map}}.dump());
}

class LoadingMemoryOf : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const auto policy = tiny::tiny_case(GetParam()).policy;
    largest_ = largest_tensor(*policy->module());
    policy->save_pretrained(folder_.path());
  }

  void expect_one_model_and_one_tensor(std::optional<at::ScalarType> dtype) const {
    std::shared_ptr<Policy> policy;
    const auto meter = test::live_bytes_of([&] { policy = load_policy(folder_.path(), {.dtype = dtype}); });
    const double model = bytes_of(*policy->module());
    EXPECT_LE(meter->live(), model + kOtherBytes);
    EXPECT_LE(meter->peak(), model + largest_ + kOtherBytes);
    EXPECT_GE(meter->live(), model) << "the weights are not counted";
    EXPECT_GT(model, largest_ + kOtherBytes) << "two models would pass";
  }

  testing_support::TemporaryFolder folder_;
  double largest_ = 0;  // in the file
};

INSTANTIATE_TEST_SUITE_P(Types, LoadingMemoryOf, testing::Values("smolvla", "pi0", "pi05"),
                         [](const auto& type) { return type.param; });

TEST_P(LoadingMemoryOf, AModelInTheTypesOfTheFileIsTheModelAndATensor) { expect_one_model_and_one_tensor({}); }

TEST_P(LoadingMemoryOf, AFloat32FileAsBfloat16IsTheNarrowModelAndAWideTensor) {
  expect_one_model_and_one_tensor(at::kBFloat16);
}

TEST_P(LoadingMemoryOf, ShardsIsTheSameAsOfOneFile) {
  split_into_shards(folder_.path());
  expect_one_model_and_one_tensor({});
  expect_one_model_and_one_tensor(at::kBFloat16);
}

/// A field of /proc/self/status in bytes.
double status_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return 1024 * std::stod(line.substr(field.size() + 1));
  }
  return 0;
}

/// The most that the system counts for this process while the folder is loaded, above what it counted before.
void expect_resident_peak(const fs::path& folder, std::optional<at::ScalarType> dtype, double file_tensor) {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
  const double before = status_bytes("VmRSS");
  const auto policy = load_policy(folder, {.tokenizer_folder = folder, .dtype = dtype});
  const double peak = status_bytes("VmHWM") - before;
  const double model = bytes_of(*policy->module());
  std::cout << fmt::format("[ loading ] {}: model {:.3f} GB, largest tensor of the file {:.3f} GB, peak {:.3f} GB\n",
                           dtype ? c10::toString(*dtype) : "as in the file", model * 1e-9, file_tensor * 1e-9,
                           peak * 1e-9);
  EXPECT_LE(peak, model + file_tensor + 0.01 * model);
}

// At real size, by hand: THAW_LARGE_CHECKPOINT is a folder with weights and tokenizer, as `thaw init` writes it.
TEST(LoadingMemory, OfALargeCheckpointIsTheSameForTheSystem) {
  const char* folder = std::getenv("THAW_LARGE_CHECKPOINT");
  if (folder == nullptr) GTEST_SKIP() << "THAW_LARGE_CHECKPOINT names no checkpoint";
  double largest = 0;
  for (const ParameterInfo& parameter : layout_of_named_config(folder).parameters) {
    largest = std::max(largest, static_cast<double>(parameter.numel() * c10::elementSize(parameter.dtype)));
  }
  expect_resident_peak(folder, at::kBFloat16, largest);
  expect_resident_peak(folder, at::kFloat, largest);
  expect_resident_peak(folder, {}, largest);
}

}  // namespace
}  // namespace thaw::loading_memory_test
