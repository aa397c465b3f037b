/// Layouts and helpers that the tests of the freeze room share.
#pragma once

#include <gmock/gmock.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "thaw/freeze/plan.h"
#include "thaw/policy/layout.h"

namespace thaw::test {

/// The message of the `Kind` that `call` throws; another outcome fails the test.
template <class Kind, class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Kind& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "threw another kind of error: " << error.what();
    return {};
  }
  ADD_FAILURE() << "threw nothing";
  return {};
}

inline ParameterInfo parameter(const std::string& name, std::vector<std::int64_t> shape, bool trains = true) {
  ParameterInfo info{.name = name, .shape = std::move(shape)};
  info.trainable_by_default = trains;
  return info;
}

/// SmolVLA in small, wired as the real one: 2 vision blocks, 4 language blocks run for prefix A and for the state row
/// B, 4 expert blocks. Of the last language block only the input norm, k and v have readers; lm_head and the text norm
/// have none. Defaults are LeRobot's: the whole VLM frozen, state_proj, projections and expert trained.
class MiniVla {
 public:
  static constexpr int kLanguageBlocks = 4;

  MiniVla() {
    layout.type = "mini";
    layout.stacks = {{"vision", "model.vision.layers", 2},
                     {"language", "model.text.layers", kLanguageBlocks},
                     {"expert", "model.expert.layers", kLanguageBlocks}};
    add_vision();
    add_language();
    add_suffix();
    layout.output_key = "velocity";
  }

  ModelLayout layout;

 private:
  ParameterInfo& add(const std::string& name, std::vector<std::int64_t> shape, bool trains) {
    layout.parameters.push_back(parameter(name, std::move(shape), trains));
    return layout.parameters.back();
  }

  void add_in_block(const std::string& stack, const std::string& prefix, int block, const std::string& rest,
                    std::vector<std::int64_t> shape, bool trains) {
    ParameterInfo& info = add(prefix + "." + std::to_string(block) + "." + rest, std::move(shape), trains);
    info.stack = stack;
    info.block = block;
    if (rest.find("norm") != std::string::npos) info.groups = {"norms"};
  }

  StageInfo& stage(const std::string& name, std::vector<std::string> reads, std::vector<std::string> writes,
                   std::vector<std::string> parameters, double flops) {
    layout.line.push_back({name, std::move(reads), std::move(writes), std::move(parameters), flops});
    return layout.line.back();
  }

  void add_vision() {
    add("model.vision.embed.weight", {8, 12}, false).groups = {"embeddings"};
    stage("vision.embed", {"pixels"}, {"image"}, {"model.vision.embed.weight"}, 10);
    for (int i = 0; i < 2; ++i) {
      add_in_block("vision", "model.vision.layers", i, "mlp.weight", {8, 8}, false);
      const std::string block = "model.vision.layers." + std::to_string(i);
      stage("vision." + std::to_string(i), {"image"}, {"image"}, {block + ".mlp.weight"}, 100);
    }
    add("model.connector.weight", {6, 8}, false).groups = {"projectors"};
    stage("connector", {"image"}, {"image"}, {"model.connector.weight"}, 20);
  }

  void add_language() {
    add("model.text.embed_tokens.weight", {32, 6}, false).groups = {"embeddings"};
    stage("embed", {"image", "tokens"}, {"a"}, {"model.text.embed_tokens.weight"}, 0);
    for (int i = 0; i < kLanguageBlocks; ++i) add_language_block(i);
    add("model.text.norm.weight", {6}, false).groups = {"norms"};
    add("model.lm_head.weight", {32, 6}, false);
    add("model.state_proj.weight", {6, 4}, true).groups = {"projectors"};
    add("model.state_proj.bias", {6}, true).groups = {"projectors", "biases"};
    stage("state", {"state"}, {"b"}, {"model.state_proj.weight", "model.state_proj.bias"}, 5);
    for (int i = 0; i < kLanguageBlocks; ++i) {
      const std::string n = std::to_string(i);
      const std::vector<std::string> writes =
          is_last(i) ? std::vector<std::string>{"kb." + n} : std::vector<std::string>{"b", "kb." + n};
      stage("B.language." + n, {"b", "ka." + n}, writes, used_in_language_block(i), 30);
    }
  }

  static bool is_last(int block) { return block == kLanguageBlocks - 1; }

  void add_language_block(int i) {
    const std::string n = std::to_string(i);
    add_in_block("language", "model.text.layers", i, "input_norm.weight", {6}, false);
    add_in_block("language", "model.text.layers", i, "q_proj.weight", {6, 6}, false);
    add_in_block("language", "model.text.layers", i, "k_proj.weight", {6, 6}, false);
    add_in_block("language", "model.text.layers", i, "mlp.weight", {6, 6}, false);
    const std::vector<std::string> writes =
        is_last(i) ? std::vector<std::string>{"ka." + n} : std::vector<std::string>{"a", "ka." + n};
    stage("A.language." + n, {"a"}, writes, used_in_language_block(i), 300);
  }

