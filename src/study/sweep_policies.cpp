// Several bases under one sweep: each is a subject of its own, and one at a time is in memory.
#include <algorithm>
#include <utility>

#include "sweep_setting_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/sha256.h"
#include "thaw/study/sweep_subject.h"

namespace thaw {
namespace {

class PoliciesSubject final : public SweepSubject {
 public:
  PoliciesSubject(std::vector<SweepBaseSource> bases, const LeRobotDataset& dataset, TrainOptions options)
      : bases_(std::move(bases)), dataset_(dataset.with(dataset.options())), options_(with_device(std::move(options))) {
    if (bases_.empty()) {
      throw UsageError(Problem{.where = "sweep", .expected = "at least one base to train", .found = "none"});
    }
    setting_ = subject_of(bases_.front()).setting();
    learning_rate_ = subject_of(bases_.front()).learning_rate();
  }

  [[nodiscard]] std::vector<SweepFreeze> freezes(const SweepGrid& grid) override {
    std::vector<SweepFreeze> all;
    for (const SweepBaseSource& base : bases_) {
      SweepSubject& subject = subject_of(base);
      const std::string setting = sha256_hex(subject.setting().dump());
      for (SweepFreeze& freeze : subject.freezes(grid)) {
        freeze.pruning = base.pruning;
        freeze.setting = setting;
        all.push_back(std::move(freeze));
      }
    }
    return all;
  }
  [[nodiscard]] Json setting() const override { return setting_; }
  [[nodiscard]] double learning_rate() const override { return learning_rate_; }
  [[nodiscard]] std::int64_t steps() const override { return options_.steps; }

  void prepare(std::span<const SweepFreeze> freezes) override {
    freezes_.assign(freezes.begin(), freezes.end());
    present_ = nullptr;  // what is loaded next is told of them
    subject_.reset();
  }

  std::optional<SweepResult> train(const SweepPoint& point, const SweepFreeze& freeze,
                                   const std::filesystem::path& head_folder, const SweepWatcher& watcher) override {
    return subject_of(base_of(freeze)).train(point, freeze, head_folder, watcher);
  }

 private:
  [[nodiscard]] const SweepBaseSource& base_of(const SweepFreeze& freeze) const {
    const auto found = std::find_if(bases_.begin(), bases_.end(),
                                    [&freeze](const SweepBaseSource& base) { return base.pruning == freeze.pruning; });
    if (found != bases_.end()) return *found;
    throw MismatchError(Problem{.where = "'" + configuration_name(freeze.label, freeze.pruning) + "'",
                                .expected = "a base of the sweep",
                                .found = "none without these blocks"});
  }

  /// The one before makes room first, with its prefix cache.
  SweepSubject& subject_of(const SweepBaseSource& base) {
    if (present_ == &base) return *subject_;
    present_ = nullptr;
    subject_.reset();
    subject_ = sweep_policy(base.load(), dataset_, options_);
    subject_->prepare(freezes_of(base));
    present_ = &base;
    return *subject_;
  }

  [[nodiscard]] std::vector<SweepFreeze> freezes_of(const SweepBaseSource& base) const {
    std::vector<SweepFreeze> own;
    std::copy_if(freezes_.begin(), freezes_.end(), std::back_inserter(own),
                 [&base](const SweepFreeze& freeze) { return freeze.pruning == base.pruning; });
    return own;
  }

  std::vector<SweepBaseSource> bases_;
  LeRobotDataset dataset_;
  TrainOptions options_;
  Json setting_;
  double learning_rate_ = 0.0;
  std::vector<SweepFreeze> freezes_;
  const SweepBaseSource* present_ = nullptr;  ///< of bases_, that subject_ trains
  std::unique_ptr<SweepSubject> subject_;
};

}  // namespace

std::unique_ptr<SweepSubject> sweep_policies(std::vector<SweepBaseSource> bases, const LeRobotDataset& dataset,
                                             TrainOptions options) {
  return std::make_unique<PoliciesSubject>(std::move(bases), dataset, std::move(options));
}

}  // namespace thaw
