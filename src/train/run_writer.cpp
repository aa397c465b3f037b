#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>

#include "resume_impl.h"
#include "run_writer_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/log.h"
#include "thaw/core/sha256.h"
#include "thaw/train/version.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

std::string base_file_digest(const Policy* policy) {
  if (policy == nullptr || policy->source().empty()) return {};
  const fs::path file = policy->source() / "model.safetensors";
  return fs::exists(file) ? sha256_file(file) : std::string();
}

void require_frozen_unchanged(const TrainingState& state) {
  if (state.frozen_moved.empty()) return;
  throw CheckFailed(Problem{.where = fmt::format("{}", fmt::join(state.frozen_moved, ", ")),
                            .expected = "the content they had at the start: they are frozen",
                            .found = "another",
                            .fix = "Nothing was saved. Something other than the optimizer writes to them."});
}

std::uint64_t folder_bytes(const fs::path& folder) {
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder)) bytes += entry.file_size();
  return bytes;
}

}  // namespace

RunWriter::RunWriter(std::shared_ptr<RunFolder> folder, const TrainOptions& options, const FreezePlan& plan,
                     Engine& engine, std::shared_ptr<Policy> policy)
    : folder_(std::move(folder)),
      options_(options),
      plan_(plan),
      engine_(engine),
      policy_(std::move(policy)),
      base_file_sha256_(base_file_digest(policy_.get())) {}

bool RunWriter::resume(Precision precision) {
  if (!fs::exists(folder_->plan())) return false;
  require_same_plan(plan_, *folder_);
  begun_ = true;
  const std::optional<Checkpoint> checkpoint = newest_checkpoint(folder_->checkpoints());
  if (!checkpoint) return false;
  if (policy_) require_same_adapters(checkpoint->head.info.adapters, policy_->layout().adapters);
  warn_of_changed_options(checkpoint->state, options_, precision);
  engine_.restore(*checkpoint);
  if (policy_) apply_head_processing(*policy_, checkpoint->head);
  set_aside_newer(folder_->checkpoints(), checkpoint->state.step);
  saved_step_ = checkpoint->state.step;
  log_info(fmt::format("resuming {} at step {}", folder_->root().string(), checkpoint->state.step));
  return true;
}

void RunWriter::write_beginning() {
  if (begun_ || !folder_) return;
  if (!options_.config_text.empty()) write_text_atomic(folder_->config(), options_.config_text);
  write_text_atomic(folder_->plan(), plan_.to_json().dump(2) + "\n");
  begun_ = true;
}

SaveReport RunWriter::save() {
  if (!folder_) {
    throw UsageError(Problem{.where = "TrainOptions.output", .expected = "a run folder to save into", .found = "none"});
  }
  const auto begin = std::chrono::steady_clock::now();
  Checkpoint checkpoint = engine_.capture();
  require_frozen_unchanged(checkpoint.state);
  checkpoint.head = head(std::move(checkpoint.head.tensors));
  write_beginning();
  const fs::path written = write_checkpoint(folder_->checkpoints(), checkpoint);
  write_heads(checkpoint.head);
  rotate_checkpoints(folder_->checkpoints(), options_.keep_last);
  saved_step_ = checkpoint.state.step;
  return {.step = checkpoint.state.step,
          .folder = written,
          .bytes = folder_bytes(written),
          .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()};
}

std::optional<SaveReport> RunWriter::try_save() {
  try {
    const SaveReport report = save();
    failed_saves_ = 0;
    return report;
  } catch (const IoError& error) {
    note_failed_save(error.what());
  } catch (const fs::filesystem_error& error) {
    note_failed_save(error.what());
  }
  return std::nullopt;
}

void RunWriter::note_failed_save(const std::string& reason) {
  constexpr int kMostFailures = 3;
  ++failed_saves_;
  log_warning(fmt::format("step {}: could not save ({} in a row): {}", engine_.steps_done(), failed_saves_, reason));
  if (failed_saves_ < kMostFailures) return;
  throw IoError(Problem{.where = folder_->root().string(),
                        .expected = "a checkpoint at one of three intervals",
                        .found = "three failed saves in a row (see the warnings above)",
                        .fix = "Earlier checkpoints are intact: make room, then resume."});
}

void RunWriter::write_heads(const Head& trained) const {
  publish_head(folder_->last_head(), trained);
  if (engine_.has_ema()) publish_head(folder_->ema_head(), head(engine_.averages()));
}

Head RunWriter::head(std::map<std::string, at::Tensor> tensors) const {
  Head head{.tensors = std::move(tensors)};
  head.info = {.policy_type = policy_ ? policy_->type() : plan_.model_type,
               .base_digest = base_digest(plan_),
               .base_file_sha256 = base_file_sha256_,
               .plan_digest = plan_.digest(),
               .freeze_rules = plan_.rules,
               .step = engine_.steps_done(),
               .thaw_version = std::string(kThawVersion)};
  if (!policy_) return head;
  head.info.adapters = policy_->layout().adapters;
  head.info.adapter_seed = options_.seed;
  head.info.rename_map = policy_->preprocessor().rename_map();
  head.statistics = policy_->preprocessor().statistics();
  return head;
}

void publish_head(const fs::path& file, const Head& head) {
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  if (error) {
    throw IoError(
        Problem{.where = file.parent_path().string(), .expected = "a folder to write into", .found = error.message()});
  }
  write_head(file, head);
}

}  // namespace thaw
