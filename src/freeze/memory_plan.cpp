#include "thaw/freeze/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "thaw/core/error.h"

namespace thaw {
namespace {

constexpr double kFloatBytes = sizeof(float);

double element_bytes(at::ScalarType dtype) { return static_cast<double>(c10::elementSize(dtype)); }

bool is_short(at::ScalarType compute) { return compute == at::kBFloat16 || compute == at::kHalf; }

/// Sizes of keys by name.
class Keys {
 public:
  explicit Keys(const ModelLayout& layout, at::ScalarType compute) : compute_(compute) {
    for (const KeyInfo& key : layout.keys) by_name_.emplace(key.name, &key);
  }

  [[nodiscard]] const KeyInfo& at(const std::string& name) const {
    if (const auto found = by_name_.find(name); found != by_name_.end()) return *found->second;
    throw UsageError(Problem{.where = fmt::format("memory of key '{}'", name),
                             .expected = "its size in the layout",
                             .found = "none",
                             .fix = "A model says the sizes of its keys in ModelLayout::keys."});
  }

  /// Of one sample in the compute dtype.
  [[nodiscard]] double bytes(const std::string& name, std::int64_t draws) const {
    const KeyInfo& key = at(name);
    const double each = key.dtype == at::kFloat ? element_bytes(compute_) : element_bytes(key.dtype);
    return each * static_cast<double>(key.elements) * (key.per_draw ? static_cast<double>(draws) : 1.0);
  }

 private:
  at::ScalarType compute_;
  std::unordered_map<std::string, const KeyInfo*> by_name_;
};

/// Walks a step through time and notes when most is held.
class Walk {
 public:
  Walk(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut, const StepShape& shape,
       const MemoryOptions& options)
      : layout_(layout),
        plan_(plan),
        cut_(cut),
        shape_(shape),
        options_(options),
        keys_(layout, options.compute),
        batch_(static_cast<double>(shape.batch_size)),
        first_grad_(std::max(plan.boundary, cut.stage)),
        chunked_(std::min(plan.boundary, first_draw_stage(layout))) {
    for (const PlannedParameter& parameter : plan.parameters) parameters_.emplace(parameter.name, &parameter);
    for (const ParameterInfo& parameter : layout.parameters) {
      if (is_multiplied(parameter)) multiplied_.insert(parameter.name);
    }
    memory_.stages.resize(layout.line.size());
    for (std::size_t i = 0; i < layout.line.size(); ++i) memory_.stages[i].name = layout.line[i].name;
  }

  MemoryPlan run() {
    measure_weights();
    measure_inputs();
    run_prefix();
    run_forward();
    run_backward();
    note(MemoryPhase::update, "", memory_.resident() + memory_.read_ahead + memory_.cache + memory_.gradients);
    return std::move(memory_);
  }

  double activations() {
    run_prefix();
    run_forward();
    return memory_.activations;
  }

 private:
  void note(MemoryPhase phase, const std::string& stage, double held) {
    if (held + memory_.process <= memory_.peak) return;
    memory_.peak = held + memory_.process;
    memory_.peak_phase = phase;
    memory_.peak_stage = stage;
  }

  /// Rows of an embedding are looked up as they are.
  [[nodiscard]] static bool is_multiplied(const ParameterInfo& parameter) {
    const std::vector<std::string>& groups = parameter.groups;
    return parameter.shape.size() >= 2 && std::find(groups.begin(), groups.end(), "embeddings") == groups.end();
  }

  /// A cost may be for an adapter that this layout does not have.
  [[nodiscard]] bool trains(const std::string& name) const {
    const auto found = parameters_.find(name);
    return found != parameters_.end() && found->second->parameter_class == ParameterClass::trainable;
  }

  /// What no stage uses that is left to run is given up after loading.
  void measure_weights() {
    for (std::size_t i = cut_.stage; i < layout_.line.size(); ++i) {
      used_behind_cut_.insert(layout_.line[i].parameters.begin(), layout_.line[i].parameters.end());
    }
    memory_.process = options_.process_bytes;
    double loaded = 0;
    for (const PlannedParameter& parameter : plan_.parameters) {
      if (!parameter.same_as.empty()) continue;
      const auto elements = static_cast<double>(parameter.numel());
      loaded += static_cast<double>(parameter.bytes());
      if (parameter.parameter_class == ParameterClass::trainable) {
        memory_.trainable_weights += kFloatBytes * elements;
        continue;
      }
      const double bytes = elements * element_bytes(held_as(parameter));
      (used_behind_cut_.contains(parameter.name) ? memory_.frozen_weights : memory_.released_weights) += bytes;
    }
    memory_.gradients = memory_.trainable_weights;
    memory_.moments = 2.0 * memory_.trainable_weights;
    if (options_.ema) memory_.ema = memory_.trainable_weights;
    memory_.cache = options_.cache_bytes;
    note(MemoryPhase::loading, "", loaded);
    cast_weights(loaded);
    // It comes back beside the moments and the cache.
    if (options_.weights_return) {
      note(MemoryPhase::loading, "", memory_.resident() + memory_.released_weights + memory_.cache);
    }
  }

