/// Parts of a line of stages that every model names alike: numbered keys, keys and values of blocks, parameter names.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "thaw/nn/blocks.h"
#include "thaw/policy/policy.h"

namespace thaw::models {

using Names = std::vector<std::string>;

[[nodiscard]] inline std::string numbered(const std::string& prefix, std::int64_t index) {
  return prefix + "." + std::to_string(index);
}

/// Keys of the keys and values that block `index` of `stream` leaves.
[[nodiscard]] inline Names kv_keys(const std::string& stream, std::int64_t index) {
  return {numbered(stream + ".key", index), numbered(stream + ".value", index)};
}

[[nodiscard]] inline nn::KeyValue read_kv(const PrefixState& state, const std::string& stream, std::int64_t index) {
  return {.key = state.at(numbered(stream + ".key", index)), .value = state.at(numbered(stream + ".value", index))};
}

inline void write_kv(PrefixState& state, const std::string& stream, std::int64_t index, const nn::KeyValue& kv) {
  state.set(numbered(stream + ".key", index), kv.key);
  state.set(numbered(stream + ".value", index), kv.value);
}

[[nodiscard]] inline Names joined(std::initializer_list<Names> parts) {
  Names all;
  for (const Names& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

[[nodiscard]] inline Names with_prefix(const std::string& prefix, std::initializer_list<const char*> tails) {
  Names names;
  for (const char* tail : tails) names.push_back(prefix + tail);
  return names;
}

[[nodiscard]] inline Names weight_and_bias(const std::string& prefix) {
  return with_prefix(prefix, {".weight", ".bias"});
}

[[nodiscard]] inline Names key_value_parameters(const std::string& block) {
  return with_prefix(block, {".self_attn.k_proj.weight", ".self_attn.v_proj.weight"});
}

/// What a decoder block uses beside its keys, values and first norm, without its second norm.
[[nodiscard]] inline Names query_and_mlp_parameters(const std::string& block) {
  return with_prefix(block, {".self_attn.q_proj.weight", ".self_attn.o_proj.weight", ".mlp.gate_proj.weight",
                             ".mlp.up_proj.weight", ".mlp.down_proj.weight"});
}

/// Index of the first stage that reads `key`; the number of stages when none does.
[[nodiscard]] inline std::size_t first_reader(const std::vector<Stage>& line, const std::string& key) {
  const auto first = std::find_if(line.begin(), line.end(), [&key](const Stage& stage) {
    return std::find(stage.info.reads.begin(), stage.info.reads.end(), key) != stage.info.reads.end();
  });
  return static_cast<std::size_t>(first - line.begin());
}

}  // namespace thaw::models
