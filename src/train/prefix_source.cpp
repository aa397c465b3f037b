#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "prefix_identity_impl.h"
#include "prefix_source_impl.h"
#include "thaw/cache/assemble.h"
#include "thaw/core/error.h"
#include "thaw/core/log.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/compare.h"
#include "thaw/train/shared_caches.h"

namespace thaw {
namespace {

const std::string kEntryPrefix = "prefix/";  // of an entry's tensors on their way through a Sample
constexpr double kBusyFlops = 1e10;          // of one sample's prefix: enough to keep a processor's cores busy

double prefix_flops(const ModelLayout& layout, std::size_t cut) {
  double flops = 0.0;
  for (std::size_t i = 0; i < cut; ++i) flops += layout.line[i].flops;
  return flops;
}

std::int64_t chunk_of(const PrefixOptions& options, const ModelLayout& layout, const PrefixCut& cut,
                      at::Device device) {
  if (cut.stage == 0) return 0;
  if (options.batch_size > 0) return options.batch_size;
  if (options.cache != CacheCut::none) return 1;
  return device.is_cpu() && prefix_flops(layout, cut.stage) >= kBusyFlops ? 1 : 0;
}

/// Where the prefix ends: at the cut of the cache, else at the boundary, but before what each draw needs for itself.
PrefixCut cut_of(const Policy& policy, const FreezePlan& plan, const PrefixOptions& options) {
  std::size_t stage = std::min(plan.boundary, policy.first_draw_stage());
  if (options.cache != CacheCut::none) {
    const std::size_t deepest = std::min(plan.boundary, options.deepest_stage.value_or(plan.boundary));
    stage = find_cut(policy.layout(), deepest, options.cache);
  }
  return {.kind = options.cache,
          .stage = stage,
          .keys = live_keys(policy.layout().line, stage, policy.layout().image_inputs)};
}

CacheEntry take_entry(Sample& sample) {
  CacheEntry entry;
  for (auto item = sample.tensors.begin(); item != sample.tensors.end();) {
    if (!item->first.starts_with(kEntryPrefix)) {
      ++item;
      continue;
    }
    entry.tensors.emplace(item->first.substr(kEntryPrefix.size()), std::move(item->second));
    item = sample.tensors.erase(item);
  }
  return entry;
}

/// How far an entry may lie from what is computed anew, relative to the largest value: rounding of another thread
/// count, and what its form of storage rounds off.
double tolerance(CacheStorage storage, at::ScalarType dtype) {
  if (storage == CacheStorage::int8) return 1.0 / 100;
  if (storage == CacheStorage::bf16 || dtype == at::kBFloat16 || dtype == at::kHalf) return 1.0 / 64;
  return 1e-4;
}

}  // namespace

PrefixSource::PrefixSource(std::shared_ptr<Policy> policy, const FreezePlan& plan, const PrefixOptions& options,
                           Precision precision, at::Device device, std::vector<std::string> cameras,
                           const std::string& dataset_digest)
    : policy_(std::move(policy)),
      options_(options),
      device_(device),
      cameras_(std::move(cameras)),
      cut_(cut_of(*policy_, plan, options)),
      has_text_(depends_on_text(policy_->layout(), cut_.stage)),
      chunk_(chunk_of(options, policy_->layout(), cut_, device)),
      released_(policy_) {
  released_.release(idle_parameters(policy_->layout(), 0));
  if (options.cache == CacheCut::none) return;
  const CacheIdentity identity = prefix_identity(*policy_, plan, cut_, precision, device, dataset_digest);
  cache_ = options.shared ? options.shared->open(identity, options.store)
                          : std::make_shared<PrefixCache>(identity, options.store);
}

/// A camera's pictures, or what a dataset says about them ("<camera>_is_pad").
bool PrefixSource::is_image(const std::string& key) const {
  return std::any_of(cameras_.begin(), cameras_.end(),
                     [&key](const std::string& camera) { return key == camera || key.starts_with(camera + "_"); });
}

bool PrefixSource::has_images(const Sample& sample) const {
  return std::any_of(sample.tensors.begin(), sample.tensors.end(),
                     [this](const auto& item) { return is_image(item.first); });
}

Sample PrefixSource::without_images(Sample sample) const {
  std::erase_if(sample.tensors, [this](const auto& item) { return is_image(item.first); });
  return sample;
}

CacheKey PrefixSource::key_of(const Sample& sample) const {
  return {.frame = sample.index, .text = has_text_ ? sample.task : std::string()};
}

/// Every n-th entry found, evenly for any share. Which ones changes from run to run and changes nothing else.
bool PrefixSource::is_checked() {
  if (options_.check <= 0.0) return false;
  const auto visit = static_cast<double>(visits_++);
  return std::floor((visit + 1.0) * options_.check) > std::floor(visit * options_.check);
}

Sample PrefixSource::read(const LeRobotDataset& dataset, std::int64_t position) {
  if (!cache_) return dataset.sample(position);
  Sample sample = dataset.sample_without_images(position);
  std::optional<CacheEntry> entry = cache_->find(key_of(sample));
  if (!entry || is_checked()) sample = dataset.sample(position);
  if (!entry) return sample;
  for (auto& [key, tensor] : entry->tensors) sample.tensors.emplace(kEntryPrefix + key, std::move(tensor));
  return sample;
}

Sample PrefixSource::read_missing(const LeRobotDataset& dataset, std::int64_t position) {
  Sample sample = dataset.sample_without_images(position);
  return cache_->contains(key_of(sample)) ? sample : dataset.sample(position);
}

PreparedBatch PrefixSource::gather(std::vector<Sample> samples, const ProcessorPipeline& preprocess) const {
  PreparedBatch prepared;
  std::vector<Sample> chunk;
  const auto end_chunk = [&] {
    if (!chunk.empty()) prepared.images.push_back(preprocess(collate(chunk)));
    chunk.clear();
  };
  for (std::size_t slot = 0; by_sample() && slot < samples.size(); ++slot) {
    Sample& sample = samples[slot];
    prepared.entries.push_back(take_entry(sample));
    prepared.keys.push_back(key_of(sample));
    if (!has_images(sample)) continue;
    prepared.missing.push_back(slot);
    chunk.push_back(sample);
    sample = without_images(std::move(sample));
    if (static_cast<std::int64_t>(chunk.size()) == chunk_) end_chunk();
  }
  end_chunk();
  prepared.raw = collate(samples);
  prepared.batch = preprocess(prepared.raw);
  return prepared;
}

void PrefixSource::compute_missing(PreparedBatch& prepared) {
  if (!prepared.images.empty()) restore_weights();
  auto slot = prepared.missing.begin();
  for (Batch& images : prepared.images) {
    PrefixState state = policy_->begin(to_device(std::move(images), device_));
    run_frozen_stages(policy_->line(), 0, cut_.stage, state);
    std::map<std::string, at::Tensor> live;
    for (const std::string& key : cut_.keys) live.emplace(key, state.at(key));
    for (CacheEntry& computed : split(live)) {
      CacheEntry& entry = prepared.entries[*slot];
      const CacheKey& key = prepared.keys[*slot];
      ++slot;
      if (!entry.tensors.empty()) check(key, entry, computed);
      if (cache_) cache_->store(key, computed);
      if (entry.tensors.empty()) entry = std::move(computed);
    }
  }
  prepared.images.clear();
}

void PrefixSource::check(const CacheKey& key, const CacheEntry& found, const CacheEntry& computed) const {
  for (const auto& [name, tensor] : computed.tensors) {
    const double bound = tolerance(options_.store.storage, tensor.scalar_type());
    const Comparison comparison = compare_tensors(found.tensors.at(name), tensor, {.relative_to_max = bound});
    if (comparison.equal) continue;
    throw CheckFailed(Problem{.where = fmt::format("cached prefix of frame {}, '{}'", key.frame, name),
                              .expected = "what the frozen stages compute",
                              .found = comparison.message,
                              .fix = "Delete the cache folder and report this: an entry must never go stale."});
  }
}

PrefixState PrefixSource::state_before(PreparedBatch& prepared, std::size_t to) {
  prepared.batch = to_device(std::move(prepared.batch), device_);
  if (!by_sample()) {
    PrefixState state = policy_->begin(prepared.batch);
    run_frozen_stages(policy_->line(), 0, to, state);
    return state;
  }
  compute_missing(prepared);
  PrefixState state = policy_->begin_without_images(prepared.batch);
  for (auto& [key, tensor] : assemble(prepared.entries)) state.set(key, tensor.to(device_));
  prepared.entries.clear();
  run_frozen_stages(policy_->line(), cut_.stage, to, state);
  return state;
}

void PrefixSource::release_weights_when_filled(const std::vector<const LeRobotDataset*>& datasets) {
  if (!cache_ || !holds_all_weights_) return;
  for (const LeRobotDataset* dataset : datasets) {
    for (std::int64_t position = 0; position < dataset->size(); ++position) {
      if (!cache_->contains(key_of(dataset->sample_without_images(position)))) return;
    }
  }
  released_.release(idle_parameters(policy_->layout(), cut_.stage));
  holds_all_weights_ = false;
}

void PrefixSource::restore_weights() {
  if (holds_all_weights_) return;
  released_.restore(parameters_before(policy_->layout(), cut_.stage));
  holds_all_weights_ = true;
}

}  // namespace thaw
