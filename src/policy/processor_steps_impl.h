/// The steps as classes: what the pipeline's setters have to reach into. Each keeps its JSON "config" as it was read.
#pragma once

#include <c10/core/ScalarType.h>

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/policy/processor_steps.h"

namespace thaw::detail {

inline constexpr const char* kStateKey = "observation.state";
inline constexpr const char* kActionKey = "action";

/// What a step of a file is made from.
struct StepSource {
  Json config;                              ///< the "config" object
  std::map<std::string, at::Tensor> state;  ///< of the state file; empty without one
  std::map<std::string, std::string> artifacts;
  std::filesystem::path folder;  ///< of the pipeline file
  TokenizerSearch tokenizers;
  std::string where;  ///< "<file>, step 3 (tokenizer_processor)"
};

/// A step that keeps its config.
class ConfiguredStep : public ProcessorStep {
 public:
  explicit ConfiguredStep(Json config) : config_(std::move(config)) {}
  [[nodiscard]] std::string config_json() const override { return config_.dump(); }

 protected:
  Json config_;
};

class RenameStep final : public ConfiguredStep {
 public:
  explicit RenameStep(std::map<std::string, std::string> map);
  explicit RenameStep(const StepSource& source);
  [[nodiscard]] std::string registry_name() const override { return "rename_observations_processor"; }
  void apply(Batch& batch) const override;
  [[nodiscard]] std::shared_ptr<ProcessorStep> clone() const override { return std::make_shared<RenameStep>(*this); }
  [[nodiscard]] const std::map<std::string, std::string>& map() const noexcept { return map_; }
  void set_map(std::map<std::string, std::string> map);

 private:
  std::map<std::string, std::string> map_;
};

class ToBatchStep final : public ConfiguredStep {
 public:
  ToBatchStep() : ConfiguredStep(Json::object()) {}
  explicit ToBatchStep(const StepSource& source);
  [[nodiscard]] std::string registry_name() const override { return "to_batch_processor"; }
  void apply(Batch& batch) const override;
  [[nodiscard]] std::shared_ptr<ProcessorStep> clone() const override { return std::make_shared<ToBatchStep>(*this); }
};

class NewLineStep final : public ConfiguredStep {
 public:
  explicit NewLineStep(std::string registry_name) : ConfiguredStep(Json::object()), name_(std::move(registry_name)) {}
  NewLineStep(std::string registry_name, const StepSource& source);
  [[nodiscard]] std::string registry_name() const override { return name_; }
  void apply(Batch& batch) const override;
  [[nodiscard]] std::shared_ptr<ProcessorStep> clone() const override { return std::make_shared<NewLineStep>(*this); }

 private:
  std::string name_;
};

class Pi05PromptStep final : public ConfiguredStep {
 public:
  Pi05PromptStep() : ConfiguredStep(Json::object()) {}
  explicit Pi05PromptStep(const StepSource& source);
  [[nodiscard]] std::string registry_name() const override { return "pi05_prepare_state_tokenizer_processor_step"; }
  void apply(Batch& batch) const override;
  [[nodiscard]] std::shared_ptr<ProcessorStep> clone() const override {
    return std::make_shared<Pi05PromptStep>(*this);
  }
};

/// A tokenizer that is looked for at its first use, once for all clones of a step.
class LazyTokenizer {
 public:
  explicit LazyTokenizer(std::shared_ptr<const Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {}
  LazyTokenizer(std::string name, TokenizerSearch search) : name_(std::move(name)), search_(std::move(search)) {}
  [[nodiscard]] std::shared_ptr<const Tokenizer> get();

 private:
  std::mutex mutex_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string name_;
  TokenizerSearch search_;
};

class TokenizerStep final : public ConfiguredStep {
 public:
  TokenizerStep(TokenizerStepOptions options, std::shared_ptr<LazyTokenizer> tokenizer);
  explicit TokenizerStep(const StepSource& source);
  [[nodiscard]] std::string registry_name() const override { return "tokenizer_processor"; }
  void apply(Batch& batch) const override;
  [[nodiscard]] std::shared_ptr<ProcessorStep> clone() const override { return std::make_shared<TokenizerStep>(*this); }
  [[nodiscard]] std::map<std::string, std::string> artifacts() const override { return artifacts_; }
  [[nodiscard]] std::shared_ptr<const Tokenizer> tokenizer() const { return tokenizer_->get(); }

