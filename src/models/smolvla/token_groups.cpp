// Which rows of SmolVLA's residual streams are image, text, state and action.
#include <ATen/ATen.h>

#include "../token_rows_impl.h"
#include "line_impl.h"
#include "policy_impl.h"
#include "thaw/core/error.h"

namespace thaw::smolvla {
namespace {

/// Image rows of A: per camera its tokens, between two markers and one where configured.
at::Tensor image_rows(const SmolVLAConfig& config, const at::Tensor& cameras) {
  const at::Tensor rows = models::for_each_row(cameras, config.image_tokens());
  if (!config.add_image_special_tokens) return rows;
  return at::constant_pad_nd(rows.view({cameras.size(0), cameras.size(1), config.image_tokens()}), {2, 1}).flatten(1);
}

}  // namespace

std::vector<TokenGroup> SmolVLAPolicy::token_groups(const std::string& stream, const PrefixState& state,
                                                    const Batch& batch) const {
  const at::Tensor& hidden = state.at(stream);
  if (stream == keys::kVisionHidden) {
    return models::image_alone(models::for_each_row(state.at(keys::kCameraMask), hidden.size(2)));
  }
  if (stream == keys::kRows) {
    return models::image_and_text(image_rows(config(), state.at(keys::kCameraMask)), state.at(keys::kTokenMask));
  }
  if (stream == keys::kStateRow) return models::state_alone(hidden);
  if (stream == keys::kSuffixHidden) return models::actions_alone(hidden, config().chunk_size, batch);
  throw UsageError(Problem{.where = stream, .expected = "a residual stream of SmolVLA"});
}

}  // namespace thaw::smolvla
