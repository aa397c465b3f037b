#include "costs_impl.h"

namespace thaw::smolvla {
namespace {

double product(double rows, double in, double out) { return 2.0 * rows * in * out; }

}  // namespace

Flops::Flops(const SmolVLAConfig& config) : config_(config) {
  const std::int64_t extra = config.add_image_special_tokens ? 3 : 0;
  images_ = static_cast<double>(config.cameras().size());
  rows_ =
      images_ * static_cast<double>(config.image_tokens() + extra) + static_cast<double>(config.tokenizer_max_length);
  query_width_ = static_cast<double>(config.vlm.text.heads * config.vlm.text.head_dim);
  kv_width_ = static_cast<double>(config.vlm.text.kv_heads * config.vlm.text.head_dim);
  chunk_ = static_cast<double>(config.chunk_size);
  hidden_ = static_cast<double>(config.vlm.text.hidden_size);
  expert_hidden_ = static_cast<double>(config.expert_hidden());
}

double Flops::image_patches() const { return images_ * static_cast<double>(config_.patches()); }

double Flops::actions() const { return static_cast<double>(config_.max_action_dim); }

double Flops::patches() const {
  const auto& vision = config_.vlm.vision;
  return product(image_patches(), static_cast<double>(3 * vision.patch_size * vision.patch_size),
                 static_cast<double>(vision.hidden_size));
}

double Flops::vision_block() const {
  const auto width = static_cast<double>(config_.vlm.vision.hidden_size);
  const auto inner = static_cast<double>(config_.vlm.vision.intermediate_size);
  const auto per_image = static_cast<double>(config_.patches());
  return product(image_patches(), width, 4 * width + 2 * inner) + 2 * product(image_patches(), per_image, width);
}

double Flops::connector() const {
  const auto& vlm = config_.vlm;
  return product(images_ * static_cast<double>(config_.image_tokens()),
                 static_cast<double>(vlm.vision.hidden_size * vlm.scale_factor * vlm.scale_factor), hidden_);
}

double Flops::state() const { return product(1, static_cast<double>(config_.max_state_dim), hidden_); }

double Flops::language_block(double own, double seen, bool last) const {
  const double key_value = product(own, hidden_, 2 * kv_width_);
  return last ? key_value : key_value + rest(own, seen, hidden_, config_.vlm.text.intermediate_size);
}

double Flops::rows_block(bool last) const { return language_block(rows_, rows_, last); }

double Flops::state_block(bool last) const { return language_block(1, rows_ + 1, last); }

double Flops::cross_keys() const { return product(rows_ + 1, kv_width_, 2 * kv_width_); }

double Flops::expert_block(bool self) const {
  const double key_value = self ? product(chunk_, expert_hidden_, 2 * kv_width_) : 0.0;
  const double seen = rows_ + 1 + (self ? chunk_ : 0.0);
  return key_value + rest(chunk_, seen, expert_hidden_, config_.expert_intermediate());
}

double Flops::suffix_embedding() const {
  return product(chunk_, actions(), expert_hidden_) + product(chunk_, 3 * expert_hidden_, expert_hidden_);
}

double Flops::action_projection() const { return product(chunk_, expert_hidden_, actions()); }

double Flops::rest(double own, double seen, double hidden, std::int64_t intermediate) const {
  return product(own, hidden, 2 * query_width_) + 2 * product(own, seen, query_width_) +
         product(own, hidden, 3.0 * static_cast<double>(intermediate));
}

}  // namespace thaw::smolvla
