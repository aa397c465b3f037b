// Files of pi0 and pi0.5 in all their forms: names, the tied embedding, shards.
#include <torch/nn/module.h>

#include <fstream>

#include "models/tiny_pi.h"
#include "support/temporary_folder.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::pi0_checkpoint_test {
namespace {

namespace fs = std::filesystem;
using testing_support::TemporaryFolder;
using Tensors = std::map<std::string, at::Tensor>;

const std::string kHead = "model.paligemma_with_expert.paligemma.lm_head.weight";
const std::string kEmbedding = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight";
const std::string kIndex = "model.safetensors.index.json";

void write_tensors(const fs::path& file, const Tensors& tensors) {
  std::vector<NamedTensor> list;
  for (const auto& [name, tensor] : tensors) list.push_back({.name = name, .tensor = tensor});
  write_safetensors(file, list);
}

Tensors parameters_of(const Policy& policy) {
  Tensors parameters;
  for (const auto& parameter : policy.module()->named_parameters()) {
    parameters[parameter.key()] = parameter.value().detach();
  }
  return parameters;
}

// A saved tiny policy whose weights a test may write in another form.
class Checkpoint {
 public:
  explicit Checkpoint(const std::string& type) : original(tiny::pi_policy(type)) {
    original->save_pretrained(path());
    tensors = read_safetensors(path() / "model.safetensors");
  }
  [[nodiscard]] const fs::path& path() const { return folder_.path(); }

  void write(const Tensors& other) const { write_tensors(path() / "model.safetensors", other); }

  void rename(const std::function<std::string(const std::string&)>& name) const {
    Tensors other;
    for (const auto& [old, tensor] : tensors) other[name(old)] = tensor;
    write(other);
  }

  void expect_loads_the_original() const {
    const Tensors expected = parameters_of(*original);
    const Tensors actual = parameters_of(*load_policy(path()));
    ASSERT_EQ(actual.size(), expected.size());
    for (const auto& [name, tensor] : expected) {
      ASSERT_TRUE(actual.contains(name)) << name;
      EXPECT_TRUE(bitwise_equal(actual.at(name), tensor)) << name;
    }
  }

  [[nodiscard]] std::string load_error() const {
    try {
      static_cast<void>(load_policy(path()));
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was thrown";
  }

  std::shared_ptr<Policy> original;
  Tensors tensors;

 private:
  TemporaryFolder folder_;
};

std::string without_model(const std::string& name) { return name.substr(std::string("model.").size()); }

void replace(std::string& text, const std::string& from, const std::string& to) {
  if (const auto at = text.find(from); at != std::string::npos) text.replace(at, from.size(), to);
}

class PiCheckpoint : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Versions, PiCheckpoint, testing::Values("pi0", "pi05"),
                         [](const auto& type) { return type.param; });

TEST_P(PiCheckpoint, WhatIsSavedLoadsBackEqualAndSavesToTheSameBytes) {
  const Checkpoint checkpoint(GetParam());
  checkpoint.expect_loads_the_original();
  const TemporaryFolder again;
  load_policy(checkpoint.path())->save_pretrained(again.path());
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(checkpoint.path())) {
    const fs::path name = entry.path().filename();
    EXPECT_EQ(read_text(again.path() / name), read_text(entry.path())) << name;
    ++files;
  }
  EXPECT_GE(files, 5U);
}

TEST_P(PiCheckpoint, NamesWithoutModelAreRead) {
  const Checkpoint checkpoint(GetParam());
  checkpoint.rename(without_model);
  checkpoint.expect_loads_the_original();
}

TEST_P(PiCheckpoint, TimeMlpsOfTheOtherVersionAreReadInNamesWithoutModelOnly) {
  const Checkpoint checkpoint(GetParam());
  const auto swapped = [](std::string name) {
    if (name.find("action_time_mlp") != std::string::npos) {
      replace(name, "action_time_mlp", "time_mlp");
    } else {
      replace(name, "time_mlp", "action_time_mlp");
    }
    return name;
  };
  checkpoint.rename([&](const std::string& name) { return swapped(without_model(name)); });
  checkpoint.expect_loads_the_original();
  checkpoint.rename(swapped);
  EXPECT_THAT(checkpoint.load_error(),
              testing::AllOf(testing::HasSubstr("4 missing"), testing::HasSubstr("4 unknown")));
}

