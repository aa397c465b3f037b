#include <algorithm>
#include <array>
#include <utility>

#include "names_impl.h"
#include "parameters_impl.h"

namespace thaw::pi0 {
namespace {

using Pair = std::pair<std::string_view, std::string_view>;

/// Names of PaliGemma before transformers 4.52, and of its vision tower since 5.6, below "paligemma.".
constexpr std::array<Pair, 8> kOtherPaliGemma{{
    {"language_model.lm_head.", "lm_head."},
    {"language_model.model.", "model.language_model."},
    {"vision_tower.", "model.vision_tower."},
    {"multi_modal_projector.", "model.multi_modal_projector."},
    {"model.vision_tower.embeddings.", "model.vision_tower.vision_model.embeddings."},
    {"model.vision_tower.encoder.", "model.vision_tower.vision_model.encoder."},
    {"model.vision_tower.post_layernorm.", "model.vision_tower.vision_model.post_layernorm."},
    {"model.vision_tower.vision_model.vision_model.", "model.vision_tower.vision_model."},
}};

constexpr std::string_view kModel = "model.";

void replace_front(std::string& name, std::string_view from, std::string_view to) {
  if (name.starts_with(from)) name.replace(0, from.size(), to);
}

/// `name`, without "model.", with PaliGemma's current names.
std::string with_current_names(const std::string& name) {
  const std::string_view paligemma = std::string_view(kPaliGemma).substr(kModel.size());
  if (!name.starts_with(std::string(paligemma) + ".")) return name;
  std::string inner = name.substr(paligemma.size() + 1);
  for (const auto& [from, to] : kOtherPaliGemma) replace_front(inner, from, to);
  return std::string(paligemma) + "." + inner;
}

/// A norm of the expert that has a plain weight, "…input_layernorm.weight", without "model.".
bool is_plain_expert_norm(const std::string& name) {
  return name.starts_with(std::string_view(kExpert).substr(kModel.size())) && name.ends_with("norm.weight");
}

/// What LeRobot's loader does to a name that has no "model." in front. Nothing: the tensor is left out.
std::optional<std::string> repaired(std::string name, bool pi05) {
  for (const char* layer : {"time_mlp_in.", "time_mlp_out."}) {
    const std::string with_action = std::string("action_") + layer;
    replace_front(name, pi05 ? with_action : layer, pi05 ? layer : with_action);
  }
  if (pi05 && (name.starts_with("state_proj.") || is_plain_expert_norm(name))) return std::nullopt;
  return name;
}

std::optional<std::string> table_name(const std::string& file_name, bool pi05) {
  const bool has_model = file_name.starts_with(kModel);
  std::optional<std::string> name = has_model ? file_name.substr(kModel.size()) : repaired(file_name, pi05);
  if (!name) return std::nullopt;
  return std::string(kModel) + with_current_names(*name);
}

}  // namespace

models::Rename rename_for(const Pi0Config& config) {
  const bool pi05 = config.is_pi05();
  const bool tied = config.tied_embedding;
  return [pi05, tied](const std::string& file_name) {
    std::optional<std::string> name = table_name(file_name, pi05);
    if (tied && name == kEmbedding) name = kHead;
    return name;
  };
}

bool ties_embedding(const models::WeightsFile& file, const Pi0Config& config) {
  const auto holds = [&](const std::string& wanted) {
    return std::any_of(file.entries().begin(), file.entries().end(), [&](const SafetensorsEntry& entry) {
      return table_name(entry.name, config.is_pi05()) == wanted;
    });
  };
  return !(holds(kEmbedding) && holds(kHead));
}

}  // namespace thaw::pi0
