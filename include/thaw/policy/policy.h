/// A Vision-Language-Action policy as thaw sees it: a module, a line of stages, and how to begin and end a forward
/// pass.
///
/// Legend: B batch, K draws, T chunk_size, A max_action_dim (padded width), D real action width.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/policy/batch.h"
#include "thaw/policy/features.h"
#include "thaw/policy/layout.h"
#include "thaw/policy/prefix_state.h"
#include "thaw/policy/processor.h"

namespace torch::nn {
class Module;
}

namespace thaw {

/// One step of the forward pass with its code.
struct Stage {
  StageInfo info;
  std::function<void(PrefixState&)> run;  ///< reads and writes exactly the keys of `info`
};

/// The random part of one training forward: flow matching's noise and time, K times over one prefix. With K = 1 the
/// axis may be left out.
struct Draw {
  at::Tensor noise;  ///< (B, K, T, A) or (B, T, A) float32, N(0, 1)
  at::Tensor time;   ///< (B, K) or (B) float32 in (0, 1]
};

enum class DrawPurpose { training, evaluation };

/// What a policy's own configuration asks of the optimiser and the schedule (LeRobot's training preset).
struct TrainingPreset {
  double learning_rate = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 1e-10;
  double grad_clip_norm = 10.0;
  std::int64_t warmup_steps = 1000;
  std::int64_t decay_steps = 30000;
  double decay_learning_rate = 2.5e-6;
};

/// Rows of one kind in a residual stream.
struct TokenGroup {
  std::string name;  ///< "image", "text", "state" or "action"
  at::Tensor rows;   ///< (B, R) bool, R = all dimensions of the stream between batch and width; padding is false
};

/// Blocks by the name of their stack, ascending.
using BlockLists = std::map<std::string, std::vector<std::int64_t>>;

/// mean: a scalar over the batch; none: one number per sample, (B).
enum class Reduction { mean, none };

class Policy {
 public:
  virtual ~Policy() = default;

  /// LeRobot's config "type", e.g. "smolvla".
  [[nodiscard]] virtual std::string type() const = 0;
  [[nodiscard]] virtual const Features& input_features() const = 0;
  [[nodiscard]] virtual const Features& output_features() const = 0;
  [[nodiscard]] virtual std::int64_t chunk_size() const = 0;
  /// Time offsets in frames that an observation and an action are read at (LeRobot's *_delta_indices).
  [[nodiscard]] virtual std::vector<std::int64_t> observation_delta_indices() const = 0;
  [[nodiscard]] virtual std::vector<std::int64_t> action_delta_indices() const = 0;
  [[nodiscard]] virtual TrainingPreset training_preset() const = 0;

  [[nodiscard]] virtual const ModelLayout& layout() const = 0;
  /// Its named_parameters() are exactly layout().parameters.
  [[nodiscard]] virtual std::shared_ptr<torch::nn::Module> module() const = 0;
  /// In order; line()[i].info equals layout().line[i].
  [[nodiscard]] virtual std::span<const Stage> line() const = 0;
  /// Index of the first stage that reads the draw: everything before may be shared by several draws.
  [[nodiscard]] virtual std::size_t first_draw_stage() const = 0;

