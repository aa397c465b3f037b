/// What a model consists of, as data: its parameters, its block stacks, and its forward pass as a line of stages.
/// Everything that freezing can give is read off this description; nothing that reads it knows a model by name.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace thaw {

/// One parameter tensor.
struct ParameterInfo {
  std::string name;  ///< full name, as in model.safetensors
  std::vector<std::int64_t> shape;
  at::ScalarType dtype = at::kFloat;
  std::string stack;                 ///< name of its block stack, or empty
  std::int64_t block = -1;           ///< index in that stack
  std::vector<std::string> groups;   ///< of "norms", "biases", "embeddings", "projectors", "adapters"
  bool trainable_by_default = true;  ///< what the model's own configuration says
  /// Nobody reads what it makes, but as in the reference it takes part: its gradient is there and zero, and it decays.
  bool unread = false;

  [[nodiscard]] std::int64_t numel() const;
};

/// A run of like blocks.
struct BlockStack {
  std::string name;    ///< short: "vision", "language", "expert"; or the module path for a module found by itself
  std::string prefix;  ///< of its parameters, up to and without ".<block>."
  std::int64_t blocks = 0;
  std::string joined;  ///< stacks of one such name meet block by block: blocks are taken out of all of them together
  std::int64_t period = 1;  ///< blocks differ in kind by index % period; taking blocks out must keep each one's kind
};

/// One key of PrefixState for one sample at the configured sizes, with every parameter in float32.
struct KeyInfo {
  std::string name;
  std::int64_t elements = 0;
  std::int64_t width = 1;  ///< of the last dimension
  at::ScalarType dtype = at::kFloat;
  bool per_draw = false;  ///< made for each noise draw

  [[nodiscard]] double bytes() const;
};

/// An amount that grows with the number K of noise draws over one prefix: fixed + per_draw · K + per_pair · K².
struct DrawBytes {
  double fixed = 0.0;
  double per_draw = 0.0;
  double per_pair = 0.0;

  [[nodiscard]] double at(std::int64_t draws) const;
};

/// Activations that backward needs only when one of `parameters` trains: the input of a product, say.
struct SavedFor {
  DrawBytes bytes;
  std::vector<std::string> parameters;
};

/// What a stage needs of memory for one sample at the configured sizes beside the keys it reads and writes, in bytes,
/// with every tensor in float32.
struct StageBytes {
  DrawBytes saved;                  ///< what autograd keeps to carry a gradient through it, parameters apart
  std::vector<SavedFor> saved_for;  ///< what it keeps beside that for the gradients of the stage's own parameters
  DrawBytes workspace;              ///< most that lives at once inside it when it runs without grad
};

/// Which block a stage computes, if any, and the residual stream that the block adds to. A block whose rows go through
/// in parts is several stages, each with its own stream.
struct BlockStage {
  std::string stack;  ///< name of the stack; empty: the stage is no block
  std::int64_t block = -1;
  /// Key of PrefixState that holds the stream (B, …, rows, width) before the stage and, when the stage writes it, after
  /// it. A block whose output nobody reads does not write it.
  std::string stream;
};

/// One step of the forward pass, without its code.
struct StageInfo {
  std::string name;
  std::vector<std::string> reads;       ///< keys of PrefixState
  std::vector<std::string> writes;      ///< keys of PrefixState (a key written twice is replaced)
  std::vector<std::string> parameters;  ///< full names; a parameter may be used by several stages
  double flops = 0.0;  ///< of the forward pass of one sample at the configured sizes (2 per multiply-add), one draw
  double pair_flops = 0.0;  ///< the part of `flops` that grows with the square of the number of draws
  StageBytes bytes;
  std::string cut;   ///< what the place behind it is called as a cut ("vision", "hidden", "kv"); empty: no cut there
  BlockStage block;  ///< the block that it computes, or none
};

/// A low-rank adapter beside a linear layer (policy/adapters.h).
struct Adapter {
  std::string linear;              ///< full name of the layer, up to and without ".weight"
  std::int64_t rank = 16;          ///< in 1 .. min(in, out)
  double alpha = 16.0;             ///< > 0
  bool rank_stabilised = false;    ///< rsLoRA: alpha / sqrt(rank)
  bool weight_decomposed = false;  ///< DoRA: with a magnitude for each output

  /// What the update is multiplied by: alpha / rank, or alpha / sqrt(rank).
  [[nodiscard]] double scale() const;
  bool operator==(const Adapter&) const = default;
};

struct ModelLayout {
  std::string type;                       ///< "smolvla", or "module" for a user's module
  std::vector<ParameterInfo> parameters;  ///< in registration order (LeRobot's optimiser ids)
  std::vector<BlockStack> stacks;
  std::vector<StageInfo> line;  ///< in order; a parameter that no stage uses can never get a gradient ("dead")
  std::string output_key;       ///< the key the loss is computed from
  std::vector<KeyInfo> keys;    ///< all that begin(), add_draw() and the stages write; empty where sizes are unknown
  std::vector<std::string> image_inputs;  ///< keys that begin() makes of images: what a cached prefix spares reading
  std::vector<Adapter> adapters;          ///< whose parameters are among `parameters`

  /// @throws UsageError with the nearest names
  [[nodiscard]] const ParameterInfo& parameter(const std::string& name) const;
  [[nodiscard]] const BlockStack& stack(const std::string& name) const;
};

/// Keys that line[cut, end) reads and that line[0, cut) writes or `inputs` names: what lives at the cut.
/// @throws UsageError for a cut behind the end
[[nodiscard]] std::vector<std::string> live_keys(std::span<const StageInfo> line, std::size_t cut,
                                                 std::span<const std::string> inputs);

}  // namespace thaw