TEST_P(PiCheckpoint, NamesOfOlderAndNewerTransformersAreRead) {
  const Checkpoint checkpoint(GetParam());
  checkpoint.rename([](std::string name) {
    replace(name, "paligemma.model.language_model.", "paligemma.language_model.model.");
    replace(name, "paligemma.lm_head", "paligemma.language_model.lm_head");
    replace(name, "paligemma.model.vision_tower.", "paligemma.vision_tower.");
    replace(name, "paligemma.model.multi_modal_projector.", "paligemma.multi_modal_projector.");
    return without_model(name);
  });
  checkpoint.expect_loads_the_original();
  checkpoint.rename([](std::string name) {
    replace(name, "vision_tower.vision_model.", "vision_tower.");
    return name;
  });
  checkpoint.expect_loads_the_original();
}

TEST(Pi05Checkpoint, WhatOnlyPi0UsesIsLeftOutOfNamesWithoutModel) {
  const Checkpoint checkpoint("pi05");
  Tensors other;
  for (const auto& [name, tensor] : checkpoint.tensors) other[without_model(name)] = tensor;
  other["state_proj.weight"] = at::zeros({24, 12});
  other["paligemma_with_expert.gemma_expert.model.layers.0.input_layernorm.weight"] = at::zeros({24});
  other["paligemma_with_expert.gemma_expert.model.norm.weight"] = at::zeros({24});
  checkpoint.write(other);
  checkpoint.expect_loads_the_original();
  other["model.state_proj.weight"] = at::zeros({24, 12});
  checkpoint.write(other);
  EXPECT_THAT(checkpoint.load_error(), testing::HasSubstr("1 unknown: model.state_proj.weight"));
}

TEST_P(PiCheckpoint, TheEmbeddingMayGoByTheNameOfEitherOfTheTiedPair) {
  const Checkpoint checkpoint(GetParam());
  ASSERT_TRUE(checkpoint.tensors.contains(kHead)) << "saved under the name that LeRobot clones to the other";
  checkpoint.rename([](const std::string& name) { return name == kHead ? kEmbedding : name; });
  checkpoint.expect_loads_the_original();
}

TEST_P(PiCheckpoint, OfAFileWithBothTheEmbeddingIsReadAndTheHeadIsKept) {
  const Checkpoint checkpoint(GetParam());
  Tensors both = checkpoint.tensors;
  both[kEmbedding] = both.at(kHead);
  both[kHead] = at::zeros_like(both.at(kHead));
  checkpoint.write(both);
  const auto loaded = load_policy(checkpoint.path());
  EXPECT_EQ(parameters_of(*loaded).size(), checkpoint.tensors.size() + 1);
  const at::Tensor noise = tiny::normal(9, {2, 8, 10});
  const Batch batch = tiny::pi_batch();
  EXPECT_TRUE(bitwise_equal(loaded->sample(batch, noise), checkpoint.original->sample(batch, noise)));
  const TemporaryFolder saved;
  loaded->save_pretrained(saved.path());
  const Tensors written = read_safetensors(saved.path() / "model.safetensors");
  EXPECT_TRUE(bitwise_equal(written.at(kHead), both.at(kHead)));
  EXPECT_TRUE(bitwise_equal(written.at(kEmbedding), both.at(kEmbedding)));
}

TEST_P(PiCheckpoint, AFileWithoutAnEmbeddingIsRefused) {
  const Checkpoint checkpoint(GetParam());
  Tensors other = checkpoint.tensors;
  other.erase(kHead);
  checkpoint.write(other);
  EXPECT_THAT(checkpoint.load_error(), testing::HasSubstr("1 missing: " + kHead));
}

TEST_P(PiCheckpoint, WrongShapesAreNamed) {
  const Checkpoint checkpoint(GetParam());
  Tensors other = checkpoint.tensors;
  other["model.action_in_proj.weight"] = at::zeros({24, 11});
  checkpoint.write(other);
  EXPECT_THAT(checkpoint.load_error(),
              testing::HasSubstr("1 misshapen: model.action_in_proj.weight (24, 11) instead of (24, 10)"));
}

TEST_P(PiCheckpoint, WeightsThatWereGivenUpAreReadAgainWhateverTheyAreCalled) {
  const Checkpoint checkpoint(GetParam());
  checkpoint.rename([](const std::string& name) { return without_model(name == kHead ? kEmbedding : name); });
  const auto policy = load_policy(checkpoint.path());
  const std::vector<std::string> names{kHead, "model.action_in_proj.bias"};
  const Tensors again = policy->read_again(names);
  ASSERT_EQ(again.size(), 2U);
  for (const std::string& name : names) EXPECT_TRUE(bitwise_equal(again.at(name), checkpoint.tensors.at(name))) << name;
}