 private:
  TokenizerStepOptions options_;
  std::shared_ptr<LazyTokenizer> tokenizer_;
  std::map<std::string, std::string> artifacts_;
};

class DeviceStep final : public ConfiguredStep {
 public:
  explicit DeviceStep(at::Device device);
  explicit DeviceStep(const StepSource& source);
  [[nodiscard]] std::string registry_name() const override { return "device_processor"; }
  void apply(Batch& batch) const override;
  [[nodiscard]] std::shared_ptr<ProcessorStep> clone() const override { return std::make_shared<DeviceStep>(*this); }
  void set_device(at::Device device);

 private:
  at::Device device_;
  std::optional<at::ScalarType> float_dtype_;
};

class NormalizerStep final : public ConfiguredStep {
 public:
  enum class Direction { forward, inverse };
  NormalizerStep(Direction direction, NormalizerOptions options);
  NormalizerStep(Direction direction, const StepSource& source);
  [[nodiscard]] std::string registry_name() const override;
  void apply(Batch& batch) const override;
  [[nodiscard]] std::shared_ptr<ProcessorStep> clone() const override {
    return std::make_shared<NormalizerStep>(*this);
  }
  [[nodiscard]] std::map<std::string, at::Tensor> state() const override;
  [[nodiscard]] const Statistics& statistics() const noexcept { return options_.statistics; }
  void set_statistics(const Statistics& statistics);
  void set_features(const Features& features);

 private:
  [[nodiscard]] at::Tensor transform(const at::Tensor& input, const std::string& key, FeatureType type) const;

  Direction direction_;
  NormalizerOptions options_;
};

class RelativeActionsStep final : public ConfiguredStep {
 public:
  explicit RelativeActionsStep(RelativeActionOptions options);
  explicit RelativeActionsStep(const StepSource& source);
  [[nodiscard]] std::string registry_name() const override { return "relative_actions_processor"; }
  void apply(Batch& batch) const override;
  [[nodiscard]] std::shared_ptr<ProcessorStep> clone() const override {
    return std::make_shared<RelativeActionsStep>(*this);
  }

 private:
  [[nodiscard]] at::Tensor reference(const at::Tensor& state) const;

  RelativeActionOptions options_;
};

class AbsoluteActionsStep final : public ConfiguredStep {
 public:
  explicit AbsoluteActionsStep(bool enabled);
  explicit AbsoluteActionsStep(const StepSource& source);
  [[nodiscard]] std::string registry_name() const override { return "absolute_actions_processor"; }
  void apply(Batch& batch) const override;
  [[nodiscard]] std::shared_ptr<ProcessorStep> clone() const override {
    return std::make_shared<AbsoluteActionsStep>(*this);
  }

 private:
  bool enabled_;
};

/// The step that a file names. `entry` is one member of "steps". @throws FormatError
[[nodiscard]] std::shared_ptr<ProcessorStep> step_from_json(const Json& entry, std::size_t index,
                                                            const std::filesystem::path& file,
                                                            const TokenizerSearch& tokenizers);

/// Throws FormatError for a key of `config` that is none of `known` and not null: its meaning would be lost in silence.
void check_config_keys(const Json& config, std::initializer_list<std::string_view> known, const std::string& where);

/// Throws FormatError when a step's config names another task key than "task": a Batch holds one text per sample.
void check_task_key(const std::string& task_key, const std::string& where);

}  // namespace thaw::detail
