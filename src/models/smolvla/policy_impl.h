/// SmolVLA as a Policy.
#pragma once

#include <memory>
#include <vector>

#include "line_impl.h"
#include "network_impl.h"
#include "thaw/policy/policy.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::smolvla {

class SmolVLAPolicy final : public Policy {
 public:
  /// `weights` are the tensors of `layout.parameters`, in that order; they become the module's parameters.
  SmolVLAPolicy(const SmolVLAConfig& config, ModelLayout layout, std::span<const NamedTensor> weights,
                ProcessorPipeline preprocessor, ProcessorPipeline postprocessor, std::filesystem::path source);

  [[nodiscard]] std::string type() const override { return "smolvla"; }
  [[nodiscard]] const Features& input_features() const override { return config().input_features; }
  [[nodiscard]] const Features& output_features() const override { return config().output_features; }
  [[nodiscard]] std::int64_t chunk_size() const override { return config().chunk_size; }
  [[nodiscard]] std::vector<std::int64_t> observation_delta_indices() const override { return {0}; }
  [[nodiscard]] std::vector<std::int64_t> action_delta_indices() const override;
  [[nodiscard]] TrainingPreset training_preset() const override { return config().training; }

  [[nodiscard]] const ModelLayout& layout() const override { return layout_; }
  [[nodiscard]] std::shared_ptr<torch::nn::Module> module() const override { return module_; }
  [[nodiscard]] std::span<const Stage> line() const override { return line_; }
  [[nodiscard]] std::size_t first_draw_stage() const override { return first_draw_stage_; }

  [[nodiscard]] PrefixState begin(const Batch& batch) const override;
  [[nodiscard]] PrefixState begin_without_images(const Batch& batch) const override;
  [[nodiscard]] Draw draw(const Batch& batch, std::uint64_t seed, DrawPurpose purpose, std::uint64_t step,
                          std::int64_t draws) const override;
  void add_draw(PrefixState& state, const Batch& batch, const Draw& draw) const override;
  [[nodiscard]] at::Tensor loss(const PrefixState& state, const Batch& batch, const Draw& draw,
                                Reduction reduction) const override;
  [[nodiscard]] at::Tensor sample(const Batch& batch, const at::Tensor& noise) const override;
  [[nodiscard]] at::Tensor sample_from(PrefixState prefix, const at::Tensor& noise) const override;
  [[nodiscard]] std::vector<TokenGroup> token_groups(const std::string& stream, const PrefixState& state,
                                                     const Batch& batch) const override;
  [[nodiscard]] std::shared_ptr<Policy> without_blocks(const BlockLists& removed) const override;
  [[nodiscard]] Json config_json() const override;
  [[nodiscard]] std::map<std::string, at::Tensor> read_again(std::span<const std::string> names) const override;

  void save_pretrained(const std::filesystem::path& folder) const override;

 private:
  [[nodiscard]] const SmolVLAConfig& config() const { return network_->config(); }

  ModelLayout layout_;
  std::shared_ptr<torch::nn::Module> module_;
  std::shared_ptr<const Network> network_;
  std::vector<Stage> line_;
  std::size_t first_draw_stage_ = 0;
};

}  // namespace thaw::smolvla