  [[nodiscard]] at::ScalarType held_as(const PlannedParameter& parameter) const {
    const bool is_narrowed = parameter.parameter_class != ParameterClass::trainable && parameter.shape.size() >= 2;
    return is_narrowed ? options_.compute : at::kFloat;
  }

  /// From the types of the file to those of the run, the smallest first; of each both are there for a moment.
  void cast_weights(double held) {
    std::vector<const PlannedParameter*> order;
    for (const PlannedParameter& parameter : plan_.parameters) {
      if (parameter.same_as.empty() && parameter.dtype != held_as(parameter)) order.push_back(&parameter);
    }
    std::stable_sort(order.begin(), order.end(),
                     [](const PlannedParameter* a, const PlannedParameter* b) { return a->numel() < b->numel(); });
    for (const PlannedParameter* parameter : order) {
      held += element_bytes(held_as(*parameter)) * static_cast<double>(parameter->numel());
      note(MemoryPhase::loading, "", held);
      held -= static_cast<double>(parameter->bytes());
    }
  }

  /// Keys that no stage writes come from outside. Those of the images are made for the samples that go through the
  /// frozen prefix, and no longer than that.
  void measure_inputs() {
    std::set<std::string> written;
    std::set<std::string> from_outside;
    for (std::size_t i = 0; i < layout_.line.size(); ++i) {
      for (const std::string& key : layout_.line[i].reads) {
        if (i >= cut_.stage && !written.contains(key)) from_outside.insert(key);
      }
      written.insert(layout_.line[i].writes.begin(), layout_.line[i].writes.end());
    }
    const auto is_image = [this](const std::string& key) {
      return std::find(layout_.image_inputs.begin(), layout_.image_inputs.end(), key) != layout_.image_inputs.end();
    };
    const double ahead = batch_ * static_cast<double>(options_.batches_ahead);
    for (const std::string& key : from_outside) {
      if (is_image(key)) memory_.read_ahead += ahead * keys_.at(key).bytes();
      const bool by_chunk = is_image(key) && in_chunks(0);
      (by_chunk ? images_of_chunk_ : memory_.inputs) +=
          samples_at(by_chunk ? 0 : first_grad_) * keys_.bytes(key, shape_.draws);
    }
    // Entries of the batch that is used have become its prefix.
    for (const std::string& key : cut_.keys) {
      memory_.read_ahead += batch_ * static_cast<double>(options_.entries_ahead) * keys_.bytes(key, shape_.draws);
    }
    held_ = memory_.resident() + memory_.read_ahead + memory_.inputs + options_.cache_bytes;
    // Micro-batches after the first find the gradients of those before them.
    if (shape_.accumulation > 1) held_ += memory_.gradients;
  }

  /// Without a cache the frozen stages that belong to no draw take some samples at a time.
  [[nodiscard]] bool in_chunks(std::size_t stage) const { return cut_.stage == 0 && stage < chunked_; }
  [[nodiscard]] double samples_at(std::size_t stage) const {
    return in_chunks(stage) ? std::min(batch_, static_cast<double>(shape_.prefix_batch)) : batch_;
  }

  /// Keys that some stage at or after `from` reads before it is written again.
  [[nodiscard]] std::set<std::string> read_from(std::size_t from) const {
    std::set<std::string> read;
    std::set<std::string> written;
    for (std::size_t i = from; i < layout_.line.size(); ++i) {
      for (const std::string& key : layout_.line[i].reads) {
        if (!written.contains(key)) read.insert(key);
      }
      written.insert(layout_.line[i].writes.begin(), layout_.line[i].writes.end());
    }
    return read;
  }

