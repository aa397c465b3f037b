/// One instrumented pass over a few samples: the streams of every stack are looked at as they go by, and are not kept.
///
///     auto report = thaw::measure_policy(*policy, dataset, {.samples = 32});
///     std::cout << thaw::measure_table(report);
///
/// A module of one's own tells a StreamTap where its streams are (layout_of finds its stacks, freeze/block_stacks.h):
///
///     auto report = thaw::measure_module(*net, thaw::layout_of(*net), 64, [&](std::int64_t i, thaw::StreamTap& tap) {
///       at::Tensor x = tap.before("layers", net->embed(inputs[i]));
///       for (std::int64_t l = 0; l < depth; ++l) x = tap.after("layers", l, net->block(l, x));
///       return at::mse_loss(net->head(x), targets[i]);
///     });
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "thaw/data/dataset.h"
#include "thaw/policy/policy.h"
#include "thaw/study/measures.h"

namespace torch::nn {
class SequentialImpl;
}

namespace thaw {

struct MeasureOptions {
  std::int64_t samples = 32;          ///< calibration frames, drawn from the dataset without repetition
  std::vector<std::string> stacks;    ///< only these; empty: all
  bool similarity = true;             ///< CKA, block influence, angular distance, massive dimensions
  bool gradients = false;             ///< GateProbe, relative gradient norm, Fisher: a backward pass per sample
  std::int64_t batch_size = 8;        ///< samples whose mean gradient a relative gradient norm is of
  std::int64_t rows_per_sample = 64;  ///< of a group, that CKA looks at: drawn at random, the same of every state
  MinibatchCkaOptions cka;
  std::uint64_t seed = 1000;                      ///< of frames, rows, noise and time
  std::map<std::string, std::string> rename_map;  ///< dataset key -> policy key
  bool allow_missing_cameras = false;

  void validate() const;  ///< @throws UsageError naming the field, the value and the range
};

/// Told the streams of one sample as a forward pass makes them. Each call returns what the pass must go on with.
class StreamTap {
 public:
  virtual ~StreamTap() = default;
  /// The stream as it enters block 0 of a stack: (1, …, rows, width). A stack whose rows go through in parts has
  /// several streams, told apart by `part`. Without `groups` all rows are of group "token".
  /// @throws UsageError when there is no such stack (nearest names)
  virtual at::Tensor before(const std::string& stack, at::Tensor hidden, std::vector<TokenGroup> groups = {},
                            const std::string& part = {}) = 0;
  /// The stream behind a block; blocks come in order. @throws UsageError when they do not
  virtual at::Tensor after(const std::string& stack, std::int64_t block, at::Tensor hidden,
                           const std::string& part = {}) = 0;
};

/// Runs calibration sample number i and returns its scalar loss (which may be undefined when gradients are not asked
/// for).
using TappedPass = std::function<at::Tensor(std::int64_t sample, StreamTap& tap)>;

/// Measures any module: `layout` names its stacks and parameters. The module is left as it was found, its gradients
/// and requires_grad flags included.
/// @throws UsageError when a stack of the options is not there (nearest names), or too few rows of a group came for
/// the unbiased estimate
[[nodiscard]] MeasureReport measure_module(torch::nn::Module& module, const ModelLayout& layout, std::int64_t samples,
                                           const TappedPass& pass, const MeasureOptions& options = {});

/// The same for the children of a Sequential, run one after the other on a tensor.
[[nodiscard]] at::Tensor run_tapped(torch::nn::SequentialImpl& blocks, const std::string& stack, at::Tensor hidden,
                                    StreamTap& tap);

/// The policy's own passes over preprocessed samples, each a batch of one.
[[nodiscard]] MeasureReport measure_policy(const Policy& policy, std::span<const Batch> samples,
                                           const MeasureOptions& options = {});

/// Frames of `dataset` drawn by the options, read and preprocessed as in training, with the statistics of its selected
/// episodes: the policy's processors are left with them. @throws as PolicyTask
[[nodiscard]] MeasureReport measure_policy(Policy& policy, const LeRobotDataset& dataset,
                                           const MeasureOptions& options = {});

/// Frames of a dataset of `size` that a calibration of `count` looks at, ascending; all when there are no more.
[[nodiscard]] std::vector<std::int64_t> calibration_positions(std::int64_t size, std::int64_t count,
                                                              std::uint64_t seed);

/// Adds to `report` how far the weights of each block moved from those of a checkpoint folder of the same shape.
/// @throws IoError, FormatError; MismatchError when a tensor is missing there or has another shape
void add_divergence(MeasureReport& report, const ModelLayout& layout, const torch::nn::Module& module,
                    const std::filesystem::path& base);

}  // namespace thaw
