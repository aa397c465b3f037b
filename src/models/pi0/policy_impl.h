/// pi0 and pi0.5 as a Policy.
#pragma once

#include <memory>
#include <vector>

#include "../flow_policy_impl.h"
#include "line_impl.h"
#include "names_impl.h"
#include "network_impl.h"

namespace thaw::pi0 {

class Pi0Policy final : public models::FlowPolicy {
 public:
  /// `weights` are the tensors of `layout.parameters`, in that order; they become the module's parameters.
  [[nodiscard]] static std::shared_ptr<Pi0Policy> make(const Pi0Config& config, ModelLayout layout,
                                                       std::span<const NamedTensor> weights,
                                                       ProcessorPipeline preprocessor, ProcessorPipeline postprocessor,
                                                       std::filesystem::path source);

  [[nodiscard]] std::string type() const override { return config().type(); }
  [[nodiscard]] const Features& input_features() const override { return config().input_features; }
  [[nodiscard]] const Features& output_features() const override { return config().output_features; }
  [[nodiscard]] TrainingPreset training_preset() const override { return config().training; }

  [[nodiscard]] PrefixState begin(const Batch& batch) const override;
  [[nodiscard]] PrefixState begin_without_images(const Batch& batch) const override;
  [[nodiscard]] std::vector<TokenGroup> token_groups(const std::string& stream, const PrefixState& state,
                                                     const Batch& batch) const override;
  [[nodiscard]] std::shared_ptr<Policy> without_blocks(const BlockLists& removed) const override;
  [[nodiscard]] std::shared_ptr<Policy> with_adapters(std::span<const Adapter> adapters,
                                                      std::uint64_t seed) const override;
  [[nodiscard]] Json config_json() const override;

 protected:
  [[nodiscard]] Json backbone_json() const override;
  [[nodiscard]] models::Rename rename() const override { return rename_for(config()); }
  [[nodiscard]] at::Tensor action_target(const Batch& batch) const override;
  /// None: LeRobot's pi0 and pi0.5 learn the steps behind an episode's end too.
  [[nodiscard]] at::Tensor ignored_steps(const Batch& batch) const override;

 private:
  Pi0Policy(std::shared_ptr<const Network> network, models::FlowParts parts)
      : FlowPolicy(std::move(parts)), network_(std::move(network)) {}

  [[nodiscard]] const Pi0Config& config() const { return network_->config(); }

  std::shared_ptr<const Network> network_;
};

}  // namespace thaw::pi0
