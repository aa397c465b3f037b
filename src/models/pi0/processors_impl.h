/// The processor pipelines that LeRobot builds for pi0 and pi0.5.
#pragma once

#include "../factory_parts_impl.h"
#include "thaw/models/pi0/config.h"
#include "thaw/policy/statistics.h"
#include "thaw/policy/tokenizer.h"

namespace thaw::pi0 {

/// pi0: rename, to_batch, new line, tokenizer, device, relative actions, normalizer; pi0.5: rename, to_batch, relative
/// actions, normalizer, prompt with the state, tokenizer, device. Back: unnormalizer, absolute actions, device.
[[nodiscard]] models::Processors make_processors(const Pi0Config& config, const Statistics& statistics,
                                                 const TokenizerSearch& tokenizers);

}  // namespace thaw::pi0
