/// Counting operations and bytes of stages from shapes: what the models' costs have in common.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "thaw/policy/layout.h"

namespace thaw::models {

inline constexpr double kFloatBytes = sizeof(float);

/// Operations of a product, two per multiply-add.
[[nodiscard]] inline double product_flops(double rows, double in, double out) { return 2.0 * rows * in * out; }

[[nodiscard]] inline double real(std::int64_t count) { return static_cast<double>(count); }

[[nodiscard]] DrawBytes operator+(const DrawBytes& a, const DrawBytes& b);
[[nodiscard]] DrawBytes operator*(double factor, const DrawBytes& bytes);

/// Elements that do not grow with the draws, as float32.
[[nodiscard]] inline DrawBytes floats(double elements) { return {.fixed = kFloatBytes * elements}; }
/// Elements of each draw, as float32.
[[nodiscard]] inline DrawBytes floats_per_draw(double elements) { return {.per_draw = kFloatBytes * elements}; }

/// <prefix>.<module>.weight of each module.
[[nodiscard]] std::vector<std::string> weights(const std::string& prefix, std::initializer_list<const char*> modules);

/// Widths of a decoder block, and how many rows go through it and what they see.
struct DecoderSizes {
  double hidden = 0;
  double inner = 0;        ///< of the MLP
  double heads = 0;        ///< query heads
  double query_width = 0;  ///< all heads
  double kv_width = 0;

  DrawBytes rows;                ///< one float32 for each row
  DrawBytes pairs;               ///< one float32 for each row and key it sees
  DrawBytes seen;                ///< one float32 for each key and value row that is put together for its time
  DrawBytes mask;                ///< what attention makes of the mask while it runs
  bool own_keys = true;          ///< projects keys and values of its rows
  bool writes_keys = false;      ///< which become keys of the line
  bool gated_residuals = false;  ///< a condition multiplies what both branches add: each keeps its branch
};

/// What one decoder block needs, op by op as nn/blocks.cpp and nn/gemma.cpp run it: a product saves its input when its
/// weight trains, attention its query, keys and values, a gated product both factors, a norm its input
/// (a key, or the residual inside the block) and one number a row.
[[nodiscard]] StageBytes decoder_bytes(const DecoderSizes& sizes, const std::string& block);
/// The same for a block of whose `rows` only keys and values are computed.
[[nodiscard]] StageBytes keys_and_values_bytes(double rows, double hidden, const std::string& block);
/// Query and output projection, attention over `seen` keys, gated MLP, for `own` rows; keys and values apart.
[[nodiscard]] double decoder_flops(const DecoderSizes& sizes, double own, double seen);
[[nodiscard]] double keys_and_values_flops(const DecoderSizes& sizes, double own);

/// The keys of PrefixState with their sizes.
class KeyTable {
 public:
  void add(const std::string& name, std::int64_t rows, std::int64_t width, at::ScalarType dtype = at::kFloat);
  void add_for_each_draw(const std::string& name, std::int64_t rows, std::int64_t width,
                         at::ScalarType dtype = at::kFloat);
  /// <stream>.key.<index> and <stream>.value.<index>
  void add_key_value(const std::string& stream, std::int64_t index, std::int64_t rows, std::int64_t head_dim);
  [[nodiscard]] std::vector<KeyInfo> take() { return std::move(table_); }

 private:
  std::vector<KeyInfo> table_;
};

}  // namespace thaw::models
