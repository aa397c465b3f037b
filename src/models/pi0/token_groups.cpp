// Which rows of the residual streams of pi0 and pi0.5 are image, text, state and action.
#include <ATen/ATen.h>

#include "../token_rows_impl.h"
#include "line_impl.h"
#include "policy_impl.h"
#include "thaw/core/error.h"

namespace thaw::pi0 {
namespace {

/// Begins every prompt of PaliGemma's tokenizer, and says nothing of it.
constexpr std::int64_t kBeginning = 2;

}  // namespace

std::vector<TokenGroup> Pi0Policy::token_groups(const std::string& stream, const PrefixState& state,
                                                const Batch& batch) const {
  const at::Tensor& hidden = state.at(stream);
  if (stream == keys::kVisionHidden) {
    return models::image_alone(models::for_each_row(state.at(keys::kCameraMask), hidden.size(2)));
  }
  if (stream == keys::kRows) {
    const at::Tensor text = state.at(keys::kTokenMask).logical_and(state.at(keys::kTokens) != kBeginning);
    return models::image_and_text(models::for_each_row(state.at(keys::kCameraMask), config().patches()), text);
  }
  if (stream == keys::kStateRow) return models::state_alone(hidden);
  if (stream == keys::kSuffixHidden) return models::actions_alone(hidden, config().chunk_size, batch);
  throw UsageError(Problem{.where = stream, .expected = "a residual stream of " + type()});
}

}  // namespace thaw::pi0