// A checkpoint in three shards and an index that a test may spoil.
class Shards {
 public:
  Shards() : checkpoint("pi0") {
    std::size_t number = 0;
    for (const auto& [name, tensor] : checkpoint.tensors) {
      parts[number * 3 / checkpoint.tensors.size()][name] = tensor;
      ++number;
    }
    fs::remove(checkpoint.path() / "model.safetensors");
    for (std::size_t i = 0; i < 3; ++i) {
      for (const auto& entry : parts[i]) index["weight_map"][entry.first] = shard(i);
    }
    write();
  }

  [[nodiscard]] static std::string shard(std::size_t i) {
    return fmt::format("model-{:05}-of-00003.safetensors", i + 1);
  }

  void write() const {
    for (std::size_t i = 0; i < 3; ++i) write_tensors(checkpoint.path() / shard(i), parts[i]);
    write_text_atomic(checkpoint.path() / kIndex, index.dump());
  }

  Checkpoint checkpoint;
  std::array<Tensors, 3> parts;
  Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
};

TEST(Shards, OfAnIndexAreReadAsOneFile) {
  const Shards shards;
  shards.checkpoint.expect_loads_the_original();
  EXPECT_EQ(layout_of_named_config(shards.checkpoint.path().string()).parameter(kHead).dtype, at::kFloat);
  const auto policy = load_policy(shards.checkpoint.path());
  const std::vector<std::string> names{kHead};
  EXPECT_TRUE(bitwise_equal(policy->read_again(names).at(kHead), shards.checkpoint.tensors.at(kHead)));
}

TEST(Shards, ASingleFileBesideThemWins) {
  Shards shards;
  shards.checkpoint.write(shards.checkpoint.tensors);
  write_text_atomic(shards.checkpoint.path() / kIndex, "{}");
  shards.checkpoint.expect_loads_the_original();
}

TEST(Shards, AMissingOneIsNamed) {
  const Shards shards;
  fs::remove(shards.checkpoint.path() / Shards::shard(1));
  EXPECT_THAT(shards.checkpoint.load_error(),
              testing::AllOf(testing::HasSubstr(Shards::shard(1)), testing::HasSubstr("no such file")));
}

TEST(Shards, ATensorInTwoOfThemIsRefused) {
  Shards shards;
  const std::string name = shards.parts[0].begin()->first;
  shards.parts[2][name] = shards.parts[0].begin()->second;
  shards.write();
  EXPECT_THAT(shards.checkpoint.load_error(),
              testing::AllOf(testing::HasSubstr(name), testing::HasSubstr(Shards::shard(0)),
                             testing::HasSubstr(Shards::shard(2)), testing::HasSubstr("every tensor in one shard")));
}

TEST(Shards, AFileOutsideTheFolderIsNotRead) {
  for (const std::string outside : {"../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""}) {
    Shards shards;
    shards.index["weight_map"][kHead] = outside;
    shards.write();
    EXPECT_THAT(shards.checkpoint.load_error(),
                testing::AllOf(testing::HasSubstr("files beside the index"), testing::HasSubstr("'" + outside + "'")));
  }
}

TEST(Shards, AnIndexThatListsWhatAShardLacksIsRefused) {
  Shards shards;
  const std::string name = shards.parts[1].begin()->first;
  shards.parts[1].erase(name);
  shards.write();
  EXPECT_THAT(shards.checkpoint.load_error(),
              testing::AllOf(testing::HasSubstr(Shards::shard(1)), testing::HasSubstr("none named " + name)));
}

TEST(Shards, AShardWithMoreThanTheIndexListsIsRefused) {
  Shards shards;
  shards.parts[1]["model.extra"] = at::zeros({1});
  shards.write();
  EXPECT_THAT(shards.checkpoint.load_error(),
              testing::AllOf(testing::HasSubstr(Shards::shard(1)), testing::HasSubstr("model.extra"),
                             testing::HasSubstr("does not list there")));
}

TEST(Shards, AnIndexThatIsNoneIsRefused) {
  Shards shards;
  shards.index["weight_map"] = Json::array();
  shards.write();
  EXPECT_THAT(shards.checkpoint.load_error(), testing::HasSubstr("weight_map"));
  shards.index["weight_map"] = {{kHead, 3}};
  shards.write();
  EXPECT_THAT(shards.checkpoint.load_error(), testing::HasSubstr("weight_map"));
}

}  // namespace
}  // namespace thaw::pi0_checkpoint_test
