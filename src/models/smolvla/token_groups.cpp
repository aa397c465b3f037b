// Which rows of SmolVLA's residual streams are image, text, state and action.
#include <ATen/ATen.h>

#include "line_impl.h"
#include "policy_impl.h"
#include "thaw/core/error.h"

namespace thaw::smolvla {
namespace {

constexpr const char* kActionPadKey = "action_is_pad";

/// (B, C) -> (B, C · each), every flag `each` times.
at::Tensor for_each_row(const at::Tensor& flags, std::int64_t each) {
  const std::int64_t batch = flags.size(0);
  return flags.unsqueeze(-1).expand({batch, flags.size(1), each}).reshape({batch, flags.size(1) * each});
}

/// Rows of A: per camera its image tokens, between two markers and one where configured, then the text.
std::vector<TokenGroup> row_groups(const SmolVLAConfig& config, const at::Tensor& cameras, const at::Tensor& text) {
  const std::int64_t batch = cameras.size(0);
  at::Tensor image = for_each_row(cameras, config.image_tokens());
  if (config.add_image_special_tokens) {
    image = at::constant_pad_nd(image.view({batch, cameras.size(1), config.image_tokens()}), {2, 1}).flatten(1);
  }
  return {{.name = "image", .rows = at::constant_pad_nd(image, {0, text.size(1)})},
          {.name = "text", .rows = at::constant_pad_nd(text, {image.size(1), 0})}};
}

/// Actions of every draw, without those behind the end of the episode.
at::Tensor action_rows(const at::Tensor& hidden, std::int64_t chunk, const Batch& batch) {
  const std::int64_t rows = hidden.size(1);
  if (!batch.has(kActionPadKey)) return at::ones({hidden.size(0), rows}, hidden.options().dtype(at::kBool));
  return batch.at(kActionPadKey).to(hidden.device(), at::kBool).logical_not().repeat({1, rows / chunk});
}

}  // namespace

std::vector<TokenGroup> SmolVLAPolicy::token_groups(const std::string& stream, const PrefixState& state,
                                                    const Batch& batch) const {
  const at::Tensor& hidden = state.at(stream);
  if (stream == keys::kVisionHidden) {
    return {{.name = "image", .rows = for_each_row(state.at(keys::kCameraMask), hidden.size(2))}};
  }
  if (stream == keys::kRows) return row_groups(config(), state.at(keys::kCameraMask), state.at(keys::kTokenMask));
  if (stream == keys::kStateRow) {
    return {{.name = "state", .rows = at::ones({hidden.size(0), 1}, hidden.options().dtype(at::kBool))}};
  }
  if (stream == keys::kSuffixHidden) {
    return {{.name = "action", .rows = action_rows(hidden, config().chunk_size, batch)}};
  }
  throw UsageError(Problem{.where = stream, .expected = "a residual stream of SmolVLA"});
}

}  // namespace thaw::smolvla
