#include "processors_impl.h"
#include "thaw/policy/processor_steps.h"

namespace thaw::smolvla {
namespace {

NormalizerOptions normalizer_options(const SmolVLAConfig& config, Features features, const Statistics& statistics) {
  NormalizerOptions options{.features = std::move(features), .statistics = statistics};
  for (const NormalizationEntry& entry : config.normalization) {
    options.norm_map[parse_feature_type(entry.type)] = parse_normalization_mode(entry.mode);
  }
  return options;
}

}  // namespace

ProcessorPipeline make_preprocessor(const SmolVLAConfig& config, const Statistics& statistics,
                                    const TokenizerSearch& tokenizers) {
  const bool longest = config.pad_language_to == "longest";
  const TokenizerStepOptions tokens{.max_length = config.tokenizer_max_length,
                                    .padding = longest ? TokenPadding::longest : TokenPadding::max_length,
                                    .tokenizer_name = config.vlm_model_name};
  Features features = config.input_features;
  features.insert(features.end(), config.output_features.begin(), config.output_features.end());
  return {"policy_preprocessor",
          {make_rename_step({}), make_to_batch_step(), make_new_line_step("smolvla_new_line_processor"),
           make_tokenizer_step(tokens, tokenizers), make_device_step(at::kCPU),
           make_normalizer_step(normalizer_options(config, features, statistics))}};
}

ProcessorPipeline make_postprocessor(const SmolVLAConfig& config, const Statistics& statistics) {
  return {"policy_postprocessor",
          {make_unnormalizer_step(normalizer_options(config, config.output_features, statistics)),
           make_device_step(at::kCPU)}};
}

}  // namespace thaw::smolvla
