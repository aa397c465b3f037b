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
const std::string kView = "prefix view";     // of a sample that the cache may keep, on its way likewise
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

std::optional<std::int64_t> take_view(Sample& sample) {
  const auto found = sample.tensors.find(kView);
  if (found == sample.tensors.end()) return std::nullopt;
  const std::int64_t view = found->second.item<std::int64_t>();
  sample.tensors.erase(found);
  return view;
}

/// How far an entry may lie from what is computed anew, relative to the largest value: rounding of another thread
/// count, and what its form of storage rounds off.
double tolerance(CacheStorage storage, at::ScalarType dtype) {
  if (storage == CacheStorage::int8) return 1.0 / 100;
  if (storage == CacheStorage::bf16 || dtype == at::kBFloat16 || dtype == at::kHalf) return 1.0 / 64;
  return 1e-4;
}

/// In page-locked memory where `device` copies from that while it computes and nobody waits; as it is for a CPU.
at::Tensor pinned(const at::Tensor& tensor, at::Device device) {
  return device.is_cuda() && tensor.is_cpu() ? tensor.pin_memory() : tensor;
}

Batch pinned(Batch batch, at::Device device) {
  for (auto& [key, tensor] : batch.tensors) tensor = pinned(tensor, device);
  return batch;
}

/// What `keys` hold of each sample.
std::vector<CacheEntry> entries_of(const PrefixState& state, const std::vector<std::string>& keys) {
  std::map<std::string, at::Tensor> tensors;
  for (const std::string& key : keys) tensors.emplace(key, state.at(key));
  return split(tensors);
}

}  // namespace

