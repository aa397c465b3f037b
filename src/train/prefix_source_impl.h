// The frozen prefix of a batch: found in the cache or computed, sample by sample or all at once.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "released_weights_impl.h"
#include "thaw/cache/prefix_cache.h"
#include "thaw/data/dataset.h"
#include "thaw/data/image_transforms.h"
#include "thaw/data/ordered_loader.h"
#include "thaw/freeze/plan.h"
#include "thaw/freeze/prefix_cut.h"
#include "thaw/policy/policy.h"
#include "thaw/train/options.h"

namespace thaw {

/// A batch as the loader's threads leave it.
struct PreparedBatch {
  Batch raw;    ///< as read, without images when the prefix is made by sample
  Batch batch;  ///< preprocessed
  /// By sample when the prefix is made so: what the cache had; empty where it has to be computed.
  std::vector<CacheEntry> entries;
  std::vector<CacheKey> keys;
  std::vector<std::size_t> missing;  ///< samples to compute, with
  std::vector<Batch> images;         ///< their preprocessed batches, in chunks
  std::vector<Batch> parts;          ///< all samples, in chunks too, where stages behind the cut take them so
};

/// Frames that a run reads.
struct FrameSet {
  const LeRobotDataset* dataset;
  bool augmented;  ///< trained on; held-out pictures stay as they were recorded
};

class PrefixSource {
 public:
  /// `cameras`: the dataset's keys of the pictures. `transforms`: none leave them as they are. @throws UsageError for a
  /// cut that the plan does not allow; IoError
  PrefixSource(std::shared_ptr<Policy> policy, const FreezePlan& plan, const PrefixOptions& options,
               Precision precision, at::Device device, std::vector<std::string> cameras,
               const std::string& dataset_digest, std::optional<ImageTransforms> transforms);

  // On the loader's threads:

  /// The sample at `position`, its pictures as recorded: without images, and with its entry, where the cache has one.
  [[nodiscard]] Sample read(const LeRobotDataset& dataset, std::int64_t position);
  /// The same with the pictures to train on.
  [[nodiscard]] Sample read_augmented(const LeRobotDataset& dataset, const Visit& visit);
  /// To fill a cache: the sample without anything that costs when the cache has its entry. The epoch of a visit says
  /// which of views() it is.
  [[nodiscard]] Sample read_missing(const FrameSet& frames, const Visit& visit) const;
  /// `preprocess`: a pipeline of the caller's thread.
  [[nodiscard]] PreparedBatch gather(std::vector<Sample> samples, const ProcessorPipeline& preprocess) const;

  // On the training thread:

  /// The state before stage `to`, without grad. @throws CheckFailed when an entry that was checked differs
  [[nodiscard]] PrefixState state_before(PreparedBatch& prepared, std::size_t to);
  /// Computes and keeps what is missing, no more.
  void compute_missing(PreparedBatch& prepared);

  /// Gives up the weights that only stages before the cut use, when the cache has every view of all these frames.
  void release_weights_when_filled(const std::vector<FrameSet>& sets);

  /// How many prefixes a cache keeps of each of these frames.
  [[nodiscard]] std::int64_t views(const FrameSet& frames) const;
  [[nodiscard]] PrefixCache* cache() const noexcept { return cache_.get(); }
  [[nodiscard]] const PrefixCut& cut() const noexcept { return cut_; }

 private:
  using View = std::optional<std::int64_t>;  ///< of ImageTransforms; none: as recorded

  [[nodiscard]] bool by_sample() const noexcept { return chunk_ > 0; }
  /// From the cut to stage `to` in the chunks that an uncached run would take.
  void advance(PreparedBatch& prepared, std::size_t to) const;
  void set_entries(std::span<const CacheEntry> entries, PrefixState& state) const;
  [[nodiscard]] bool is_image(const std::string& key) const;
  [[nodiscard]] bool has_images(const Sample& sample) const;
  [[nodiscard]] Sample without_images(Sample sample) const;
  [[nodiscard]] CacheKey key_of(const Sample& sample, View view) const;
  [[nodiscard]] CacheKey key_at(const LeRobotDataset& dataset, std::int64_t position, View view) const;
  [[nodiscard]] View view_to_fill(const FrameSet& frames, std::int64_t number) const;
  [[nodiscard]] Sample read_view(const LeRobotDataset& dataset, std::int64_t position, View view);
  enum class Images { read, leave_out };
  [[nodiscard]] Sample read_sample(const LeRobotDataset& dataset, std::int64_t position, View view,
                                   Images images) const;
  [[nodiscard]] bool has_all(const FrameSet& frames) const;
  [[nodiscard]] bool is_checked();
  void restore_weights();
  void check(const CacheKey& key, const CacheEntry& found, const CacheEntry& computed) const;

  std::shared_ptr<Policy> policy_;
  PrefixOptions options_;
  at::Device device_;
  std::vector<std::string> cameras_;
  std::optional<ImageTransforms> transforms_;
  PrefixCut cut_;
  bool has_text_ = true;
  std::int64_t chunk_ = 0;           ///< samples computed at a time; 0: all of the batch, without taking them apart
  bool advances_in_chunks_ = false;  ///< because chunks of a size were asked for, and frozen stages lie behind the cut
  std::shared_ptr<PrefixCache> cache_;
  ReleasedWeights released_;
  bool holds_all_weights_ = true;  ///< of those that some stage uses
  std::atomic<std::uint64_t> visits_{0};
};

}  // namespace thaw
