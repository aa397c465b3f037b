#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "batch_inputs_impl.h"
#include "thaw/core/error.h"
#include "thaw/policy/processor_steps.h"

namespace thaw::models {
namespace {

std::string shape_text(const at::Tensor& tensor) { return fmt::format("({})", fmt::join(tensor.sizes(), ", ")); }

at::Tensor as_float_image(const at::Tensor& image) {
  if (image.scalar_type() == at::kByte) return image.to(at::kFloat).div_(255.0);
  return image.scalar_type() == at::kDouble ? image : image.to(at::kFloat);
}

at::Tensor as_float_vector(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat); }

void check_tokens(const at::Tensor& tokens, std::int64_t vocabulary) {
  const bool usable = tokens.dim() == 2 && at::isIntegralType(tokens.scalar_type(), /*includeBool=*/false);
  if (!usable) {
    throw MismatchError(
        Problem{.where = kTokensKey, .expected = "integers (batch, length)", .found = shape_text(tokens)});
  }
  if (tokens.numel() == 0 || !tokens.is_cpu()) return;
  const auto [least, greatest] = at::aminmax(tokens);
  if (least.item<std::int64_t>() >= 0 && greatest.item<std::int64_t>() < vocabulary) return;
  throw MismatchError(Problem{.where = kTokensKey,
                              .expected = fmt::format("ids in 0..{}", vocabulary - 1),
                              .found = fmt::format("{}..{}", least.item<std::int64_t>(), greatest.item<std::int64_t>()),
                              .fix = "The tokenizer is not the one that the policy was made with."});
}

}  // namespace

void refuse_shape(const std::string& key, const std::string& expected, const at::Tensor& found) {
  throw MismatchError(Problem{.where = key,
                              .expected = expected,
                              .found = shape_text(found) + " " + std::string(c10::toString(found.scalar_type()))});
}

void require_shape(const std::string& where, const at::Tensor& tensor, at::IntArrayRef shape) {
  if (tensor.sizes() == shape) return;
  throw MismatchError(Problem{
      .where = where, .expected = fmt::format("shape ({})", fmt::join(shape, ", ")), .found = shape_text(tensor)});
}

at::Tensor camera_image(const std::string& key, const Batch& batch) {
  at::Tensor image = batch.at(key);
  if (image.dim() == 5 && image.size(1) > 0) image = image.select(1, image.size(1) - 1);
  const bool usable = image.dim() == 4 && image.size(1) == 3 && image.size(2) > 0 && image.size(3) > 0 &&
                      (image.is_floating_point() || image.scalar_type() == at::kByte);
  if (!usable) refuse_shape(key, "images (batch, 3, height, width) of uint8 or floats in [0, 1]", batch.at(key));
  return as_float_image(image);
}

std::vector<std::string> present_cameras(const std::vector<std::string>& configured, const Batch& batch) {
  std::vector<std::string> present;
  std::copy_if(configured.begin(), configured.end(), std::back_inserter(present),
               [&batch](const std::string& key) { return batch.has(key); });
  if (!present.empty()) return present;
  std::vector<std::string> keys;
  for (const auto& entry : batch.tensors) keys.push_back(entry.first);
  throw MismatchError(Problem{.where = "batch",
                              .expected = fmt::format("at least one of the cameras {}", fmt::join(configured, ", ")),
                              .found = fmt::format("the keys {}", fmt::join(keys, ", ")),
                              .fix = "Name the dataset's cameras as the policy does (rename map)."});
}

ImageSize fitted_size(ImageSize image, ImageSize target) {
  const double ratio = std::max(static_cast<double>(image.width) / static_cast<double>(target.width),
                                static_cast<double>(image.height) / static_cast<double>(target.height));
  const ImageSize fitted{.height = static_cast<std::int64_t>(static_cast<double>(image.height) / ratio),
                         .width = static_cast<std::int64_t>(static_cast<double>(image.width) / ratio)};
  if (fitted.height >= 1 && fitted.width >= 1) return fitted;
  throw MismatchError(Problem{.where = "image",
                              .expected = fmt::format("sides that fit into {} x {}", target.height, target.width),
                              .found = fmt::format("{} x {}", image.height, image.width)});
}

CameraInputs stack_cameras(const std::vector<std::string>& configured, const Batch& batch, const CameraRules& rules) {
  const std::vector<std::string> present = present_cameras(configured, batch);
  std::vector<at::Tensor> images;
  std::vector<at::Tensor> masks;
  for (const std::string& key : present) {
    images.push_back(rules.fit(key, camera_image(key, batch)) * 2.0 - 1.0);
    masks.push_back(rules.mask(key, images.back()));
    if (images.back().size(0) != images.front().size(0)) {
      refuse_shape(key, fmt::format("a batch of {} as {} has", images.front().size(0), present.front()), batch.at(key));
    }
  }
  const auto missing = static_cast<std::int64_t>(configured.size() - present.size());
  for (std::int64_t i = 0; i < std::min(missing, rules.most_filled); ++i) {
    images.push_back(at::full_like(images.front(), -1.0));
    masks.push_back(at::zeros_like(masks.front()));
  }
  return {.pixels = at::stack(images, 1), .mask = at::stack(masks, 1)};
}

at::Tensor last_vector(const std::string& key, const Batch& batch) {
  at::Tensor vector = as_float_vector(batch.at(key));
  if (vector.dim() == 3 && vector.size(1) > 0) vector = vector.select(1, vector.size(1) - 1);
  if (vector.dim() != 2) refuse_shape(key, "vectors (batch, width)", batch.at(key));
  return vector;
}

at::Tensor action_chunks(const Batch& batch, std::int64_t chunk, std::int64_t width) {
  const at::Tensor action = as_float_vector(batch.at(kActionKey));
  const bool usable = action.dim() == 3 && action.size(1) == chunk && action.size(2) == width;
  if (!usable) refuse_shape(kActionKey, fmt::format("chunks (batch, {}, {})", chunk, width), batch.at(kActionKey));
  return action;
}

at::Tensor pad_width(const at::Tensor& vectors, std::int64_t width, const std::string& key) {
  const std::int64_t missing = width - vectors.size(-1);
  if (missing < 0) refuse_shape(key, fmt::format("at most {} values a vector", width), vectors);
  return missing == 0 ? vectors : at::constant_pad_nd(vectors, {0, missing});
}

TokenInputs token_inputs(const Batch& batch, std::int64_t vocabulary) {
  const at::Tensor& tokens = batch.at(kTokensKey);
  const at::Tensor& mask = batch.at(kAttentionMaskKey);
  check_tokens(tokens, vocabulary);
  require_shape(kAttentionMaskKey, mask, tokens.sizes());
  return {.tokens = tokens, .mask = mask.to(at::kBool)};
}

}  // namespace thaw::models
