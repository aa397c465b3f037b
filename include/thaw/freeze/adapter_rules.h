/// Which linear layers get low-rank adapters, and the freeze that goes with them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/policy/layout.h"

namespace thaw {

enum class AdapterType { lora, rslora, dora };

/// Adapters of one kind: on the linear layers called `targets` among what `where` trains.
struct AdapterRule {
  LayerFreezePolicy where;           ///< the rules of a freeze: blocks of stacks, patterns of names
  std::vector<std::string> targets;  ///< last parts of layer names ("q_proj", "mlp.down_proj"); empty: every layer
  std::int64_t rank = 16;
  double alpha = 0.0;  ///< 0: as rank, which scales by 1
  AdapterType type = AdapterType::lora;
};

/// Text form, one rule after each `;`: rules of a freeze and settings, comma-separated,
///
///     language=all,rank=16,alpha=32,targets=q_proj+v_proj; expert=2,rank=8,type=dora
///
/// with the settings rank, alpha, targets (joined by +) and type (lora, rslora, dora).
/// @throws UsageError showing the setting, or as LayerFreezePolicy::parse
[[nodiscard]] std::vector<AdapterRule> parse_adapter_rules(std::string_view text);

/// What trains beside adapters: nothing of the model but what `full_rank` names, then the adapters.
/// Without `full_rank` this is PEFT's freeze.
[[nodiscard]] LayerFreezePolicy freeze_beside_adapters(const LayerFreezePolicy& full_rank);

/// The adapters that the rules ask for, in the layout's order. A layer whose weight trains under `full_rank` gets none,
/// and of two rules that name a layer the later one counts.
/// @throws UsageError for a rule that matches nothing or a target that no layer it names has (nearest names), when no
/// adapter is left, or as thaw::with_adapters
[[nodiscard]] std::vector<Adapter> choose_adapters(const ModelLayout& layout, const std::vector<AdapterRule>& rules,
                                                   const LayerFreezePolicy& full_rank);

}  // namespace thaw
