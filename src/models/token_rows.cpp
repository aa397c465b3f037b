#include <ATen/ATen.h>

#include "token_rows_impl.h"

namespace thaw::models {
namespace {

constexpr const char* kActionPadding = "action_is_pad";

at::Tensor all_rows(const at::Tensor& hidden) {
  return at::ones({hidden.size(0), hidden.size(1)}, hidden.options().dtype(at::kBool));
}

}  // namespace

at::Tensor for_each_row(const at::Tensor& flags, std::int64_t each) { return flags.repeat_interleave(each, 1); }

std::vector<TokenGroup> image_and_text(const at::Tensor& image, const at::Tensor& text) {
  return {{.name = "image", .rows = at::constant_pad_nd(image, {0, text.size(1)})},
          {.name = "text", .rows = at::constant_pad_nd(text, {image.size(1), 0})}};
}

std::vector<TokenGroup> image_alone(const at::Tensor& image) { return {{.name = "image", .rows = image}}; }

std::vector<TokenGroup> state_alone(const at::Tensor& hidden) { return {{.name = "state", .rows = all_rows(hidden)}}; }

std::vector<TokenGroup> actions_alone(const at::Tensor& hidden, std::int64_t chunk, const Batch& batch) {
  if (!batch.has(kActionPadding)) return {{.name = "action", .rows = all_rows(hidden)}};
  const at::Tensor recorded = batch.at(kActionPadding).to(hidden.device(), at::kBool).logical_not();
  return {{.name = "action", .rows = recorded.repeat({1, hidden.size(1) / chunk})}};
}

}  // namespace thaw::models