PrefixSource::PrefixSource(std::shared_ptr<Policy> policy, const FreezePlan& plan, const PrefixOptions& options,
                           Precision precision, at::Device device, std::vector<std::string> cameras,
                           const std::string& dataset_digest, std::optional<ImageTransforms> transforms)
    : policy_(std::move(policy)),
      options_(options),
      device_(device),
      cameras_(std::move(cameras)),
      transforms_(std::move(transforms)),
      cut_(cut_of(*policy_, plan, options)),
      has_text_(depends_on_text(policy_->layout(), cut_.stage)),
      chunk_(chunk_of(options, policy_->layout(), cut_, device)),
      advances_in_chunks_(options.batch_size > 0 && cut_.stage > 0 &&
                          cut_.stage < std::min(plan.boundary, policy_->first_draw_stage())),
      released_(policy_, options.weights_return) {
  released_.release(idle_parameters(policy_->layout(), 0));
  if (options.cache == CacheCut::none) return;
  const CacheIdentity identity =
      prefix_identity(*policy_, plan, cut_, precision, device, dataset_digest, transforms_ ? &*transforms_ : nullptr);
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

/// Pictures as recorded are view 0, so that they are found whatever the number of views.
CacheKey PrefixSource::key_of(const Sample& sample, View view) const {
  return {.frame = sample.index, .text = has_text_ ? sample.task : std::string(), .view = view ? *view + 1 : 0};
}

/// The same before anything of the sample is read.
CacheKey PrefixSource::key_at(const LeRobotDataset& dataset, std::int64_t position, View view) const {
  return key_of({.task = dataset.task_at(position), .index = dataset.frame_at(position)}, view);
}

std::int64_t PrefixSource::views(const FrameSet& frames) const {
  return transforms_ && frames.augmented ? std::max<std::int64_t>(transforms_->options().views, 1) : 1;
}

PrefixSource::View PrefixSource::view_to_fill(const FrameSet& frames, std::int64_t number) const {
  return transforms_ && frames.augmented ? View(number) : std::nullopt;
}

/// Every n-th entry found, evenly for any share. Which ones changes from run to run and changes nothing else.
bool PrefixSource::is_checked() {
  if (options_.check <= 0.0) return false;
  const auto visit = static_cast<double>(visits_++);
  return std::floor((visit + 1.0) * options_.check) > std::floor(visit * options_.check);
}

Sample PrefixSource::read_sample(const LeRobotDataset& dataset, std::int64_t position, View view, Images images) const {
  Sample sample = images == Images::read ? dataset.sample(position) : dataset.sample_without_images(position);
  if (view && images == Images::read) transforms_->apply(sample, *view);
  if (view && cache_) sample.tensors.emplace(kView, at::scalar_tensor(*view, at::kLong));
  return sample;
}

Sample PrefixSource::read_view(const LeRobotDataset& dataset, std::int64_t position, View view) {
  if (!cache_) return read_sample(dataset, position, view, Images::read);
  std::optional<CacheEntry> entry = cache_->find(key_at(dataset, position, view));
  const bool needs_images = !entry || is_checked();
  Sample sample = read_sample(dataset, position, view, needs_images ? Images::read : Images::leave_out);
  if (!entry) return sample;
  for (auto& [key, tensor] : entry->tensors) sample.tensors.emplace(kEntryPrefix + key, std::move(tensor));
  return sample;
}

Sample PrefixSource::read(const LeRobotDataset& dataset, std::int64_t position) {
  return read_view(dataset, position, std::nullopt);
}

Sample PrefixSource::read_augmented(const LeRobotDataset& dataset, const Visit& visit) {
  if (!transforms_) return read(dataset, visit.position);
  const FrameVisit frame{.frame = dataset.frame_at(visit.position), .epoch = visit.epoch};
  return read_view(dataset, visit.position, transforms_->view_at(frame));
}

Sample PrefixSource::read_missing(const FrameSet& frames, const Visit& visit) const {
  const View view = view_to_fill(frames, visit.epoch);
  const bool is_there = cache_->contains(key_at(*frames.dataset, visit.position, view));
  return read_sample(*frames.dataset, visit.position, view, is_there ? Images::leave_out : Images::read);
}

PreparedBatch PrefixSource::gather(std::vector<Sample> samples, const ProcessorPipeline& preprocess) const {
  PreparedBatch prepared;
  std::vector<Sample> chunk;
  const auto end_chunk = [&] {
    if (!chunk.empty()) prepared.images.push_back(pinned(preprocess(collate(chunk)), device_));
    chunk.clear();
  };
  for (std::size_t slot = 0; by_sample() && slot < samples.size(); ++slot) {
    Sample& sample = samples[slot];
    prepared.entries.push_back(take_entry(sample));
    prepared.keys.push_back(key_of(sample, take_view(sample)));
    if (!has_images(sample)) continue;
    prepared.missing.push_back(slot);
    chunk.push_back(sample);
    sample = without_images(std::move(sample));
    if (static_cast<std::int64_t>(chunk.size()) == chunk_) end_chunk();
  }
  end_chunk();
  for (std::size_t first = 0; advances_in_chunks_ && first < samples.size();
       first += static_cast<std::size_t>(chunk_)) {
    const std::size_t end = std::min(first + static_cast<std::size_t>(chunk_), samples.size());
    const std::vector<Sample> part(samples.begin() + static_cast<std::ptrdiff_t>(first),
                                   samples.begin() + static_cast<std::ptrdiff_t>(end));
    prepared.parts.push_back(pinned(preprocess(collate(part)), device_));
  }
  prepared.raw = collate(samples);
  prepared.batch = pinned(preprocess(prepared.raw), device_);
  return prepared;
}

void PrefixSource::compute_missing(PreparedBatch& prepared) {
  if (!prepared.images.empty()) restore_weights();
  auto slot = prepared.missing.begin();
  for (Batch& images : prepared.images) {
    PrefixState state = policy_->begin(to_device(std::move(images), device_));
    run_frozen_stages(policy_->line(), 0, cut_.stage, state);
    for (CacheEntry& computed : entries_of(state, cut_.keys)) {
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
  const bool advanced = advances_in_chunks_ && cut_.stage < to;
  if (advanced) advance(prepared, to);
  PrefixState state = policy_->begin_without_images(prepared.batch);
  set_entries(prepared.entries, state);
  prepared.entries.clear();
  if (!advanced) run_frozen_stages(policy_->line(), cut_.stage, to, state);
  return state;
}

void PrefixSource::set_entries(std::span<const CacheEntry> entries, PrefixState& state) const {
  for (auto& [key, tensor] : assemble(entries)) {
    state.set(key, pinned(tensor, device_).to(device_, /*non_blocking=*/true));
  }
}

void PrefixSource::advance(PreparedBatch& prepared, std::size_t to) const {
  const std::vector<std::string> live = live_keys(policy_->layout().line, to, policy_->layout().image_inputs);
  std::vector<CacheEntry> advanced;
  std::span<const CacheEntry> rest = prepared.entries;
  for (Batch& part : prepared.parts) {
    const std::size_t count = std::min(static_cast<std::size_t>(chunk_), rest.size());
    PrefixState state = policy_->begin_without_images(to_device(std::move(part), device_));
    set_entries(rest.first(count), state);
    run_frozen_stages(policy_->line(), cut_.stage, to, state);
    for (CacheEntry& entry : entries_of(state, live)) advanced.push_back(std::move(entry));
    rest = rest.subspan(count);
  }
  prepared.entries = std::move(advanced);
  prepared.parts.clear();
}

bool PrefixSource::has_all(const FrameSet& frames) const {
  for (std::int64_t number = 0; number < views(frames); ++number) {
    const View view = view_to_fill(frames, number);
    for (std::int64_t position = 0; position < frames.dataset->size(); ++position) {
      if (!cache_->contains(key_at(*frames.dataset, position, view))) return false;
    }
  }
  return true;
}

void PrefixSource::release_weights_when_filled(const std::vector<FrameSet>& sets) {
  if (!cache_ || !holds_all_weights_) return;
  std::int64_t needed = 0;
  for (const FrameSet& frames : sets) needed += views(frames) * frames.dataset->size();
  if (cache_->statistics().entries < needed) return;  // spares the walk over all frames while it must fail
  const bool filled = std::all_of(sets.begin(), sets.end(), [this](const FrameSet& frames) { return has_all(frames); });
  if (!filled) return;
  released_.release(idle_parameters(policy_->layout(), cut_.stage));
  holds_all_weights_ = false;
}

void PrefixSource::restore_weights() {
  if (holds_all_weights_) return;
  released_.restore(parameters_before(policy_->layout(), cut_.stage));
  holds_all_weights_ = true;
}

}  // namespace thaw
