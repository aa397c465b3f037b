/// A head: the tensors that a run trained, bound to the base they were trained on.
///
/// head.safetensors holds every trained parameter under its own name, and, under
/// "__statistics__.<feature>.<statistic>", the normalisation statistics without which the tensors are of no use. Its
/// metadata:
///     thaw.head.schema_version  "1"
///     thaw.version, thaw.step, thaw.policy_type
///     thaw.base_digest          base_digest() of the base
///     thaw.base_file_sha256     of the base's model.safetensors; absent when the base was no file
///     thaw.plan_digest, thaw.freeze_rules (JSON array), thaw.rename_map (JSON object)
///     thaw.adapters             JSON array of {"linear", "rank", "alpha", "rank_stabilised", "weight_decomposed"},
///     thaw.adapter_seed         what fresh ones are made from; both absent without adapters
///
/// A folder that PEFT wrote (train/peft.h) is read as a head too. It is bound to its base by names and shapes alone.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "thaw/freeze/plan.h"
#include "thaw/policy/policy.h"

namespace thaw {

inline constexpr int kHeadSchemaVersion = 1;

/// What the metadata say.
struct HeadInfo {
  std::string policy_type;
  std::string base_digest;       ///< empty: unknown (an adapter of PEFT)
  std::string base_file_sha256;  ///< empty: unknown
  std::string plan_digest;
  std::vector<std::string> freeze_rules;
  std::map<std::string, std::string> rename_map;
  std::int64_t step = 0;
  std::string thaw_version;
  std::vector<Adapter> adapters;   ///< whose tensors are among the head's
  std::uint64_t adapter_seed = 0;  ///< that they were initialised from
};

struct Head {
  HeadInfo info;
  std::map<std::string, at::Tensor> tensors;  ///< trained parameters by full name, on the CPU
  Statistics statistics;
};

/// SHA-256 over the sorted lines "<name> <digest>\n" of every parameter of the plan (its digests must be filled), those
/// of adapters apart: equal exactly when every tensor of the base is.
/// @throws UsageError when a digest is missing
[[nodiscard]] std::string base_digest(const FreezePlan& plan);
/// The same from a module that holds the base.
[[nodiscard]] std::string base_digest(const torch::nn::Module& module);

/// The layer's new weight when an adapter of the head is on it: `weight` with the adapter merged; undefined else.
[[nodiscard]] at::Tensor adapted_weight(const Head& head, const std::string& name, const at::Tensor& weight);

/// Writes atomically. @throws UsageError for a parameter name under the reserved prefix; IoError
void write_head(const std::filesystem::path& file, const Head& head);
/// A head.safetensors, or a folder with an adapter of PEFT.
/// @throws IoError, FormatError (no head, newer schema, missing metadata, or as read_peft_adapter)
[[nodiscard]] Head read_head(const std::filesystem::path& file);
/// Metadata alone, without reading tensors.
[[nodiscard]] HeadInfo read_head_info(const std::filesystem::path& file);

/// Puts a head onto its base. The policy must hold the base as loaded; after it, the tensors, the statistics of both
/// processors and the rename map are the head's. Adapters are merged into the weights of their layers, unless the
/// policy has adapters of these names itself, which take the head's values.
/// @throws MismatchError for another base, policy type, an unknown tensor or another shape; nothing is changed then
void load_head(Policy& policy, const std::filesystem::path& file);
void load_head(torch::nn::Module& module, const std::filesystem::path& file);

/// The processing half of a head alone: statistics of both processors and the rename map.
void apply_head_processing(Policy& policy, const Head& head);

}  // namespace thaw