  /// The frozen stages let go of every key after its last reader. What chunks leave at the boundary is put together for
  /// the whole batch at the end.
  void run_prefix() {
    std::set<std::string> made(cut_.keys.begin(), cut_.keys.end());
    const std::set<std::string> at_boundary = read_from(first_grad_);
    const auto kept = [&](const std::set<std::string>& names) {
      double bytes = 0;
      for (const std::string& key : names) bytes += made.contains(key) ? keys_.bytes(key, shape_.draws) : 0.0;
      return bytes;
    };
    for (std::size_t i = cut_.stage; i < first_grad_; ++i) {
      const StageInfo& stage = layout_.line[i];
      const double samples = samples_at(i);
      std::set<std::string> alive = read_from(i);
      std::erase_if(alive, [&](const std::string& key) { return !made.contains(key); });
      made.insert(stage.writes.begin(), stage.writes.end());
      double written = 0;
      for (const std::string& key : stage.writes) written += keys_.bytes(key, shape_.draws);
      StageMemory& memory = memory_.stages[i];
      memory.keys = samples * written;
      memory.workspace = samples * scale() * stage.bytes.workspace.at(shape_.draws);
      prefix_workspace_ = std::max(prefix_workspace_, memory.workspace);
      memory_.workspace = prefix_workspace_;
      const double finished = (batch_ - samples) * kept(at_boundary);
      const double images = in_chunks(i) ? images_of_chunk_ : 0.0;
      note(MemoryPhase::frozen_prefix, stage.name,
           held_ + images + finished + samples * kept(alive) + memory.keys + memory.workspace);
    }
    memory_.prefix = batch_ * kept(at_boundary);
    if (chunked_ > 0 || cut_.stage > 0) note(MemoryPhase::frozen_prefix, "", held_ + 2.0 * memory_.prefix);
    made_ = std::move(made);
  }

  [[nodiscard]] double scale() const { return is_short(options_.compute) ? 0.5 : 1.0; }

  [[nodiscard]] double saved_by(const StageInfo& stage) const {
    double bytes = stage.bytes.saved.at(shape_.draws);
    for (const SavedFor& saved : stage.bytes.saved_for) {
      const bool needed = std::any_of(saved.parameters.begin(), saved.parameters.end(),
                                      [this](const std::string& name) { return trains(name); });
      if (needed) bytes += saved.bytes.at(shape_.draws);
    }
    return batch_ * scale() * bytes;
  }

  /// Of a matrix that autocast copies into the compute type, when it trains: 0 for any other parameter.
  [[nodiscard]] double copy_bytes(const std::string& name) const {
    if (!is_short(options_.compute) || !trains(name) || !multiplied_.contains(name)) return 0.0;
    return element_bytes(options_.compute) * static_cast<double>(parameters_.at(name)->numel());
  }

  /// Copies that `stage` is the first to need. They live until backward has passed it.
  double new_copies(const StageInfo& stage) {
    double bytes = 0;
    for (const std::string& name : stage.parameters) {
      if (copied_.insert(name).second) bytes += copy_bytes(name);
    }
    return bytes;
  }

  /// What a stage wrote under the name of a key.
  struct Version {
    double bytes = 0;
    std::optional<std::size_t> first_walked_reader;  ///< of those that backward walks: the last that it comes to
  };

  /// Backward is the last to need it.
  void let_go_behind(const Version& version) {
    if (version.first_walked_reader) freed_behind_[*version.first_walked_reader] += version.bytes;
  }

  /// The state holds every key until the forward pass is over; a version that is replaced lives on when backward reads
  /// it.
  void run_forward() {
    std::map<std::string, Version> state;
    for (const std::string& key : read_from(first_grad_)) {
      if (made_.contains(key)) state[key] = {.bytes = batch_ * keys_.bytes(key, shape_.draws)};
    }
    double held = memory_.prefix;
    for (std::size_t i = first_grad_; i < layout_.line.size(); ++i) {
      const StageInfo& stage = layout_.line[i];
      StageMemory& memory = memory_.stages[i];
      memory.workspace = batch_ * scale() * stage.bytes.workspace.at(shape_.draws);
      if (plan_.line[i].backward_walks) {
        if (!shape_.checkpoint_activations) memory.saved = saved_by(stage);
        freed_behind_[i] += memory.saved;
        for (const std::string& key : stage.reads) {
          const auto read = state.find(key);
          if (read != state.end() && !read->second.first_walked_reader) read->second.first_walked_reader = i;
        }
      }
      double replaced = 0;
      for (const std::string& key : stage.writes) {
        const double size = batch_ * keys_.bytes(key, shape_.draws);
        memory.keys += size;
        if (const auto before = state.find(key); before != state.end()) {
          if (!before->second.first_walked_reader) replaced += before->second.bytes;
          let_go_behind(before->second);
        }
        state[key] = {.bytes = size};
      }
      memory_.copies += new_copies(stage);
      note(MemoryPhase::forward, stage.name,
           held_ + memory_.copies + held + memory.keys + std::max(memory.workspace, memory.saved));
      held += memory.keys + memory.saved - replaced;
      memory_.workspace = std::max(memory_.workspace, memory.workspace);
    }
    for (const auto& [key, version] : state) let_go_behind(version);
    memory_.activations = held;
  }

