#include "processors_impl.h"
#include "thaw/policy/processor_steps.h"

namespace thaw::pi0 {
namespace {

constexpr const char* kTokenizer = "google/paligemma-3b-pt-224";

}  // namespace

models::Processors make_processors(const Pi0Config& config, const Statistics& statistics,
                                   const TokenizerSearch& tokenizers) {
  const auto tokens = make_tokenizer_step(
      TokenizerStepOptions{.max_length = config.tokenizer_max_length, .tokenizer_name = kTokenizer}, tokenizers);
  const auto relative = make_relative_actions_step({.enabled = config.use_relative_actions,
                                                    .exclude_joints = config.relative_exclude_joints,
                                                    .action_names = config.action_feature_names});
  const auto normalizer =
      make_normalizer_step(models::normalizer_options(config.normalization, models::all_features(config), statistics));
  const auto unnormalizer =
      make_unnormalizer_step(models::normalizer_options(config.normalization, config.output_features, statistics));
  const auto rename = make_rename_step({});
  const auto to_batch = make_to_batch_step();
  const auto device = make_device_step(at::kCPU);
  const ProcessorPipeline back("policy_postprocessor",
                               {unnormalizer, make_absolute_actions_step(config.use_relative_actions), device});
  const std::string name = "policy_preprocessor";
  if (config.is_pi05()) {
    return {.preprocessor = {name, {rename, to_batch, relative, normalizer, make_pi05_prompt_step(), tokens, device}},
            .postprocessor = back};
  }
  const auto new_line = make_new_line_step("pi0_new_line_processor");
  return {.preprocessor = {name, {rename, to_batch, new_line, tokens, device, relative, normalizer}},
          .postprocessor = back};
}

}  // namespace thaw::pi0
