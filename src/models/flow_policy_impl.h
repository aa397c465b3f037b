/// What policies that learn a flow from noise to actions have in common: draws of noise and time, noisy actions, the
/// loss, and Euler sampling along the line of stages.
///
/// Legend: B batch, K draws, T chunk_size, A max_action_dim (padded width), D real action width.
#pragma once

#include <memory>
#include <vector>

#include "thaw/nn/parameter_tree.h"
#include "thaw/policy/policy.h"
#include "thaw/tensor/safetensors.h"
#include "weights_impl.h"

namespace thaw::models {

/// Time of a training draw: offset + scale · x with x from Beta(alpha, 1).
struct FlowTime {
  double alpha = 1.5;
  double scale = 0.999;
  double offset = 0.001;
};

struct FlowShape {
  std::int64_t chunk = 0;         ///< T
  std::int64_t padded_width = 0;  ///< A
  std::int64_t width = 0;         ///< D
  std::int64_t steps = 10;        ///< of the Euler sampler
  bool actions_to_aloha = false;  ///< sampled actions go through pi_actions_to_aloha (models/aloha.h)
  FlowTime time;
};

/// Keys of PrefixState between the base and its stages.
struct FlowKeys {
  std::string noisy_actions;  ///< (B, K · T, A), written by add_draw()
  std::string time;           ///< (B, K), written by add_draw()
  std::string velocity;       ///< (B, K · T, A), the line's output
  std::string batch_like;     ///< any key alive at first_draw_stage() whose batch tells B
};

/// The module's parameters with what nn::find_linear looks up beside them: the scales of the layout's adapters.
[[nodiscard]] nn::ParameterMap network_parameters(const ModelLayout& layout, const torch::nn::Module& module);

/// What a policy is assembled from.
struct FlowParts {
  ModelLayout layout;
  std::shared_ptr<torch::nn::Module> module;
  std::vector<Stage> line;
  FlowShape shape;
  FlowKeys keys;
  ProcessorPipeline preprocessor;
  ProcessorPipeline postprocessor;
  std::filesystem::path source;
};

class FlowPolicy : public Policy {
 public:
  explicit FlowPolicy(FlowParts parts);

  [[nodiscard]] std::int64_t chunk_size() const override { return shape_.chunk; }
  [[nodiscard]] std::vector<std::int64_t> observation_delta_indices() const override { return {0}; }
  [[nodiscard]] std::vector<std::int64_t> action_delta_indices() const override;

  [[nodiscard]] const ModelLayout& layout() const override { return layout_; }
  [[nodiscard]] std::shared_ptr<torch::nn::Module> module() const override { return module_; }
  [[nodiscard]] std::span<const Stage> line() const override { return line_; }
  [[nodiscard]] std::size_t first_draw_stage() const override { return first_draw_stage_; }

  [[nodiscard]] Draw draw(const Batch& batch, std::uint64_t seed, DrawPurpose purpose, std::uint64_t step,
                          std::int64_t draws) const override;
  void add_draw(PrefixState& state, const Batch& batch, const Draw& draw) const override;
  [[nodiscard]] at::Tensor loss(const PrefixState& state, const Batch& batch, const Draw& draw,
                                Reduction reduction) const override;
  [[nodiscard]] at::Tensor sample(const Batch& batch, const at::Tensor& noise) const override;
  [[nodiscard]] at::Tensor sample_from(PrefixState prefix, const at::Tensor& noise) const override;
  [[nodiscard]] std::map<std::string, at::Tensor> read_again(std::span<const std::string> names) const override;
  void save_pretrained(const std::filesystem::path& folder) const override;

 protected:
  /// What vlm_config.json says; null when the configuration alone tells the sizes.
  [[nodiscard]] virtual Json backbone_json() const = 0;
  /// How names of the file it was loaded from are read; empty: as they are.
  [[nodiscard]] virtual Rename rename() const { return {}; }
  /// The batch's action chunks as the network learns them, (B, T, A) float32.
  [[nodiscard]] virtual at::Tensor action_target(const Batch& batch) const = 0;
  /// Steps of the chunk that do not count in the loss, (B, T) bool; undefined when all do.
  [[nodiscard]] virtual at::Tensor ignored_steps(const Batch& batch) const = 0;

 private:
  ModelLayout layout_;
  std::shared_ptr<torch::nn::Module> module_;
  std::vector<Stage> line_;
  std::size_t first_draw_stage_ = 0;
  FlowShape shape_;
  FlowKeys keys_;
};

}  // namespace thaw::models
