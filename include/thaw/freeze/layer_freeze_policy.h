/// Which layers train: rules on block stacks and parameter names, later ones win.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/freeze/plan.h"
#include "thaw/policy/layout.h"

namespace torch::nn {
class Module;
}

namespace thaw {

class Policy;

/// Built by chained calls or parsed from text:
///
///     LayerFreezePolicy{}.none("vision").last("language", 2).all("expert").train("*state_proj*");
///     LayerFreezePolicy::parse("vision=0,language=2,expert=all,train:*state_proj*,freeze:*.norm.*");
///
/// The rules are applied on top of what the model itself says (LeRobot's flags in config.json; requires_grad of a
/// module). A stack rule decides every block of that stack and nothing outside it. "Last N" counts blocks that can
/// learn: those with at least one tensor that some stage of the forward pass uses.
///
/// Text grammar, comma-separated: STACK=N (the last N), STACK=first:N, STACK=all, STACK=none, STACK=[0,3,5-7];
/// `*` for STACK means every stack that can learn; train:PATTERN and freeze:PATTERN with PATTERN a glob on full
/// parameter names, /regex/ (ECMAScript, found anywhere in the name), or @norms, @biases, @embeddings, @projectors,
/// @adapters.
/// STACK is a stack's name or any run of its dotted parts that no other stack has ("encoder" for "encoder.layers").
/// Spaces around a rule and around its signs are ignored. No rule at all is the model's own default.
///
/// Two names of one tensor (tied weights) have one class: the name that a rule decides takes the other along, and rules
/// that decide them differently are an error.
class LayerFreezePolicy {
 public:
  /// Each adds one rule. @throws UsageError when it could not be written as text (a negative count, an empty name, …)
  LayerFreezePolicy& last(std::string stack, std::int64_t blocks);
  LayerFreezePolicy& first(std::string stack, std::int64_t blocks);
  LayerFreezePolicy& all(std::string stack);
  LayerFreezePolicy& none(std::string stack);
  LayerFreezePolicy& blocks(std::string stack, std::vector<std::int64_t> indices);
  LayerFreezePolicy& train(std::string pattern);
  LayerFreezePolicy& freeze(std::string pattern);

  /// @throws UsageError showing the rule and the grammar
  [[nodiscard]] static LayerFreezePolicy parse(std::string_view rules);
  /// A TOML array of rule strings, or a table (stack = 2 | "all" | [0, 1], train = [patterns], freeze = [patterns],
  /// rules = [rule strings]), read in the order of the text. Of a document with a [freeze] table only that is read.
  /// @throws UsageError naming `where`, line and column
  [[nodiscard]] static LayerFreezePolicy from_toml(std::string_view toml_text, const std::string& where);

  /// @throws UsageError when a rule matches nothing (with the nearest names), asks to train only what can never learn,
  /// or wants more blocks than can learn; when the plan trains nothing; or when the layout contradicts itself
  [[nodiscard]] FreezePlan resolve(const ModelLayout& layout) const;
  /// The policy's layout, and the ties between the tensors of its module.
  [[nodiscard]] FreezePlan resolve(const Policy& policy) const;
  /// Any module: stacks are found by find_block_stacks; what requires grad now is the default.
  [[nodiscard]] FreezePlan resolve(const torch::nn::Module& module) const;

  /// The rules as text, one each; parse(join) gives them back.
  [[nodiscard]] std::vector<std::string> rules() const;

 private:
  std::vector<std::string> rules_;
};

}  // namespace thaw
