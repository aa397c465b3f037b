#include "../factory_parts_impl.h"
#include "processors_impl.h"
#include "thaw/policy/processor_steps.h"

namespace thaw::smolvla {

ProcessorPipeline make_preprocessor(const SmolVLAConfig& config, const Statistics& statistics,
                                    const TokenizerSearch& tokenizers) {
  const bool longest = config.pad_language_to == "longest";
  const TokenizerStepOptions tokens{.max_length = config.tokenizer_max_length,
                                    .padding = longest ? TokenPadding::longest : TokenPadding::max_length,
                                    .tokenizer_name = config.vlm_model_name};
  return {"policy_preprocessor",
          {make_rename_step({}), make_to_batch_step(), make_new_line_step("smolvla_new_line_processor"),
           make_tokenizer_step(tokens, tokenizers), make_device_step(at::kCPU),
           make_normalizer_step(
               models::normalizer_options(config.normalization, models::all_features(config), statistics))}};
}

ProcessorPipeline make_postprocessor(const SmolVLAConfig& config, const Statistics& statistics) {
  return {"policy_postprocessor",
          {make_unnormalizer_step(models::normalizer_options(config.normalization, config.output_features, statistics)),
           make_device_step(at::kCPU)}};
}

}  // namespace thaw::smolvla
