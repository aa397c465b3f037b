/// What a freeze means for a model, worked out before anything runs: which tensors train, where autograd starts and
/// why, what backward walks, and what a step costs.
///
/// plan.json is this struct (to_json): "schema_version" 1; "model_type"; "rules"; "digest" (FreezePlan::digest(),
/// checked on reading); "boundary" {"stage", "parameter", "causes"}; "stacks" [{"name", "blocks", "trainable_blocks",
/// "dead_blocks"}]; "line" [{"name", "runs_under_grad", "backward_walks", "forward_flops", "backward_flops"}];
/// "parameters" [{"name", "shape", "dtype" as in safetensors, "class", "decided_by", and where they apply "stack",
/// "block", "same_as", "unread", "digest"}]; "buffers" [{"name", "digest"}]. Fields that this version does not know are
/// ignored.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/policy/layout.h"

namespace thaw {

enum class ParameterClass {
  trainable,
  frozen,
  dead,  ///< nothing the loss depends on uses it: it can never get a gradient, whatever the rules say
};

struct PlannedParameter {
  std::string name;
  std::vector<std::int64_t> shape;
  at::ScalarType dtype = at::kFloat;
  std::string stack;
  std::int64_t block = -1;
  ParameterClass parameter_class = ParameterClass::frozen;
  std::string decided_by;  ///< the rule; "default" for what the model says itself; "line" for a dead one
  std::string digest;      ///< of its content; filled by add_digests, empty in a plan made without weights
  bool unread = false;     ///< its gradient is there and always zero (ParameterInfo::unread)
  std::string same_as;  ///< the earlier name of the same tensor (tied weights, shared modules); empty for a first name
  [[nodiscard]] std::int64_t numel() const;
  [[nodiscard]] std::int64_t bytes() const;
};

/// A buffer of a module in which nothing trains: it must not move either (running statistics of a frozen BatchNorm).
struct PlannedBuffer {
  std::string name;
  std::string digest;
};

struct StackPlan {
  std::string name;
  std::int64_t blocks = 0;
  std::vector<std::int64_t> trainable_blocks;  ///< blocks with at least one trainable tensor
  std::vector<std::int64_t> dead_blocks;       ///< blocks in which no tensor can learn
};

struct StagePlan {
  std::string name;
  bool runs_under_grad = false;  ///< at or after the gradient boundary
  bool backward_walks = false;   ///< its output depends on something trainable and the loss depends on it
  double forward_flops = 0.0;    ///< per sample
  double backward_flops = 0.0;   ///< 0; about 1x forward (input gradients only); about 2x (input and weight gradients)
};

struct FreezePlan {
  static constexpr int kSchemaVersion = 1;

  std::string model_type;
  std::vector<std::string> rules;            ///< as text, in order
  std::vector<PlannedParameter> parameters;  ///< every parameter, in the layout's order
  std::vector<PlannedBuffer> buffers;        ///< filled by add_digests
  std::vector<StackPlan> stacks;
  std::vector<StagePlan> line;
  std::size_t boundary = 0;        ///< index into line: stages before it run under no-grad
  std::string boundary_parameter;  ///< the trainable parameter that sets it
  /// One sentence for each trainable parameter that makes backward walk frozen blocks or stages; empty when none does.
  std::vector<std::string> backward_causes;

  /// Every name of the class, in order; a tensor with several names under each.
  [[nodiscard]] std::vector<std::string> names(ParameterClass parameter_class) const;
  /// These count a tensor with several names once.
  [[nodiscard]] std::int64_t tensors(ParameterClass parameter_class) const;
  [[nodiscard]] std::int64_t elements(ParameterClass parameter_class) const;
  /// Of the weights, in the dtypes of `parameters`. For trainable ones this is also the size of their gradients.
  [[nodiscard]] std::int64_t bytes(ParameterClass parameter_class) const;
  /// Of AdamW's two float32 moments: 8 for each trainable element.
  [[nodiscard]] std::int64_t optimizer_bytes() const;
  /// True for every name of a trainable tensor; false for a name the plan does not hold.
  [[nodiscard]] bool trains(std::string_view name) const;
  /// The parameters by their names; they live as long as the plan.
  [[nodiscard]] std::map<std::string, const PlannedParameter*> by_name() const;
  [[nodiscard]] double forward_flops() const;
  [[nodiscard]] double backward_flops() const;

  /// SHA-256 over names, shapes and classes: equal for equal freezes, whatever the rules' wording.
  [[nodiscard]] std::string digest() const;
  [[nodiscard]] Json to_json() const;
  /// @throws FormatError naming the field
  [[nodiscard]] static FreezePlan from_json(const Json& json, const std::string& where);
  /// The table that `thaw plan` prints: at most 100 columns, except for a name that is itself longer.
  [[nodiscard]] std::string summary() const;
};

}  // namespace thaw