  /// What the first stages read: pixels, camera masks, tokens, padded state. `batch` is preprocessed.
  /// @throws MismatchError when a needed key is missing or has another shape
  [[nodiscard]] virtual PrefixState begin(const Batch& batch) const = 0;
  /// The same without layout().image_inputs, from a batch that was read without images: what they became comes from a
  /// prefix cache. @throws as begin()
  [[nodiscard]] virtual PrefixState begin_without_images(const Batch& batch) const = 0;
  /// Noise and time as a pure function of (seed, purpose, step · draws + k, batch.indices), for k in 0..draws-1.
  /// (B, T, A) and (B) when `draws` is 1, (B, K, T, A) and (B, K) otherwise.
  [[nodiscard]] virtual Draw draw(const Batch& batch, std::uint64_t seed, DrawPurpose purpose, std::uint64_t step,
                                  std::int64_t draws = 1) const = 0;
  /// Adds what the suffix stages read for a training forward: noisy actions and time.
  virtual void add_draw(PrefixState& state, const Batch& batch, const Draw& draw) const = 0;
  /// The training loss from the state the last stage left, the mean over the draws. float32, a scalar or (B). Of
  /// `batch` it reads what begins with "action" alone, on the device: a recorded step is given nothing else.
  [[nodiscard]] virtual at::Tensor loss(const PrefixState& state, const Batch& batch, const Draw& draw,
                                        Reduction reduction) const = 0;
  /// Sampled action chunk, still normalised: (B, T, D) float32. Runs without grad. `noise` is (B, T, A) float32.
  [[nodiscard]] virtual at::Tensor sample(const Batch& batch, const at::Tensor& noise) const = 0;
  /// The same from `prefix`, the state that the stages before first_draw_stage() left: nothing of it is computed again.
  [[nodiscard]] virtual at::Tensor sample_from(PrefixState prefix, const at::Tensor& noise) const = 0;
  /// What the rows of a residual stream (StageInfo::block) hold, without padding and markers. `state` has what begin(),
  /// add_draw() and the stages up to the stream left, `batch` is preprocessed. By default all rows are of one group,
  /// "token".
  [[nodiscard]] virtual std::vector<TokenGroup> token_groups(const std::string& stream, const PrefixState& state,
                                                             const Batch& batch) const;
  /// The same policy without these blocks: those left are renumbered from 0 and keep their values, the configuration
  /// says how many there are. @throws UsageError when the policy type cannot be pruned (the default), or as
  /// check_removal (policy/removal.h)
  [[nodiscard]] virtual std::shared_ptr<Policy> without_blocks(const BlockLists& removed) const;

  /// The same policy, sharing its weights, with fresh adapters on linear layers (policy/adapters.h): what it computes
  /// does not change yet. What trains is decided by a freeze plan of the result, as always.
  /// @throws UsageError when the policy type cannot have adapters (the default), or as thaw::with_adapters
  [[nodiscard]] virtual std::shared_ptr<Policy> with_adapters(std::span<const Adapter> adapters,
                                                              std::uint64_t seed) const;

  /// What config.json says (LeRobot's names).
  [[nodiscard]] virtual Json config_json() const = 0;

  /// Raw dataset batch -> what begin() takes; sampled chunk under key "action" -> robot units.
  [[nodiscard]] ProcessorPipeline& preprocessor() noexcept { return preprocessor_; }
  [[nodiscard]] ProcessorPipeline& postprocessor() noexcept { return postprocessor_; }
  [[nodiscard]] const ProcessorPipeline& preprocessor() const noexcept { return preprocessor_; }
  [[nodiscard]] const ProcessorPipeline& postprocessor() const noexcept { return postprocessor_; }

  /// Writes config.json, model.safetensors and both processors, as LeRobot's save_pretrained does.
  /// `folder` must exist (a StagedDirectory when it must appear whole).
  virtual void save_pretrained(const std::filesystem::path& folder) const = 0;

  /// Parameters of these names as the folder it was loaded from holds them, for one whose memory was given up.
  /// @throws UsageError when it was loaded from no folder or a name is unknown; IoError, MismatchError as load_policy
  [[nodiscard]] virtual std::map<std::string, at::Tensor> read_again(std::span<const std::string> names) const = 0;

  /// Folder the policy was loaded from; empty when it was built from a configuration.
  [[nodiscard]] const std::filesystem::path& source() const noexcept { return source_; }

 protected:
  ProcessorPipeline preprocessor_;
  ProcessorPipeline postprocessor_;
  std::filesystem::path source_;
};

}  // namespace thaw
