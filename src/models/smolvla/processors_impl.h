/// The processor pipelines that LeRobot builds for SmolVLA.
#pragma once

#include "thaw/models/smolvla/config.h"
#include "thaw/policy/processor.h"
#include "thaw/policy/statistics.h"
#include "thaw/policy/tokenizer.h"

namespace thaw::smolvla {

/// rename, to_batch, new line, tokenizer, device, normalizer.
[[nodiscard]] ProcessorPipeline make_preprocessor(const SmolVLAConfig& config, const Statistics& statistics,
                                                  const TokenizerSearch& tokenizers);
/// unnormalizer, device.
[[nodiscard]] ProcessorPipeline make_postprocessor(const SmolVLAConfig& config, const Statistics& statistics);

}  // namespace thaw::smolvla