  /// Gradients come as activations go: what a stage kept, and the keys that no stage before it reads, are given back
  /// when backward has passed it, and their room is there for what follows (tensor/heap.h). Copies that autocast made
  /// live until backward is over, and so do gradients in the compute type that wait for those of another stage with the
  /// same weight.
  void run_backward() {
    double alive = 0;
    for (const auto& [stage, bytes] : freed_behind_) alive += bytes;
    double gradients = 0;
    double waiting = 0;
    std::set<std::string> waited;
    std::set<std::string> seen;
    for (std::size_t i = layout_.line.size(); i-- > first_grad_;) {
      if (!plan_.line[i].backward_walks) continue;
      const StageInfo& stage = layout_.line[i];
      for (const std::string& name : stage.parameters) {
        if (!trains(name)) continue;
        if (seen.insert(name).second) {
          gradients += gradient_bytes(name);
        } else if (waited.insert(name).second) {
          waiting += copy_bytes(name);
        }
      }
      const double again = shape_.checkpoint_activations ? saved_by(stage) : 0.0;
      const double found_before = shape_.accumulation > 1 ? 0.0 : gradients;
      note(MemoryPhase::backward, stage.name,
           held_ + alive + memory_.copies + found_before + waiting + memory_.stages[i].workspace + again);
      alive -= freed_behind_[i];
    }
  }

  [[nodiscard]] double gradient_bytes(const std::string& name) const {
    return kFloatBytes * static_cast<double>(parameters_.at(name)->numel());
  }

  const ModelLayout& layout_;
  const FreezePlan& plan_;
  const PrefixCut& cut_;
  const StepShape& shape_;
  const MemoryOptions& options_;
  Keys keys_;
  double batch_;
  std::size_t first_grad_;
  std::size_t chunked_;  ///< stages before it may go through by chunks
  std::unordered_map<std::string, const PlannedParameter*> parameters_;
  std::set<std::string> used_behind_cut_;
  std::set<std::string> multiplied_;
  std::set<std::string> copied_;
  std::set<std::string> made_;
  std::map<std::size_t, double> freed_behind_;  ///< bytes of what backward is done with when it has passed a stage
  double held_ = 0;
  double images_of_chunk_ = 0;
  double prefix_workspace_ = 0;
  MemoryPlan memory_;
};

}  // namespace

std::string_view memory_phase_name(MemoryPhase phase) {
  switch (phase) {
    case MemoryPhase::loading:
      return "loading";
    case MemoryPhase::frozen_prefix:
      return "frozen prefix";
    case MemoryPhase::forward:
      return "forward";
    case MemoryPhase::backward:
      return "backward";
    case MemoryPhase::update:
      return "update";
  }
  return "";
}

MemoryPlan plan_memory(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut, const StepShape& shape,
                       const MemoryOptions& options) {
  shape.validate();
  return Walk(layout, plan, cut, shape, options).run();
}

double activation_bytes(const ModelLayout& layout, const FreezePlan& plan, const StepShape& shape,
                        at::ScalarType compute) {
  shape.validate();
  const PrefixCut none;
  const MemoryOptions options{.compute = compute};
  return Walk(layout, plan, none, shape, options).activations();
}

double cache_bytes_per_sample(const ModelLayout& layout, const PrefixCut& cut, CacheStorage storage,
                              at::ScalarType compute) {
  const Keys keys(layout, compute);
  double bytes = 0;
  for (const std::string& name : cut.keys) {
    const KeyInfo& key = keys.at(name);
    const auto elements = static_cast<double>(key.elements);
    if (key.dtype != at::kFloat) {
      bytes += elements * element_bytes(key.dtype);
    } else if (storage == CacheStorage::exact) {
      bytes += elements * element_bytes(compute);
    } else if (storage == CacheStorage::bf16) {
      bytes += elements * element_bytes(at::kBFloat16);
    } else {
      bytes += elements + kFloatBytes * elements / static_cast<double>(std::max<std::int64_t>(1, key.width));
    }
  }
  return bytes;
}

Json MemoryPlan::to_json() const {
  Json json{{"peak_bytes", peak},
            {"peak_phase", memory_phase_name(peak_phase)},
            {"peak_stage", peak_stage},
            {"frozen_weights", frozen_weights},
            {"trainable_weights", trainable_weights},
            {"released_weights", released_weights},
            {"copies", copies},
            {"gradients", gradients},
            {"moments", moments},
            {"ema", ema},
            {"process", process},
            {"cache", cache},
            {"read_ahead", read_ahead},
            {"inputs", inputs},
            {"prefix", prefix},
            {"activations", activations},
            {"workspace", workspace},
            {"stages", Json::array()}};
  for (const StageMemory& stage : stages) {
    json["stages"].push_back(
        Json{{"name", stage.name}, {"keys", stage.keys}, {"saved", stage.saved}, {"workspace", stage.workspace}});
  }
  return json;
}

}  // namespace thaw
