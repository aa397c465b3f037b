#include "thaw/data/loader.h"

namespace thaw {

struct DataLoader::Impl {
  Impl(LeRobotDataset source, const LoaderOptions& options, std::function<Batch(Batch)> function)
      : dataset(std::move(source)),
        transform(std::move(function)),
        loader(
            dataset.size(), options, [this](const Visit& visit) { return dataset.sample(visit.position); },
            [this](std::vector<Sample> samples) { return std::any(batch_of(std::move(samples))); },
            [this](std::int64_t before, std::int64_t next) { return dataset.reads_on(before, next); }) {}

  [[nodiscard]] Batch batch_of(std::vector<Sample> samples) const {
    Batch batch = collate(samples);
    samples.clear();  // the pictures, before the transform makes more of them
    return transform ? transform(std::move(batch)) : batch;
  }

  LeRobotDataset dataset;
  std::function<Batch(Batch)> transform;
  OrderedLoader loader;  // last: its workers use everything above
};

DataLoader::DataLoader(LeRobotDataset dataset, LoaderOptions options, std::function<Batch(Batch)> transform)
    : impl_(std::make_unique<Impl>(std::move(dataset), options, std::move(transform))) {}

DataLoader::~DataLoader() = default;

Batch DataLoader::next() { return std::any_cast<Batch>(impl_->loader.next()); }

std::int64_t DataLoader::batches_per_epoch() const { return impl_->loader.batches_per_epoch(); }

double DataLoader::wait_seconds() const { return impl_->loader.wait_seconds(); }

}  // namespace thaw
