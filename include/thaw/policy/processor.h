/// LeRobot's processor pipelines: policy_preprocessor.json / policy_postprocessor.json with their state files.
/// Reference: lerobot/processor/pipeline.py and the steps registered there.
#pragma once

#include <c10/core/Device.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "thaw/policy/batch.h"
#include "thaw/policy/features.h"
#include "thaw/policy/statistics.h"
#include "thaw/policy/tokenizer.h"

namespace thaw {

/// One step. A step that a file names and thaw does not know is an error; a step of a file is written back as it was.
class ProcessorStep {
 public:
  virtual ~ProcessorStep() = default;
  [[nodiscard]] virtual std::string registry_name() const = 0;
  virtual void apply(Batch& batch) const = 0;
  [[nodiscard]] virtual std::shared_ptr<ProcessorStep> clone() const = 0;
  /// The "config" object of the step, as JSON text.
  [[nodiscard]] virtual std::string config_json() const = 0;
  /// Tensors of the state file ("observation.state.mean", …); empty: no state file.
  [[nodiscard]] virtual std::map<std::string, at::Tensor> state() const { return {}; }
  /// Config key -> folder in the checkpoint that takes the place of its value ("tokenizer_name" -> "tokenizer").
  [[nodiscard]] virtual std::map<std::string, std::string> artifacts() const { return {}; }
};

class ProcessorPipeline {
 public:
  ProcessorPipeline() = default;
  /// `name`: "policy_preprocessor" or "policy_postprocessor".
  ProcessorPipeline(std::string name, std::vector<std::shared_ptr<ProcessorStep>> steps);
  ProcessorPipeline(const ProcessorPipeline& other);
  ProcessorPipeline& operator=(const ProcessorPipeline& other);
  ProcessorPipeline(ProcessorPipeline&&) noexcept = default;
  ProcessorPipeline& operator=(ProcessorPipeline&&) noexcept = default;

  /// Reads <folder>/<name>.json and the state files it names. The tokenizer is looked for at its first use only: a
  /// folder without one can be inspected. @throws IoError, FormatError (unknown step, bad state)
  [[nodiscard]] static ProcessorPipeline load(const std::filesystem::path& folder, const std::string& name,
                                              const TokenizerSearch& tokenizers);
  /// Writes <folder>/<name>.json and <name>_step_<i>_<registry name>.safetensors, as LeRobot 0.6.1 does. Tokenizer
  /// files are not copied (see copy_tokenizer_files).
  void save(const std::filesystem::path& folder) const;

  /// The batch after all steps; images first become float (images_to_float). @throws MismatchError when a step lacks
  /// what it needs; IoError when a tokenizer is needed and cannot be found
  [[nodiscard]] Batch operator()(Batch batch) const;

  /// Replaces the statistics of every normaliser and unnormaliser (LeRobot's fine-tuning override).
  void set_statistics(const Statistics& statistics);
  /// Of the first (un)normaliser; empty when there is none.
  [[nodiscard]] Statistics statistics() const;
  /// Replaces the features of every normaliser and unnormaliser (LeRobot's fine-tuning override): the preprocessor
  /// takes the policy's inputs and outputs, the postprocessor its outputs.
  void set_features(const Features& features);
  /// Replaces the device of every device step. For the preprocessor: a postprocessor hands its result to the CPU.
  void set_device(at::Device device);
  /// Replaces the dataset-key -> policy-key map of the rename step. @throws MismatchError when there is no rename step
  void set_rename_map(const std::map<std::string, std::string>& map);
  [[nodiscard]] std::map<std::string, std::string> rename_map() const;
  /// Of the tokenizer step; null when there is none. @throws IoError listing the places when it cannot be found
  [[nodiscard]] std::shared_ptr<const Tokenizer> tokenizer() const;
  [[nodiscard]] const std::vector<std::shared_ptr<ProcessorStep>>& steps() const noexcept { return steps_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  std::string name_;
  std::vector<std::shared_ptr<ProcessorStep>> steps_;
};

/// What the postprocessor takes: `actions` (B, T, D) under "action", with what the preprocessor left for it (the
/// reference state of relative actions).
[[nodiscard]] Batch postprocessor_input(const Batch& preprocessed, at::Tensor actions);

}  // namespace thaw