  static std::vector<std::string> used_in_language_block(int i) {
    const std::string block = "model.text.layers." + std::to_string(i);
    std::vector<std::string> names{block + ".input_norm.weight", block + ".k_proj.weight"};
    if (is_last(i)) return names;
    names.push_back(block + ".q_proj.weight");
    names.push_back(block + ".mlp.weight");
    return names;
  }

  void add_suffix() {
    add("model.action_in.weight", {5, 3}, true).groups = {"projectors"};
    stage("action_in", {"noisy", "time"}, {"x"}, {"model.action_in.weight"}, 5);
    for (int i = 0; i < kLanguageBlocks; ++i) {
      const std::string n = std::to_string(i);
      add_in_block("expert", "model.expert.layers", i, "norm.weight", {5}, true);
      add_in_block("expert", "model.expert.layers", i, "mlp.weight", {5, 5}, true);
      stage("expert." + n, {"x", "ka." + n, "kb." + n}, {"x"},
            {"model.expert.layers." + n + ".norm.weight", "model.expert.layers." + n + ".mlp.weight"}, 50);
    }
    add("model.action_out.weight", {3, 5}, true).groups = {"projectors"};
    stage("action_out", {"x"}, {"velocity"}, {"model.action_out.weight"}, 5);
  }
};

/// A layout nobody designed: stages with random reads, writes (keys get overwritten) and shared parameters; parameters
/// in blocks of two stacks or in none; random defaults.
inline ModelLayout random_layout(std::mt19937& random) {
  const auto below = [&random](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  ModelLayout layout;
  layout.type = "random";
  layout.stacks = {{"left", "left.layers", 1 + below(4)}, {"right", "right.layers", 1 + below(4)}};
  const int parameters = 1 + below(14);
  for (int i = 0; i < parameters; ++i) {
    const int where = below(3);
    ParameterInfo info = parameter("p" + std::to_string(i) + ".weight", {1 + below(4), 1 + below(4)}, below(2) == 0);
    if (where < 2) {
      const BlockStack& stack = layout.stacks[static_cast<std::size_t>(where)];
      info.stack = stack.name;
      info.block = below(static_cast<int>(stack.blocks));
      info.name = stack.prefix + "." + std::to_string(info.block) + "." + info.name;
    }
    if (below(3) == 0) info.groups = {"norms"};
    layout.parameters.push_back(info);
  }
  const auto random_keys = [&below](int least, int most) {
    std::vector<std::string> keys;
    for (int i = least + below(most - least + 1); i > 0; --i) keys.push_back("key" + std::to_string(below(5)));
    return keys;
  };
  for (int i = 1 + below(8); i > 0; --i) {
    StageInfo stage{.name = "stage" + std::to_string(i), .reads = random_keys(0, 2), .writes = random_keys(1, 2)};
    for (int p = below(4); p > 0; --p) {
      stage.parameters.push_back(layout.parameters[static_cast<std::size_t>(below(parameters))].name);
    }
    stage.flops = below(1000);
    layout.line.push_back(stage);
  }
  layout.output_key = layout.line[static_cast<std::size_t>(below(static_cast<int>(layout.line.size())))].writes[0];
  return layout;
}

/// What resolve must find, stated anew over the graph of "who wrote what I read" and plain reachability.
class Reachability {
 public:
  explicit Reachability(const ModelLayout& layout)
      : size_(layout.line.size()), reaches_(size_, std::vector<bool>(size_, false)) {
    for (std::size_t reader = 0; reader < size_; ++reader) {
      reaches_[reader][reader] = true;
      for (const std::string& key : layout.line[reader].reads) {
        const std::size_t writer = last_writer(layout, key, reader);
        if (writer < size_) reaches_[writer][reader] = true;
      }
    }
    for (std::size_t middle = 0; middle < size_; ++middle) {
      for (std::size_t from = 0; from < size_; ++from) {
        for (std::size_t to = 0; to < size_; ++to) {
          if (reaches_[from][middle] && reaches_[middle][to]) reaches_[from][to] = true;
        }
      }
    }
    output_ = last_writer(layout, layout.output_key, size_);
  }

  [[nodiscard]] bool reaches(std::size_t from, std::size_t to) const { return reaches_[from][to]; }
  [[nodiscard]] bool matters(std::size_t stage) const { return reaches_[stage][output_]; }

  [[nodiscard]] static bool uses(const StageInfo& stage, const std::string& name) {
    return std::find(stage.parameters.begin(), stage.parameters.end(), name) != stage.parameters.end();
  }

  [[nodiscard]] bool is_dead(const ModelLayout& layout, const std::string& name) const {
    for (std::size_t i = 0; i < size_; ++i) {
      if (matters(i) && uses(layout.line[i], name)) return false;
    }
    return true;
  }

 private:
  /// The last stage before `end` that writes `key`, or size_ when the key comes from outside.
  std::size_t last_writer(const ModelLayout& layout, const std::string& key, std::size_t end) const {
    for (std::size_t i = end; i-- > 0;) {
      const auto& writes = layout.line[i].writes;
      if (std::find(writes.begin(), writes.end(), key) != writes.end()) return i;
    }
    return size_;
  }

  std::size_t size_;
  std::vector<std::vector<bool>> reaches_;
  std::size_t output_ = 0;
};

}  // namespace thaw::test
