#include "thaw/data/ordered_loader.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/ParallelGuard.h>
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <numeric>
#include <span>
#include <thread>

#include "thaw/core/error.h"
#include "thaw/data/sampler.h"

namespace thaw {
namespace {

constexpr int kMostWorkers = 256;
constexpr int kMostPrefetch = 1024;

void check_range(const char* field, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return;
  throw UsageError(Problem{.where = std::string("loader ") + field,
                           .expected = fmt::format("{} to {}", low, high),
                           .found = std::to_string(value)});
}

/// Signals are the main thread's: workers started while this lives never see one.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

/// Slots of a batch in the order they are read: frames that follow each other in a file are decoded one after the
/// other. Positions rise with (file, frame), so sorting them does it.
std::vector<std::size_t> reading_order(const std::vector<std::int64_t>& positions) {
  std::vector<std::size_t> order(positions.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return positions[a] < positions[b]; });
  return order;
}

}  // namespace

void LoaderOptions::validate() const {
  check_range("batch_size", batch_size, 1, std::int64_t{1} << 20);
  check_range("first_batch", first_batch, 0, std::int64_t{1} << 53);
  check_range("workers", workers, 0, kMostWorkers);
  check_range("prefetch", prefetch, 1, kMostPrefetch);
}

struct OrderedLoader::Impl {
  /// One batch on its way. Fields are guarded by the loader's mutex, except the samples a worker is filling.
  struct Job {
    Job(std::vector<std::int64_t> wanted, std::int64_t of_epoch, const OrderedLoader::ReadsOn& reads_on)
        : positions(std::move(wanted)),
          epoch(of_epoch),
          order(reading_order(positions)),
          samples(positions.size()),
          errors(positions.size()),
          left(positions.size()) {
      for (std::size_t i = 1; i < order.size(); ++i) {
        if (!reads_on || !reads_on(positions[order[i - 1]], positions[order[i]])) run_ends.push_back(i);
      }
      run_ends.push_back(order.size());
    }

    /// The slots of the next run, in the order they are read.
    std::span<const std::size_t> take_run() {
      const std::size_t begin = run == 0 ? 0 : run_ends[run - 1];
      const std::size_t end = run_ends[run++];
      return std::span(order).subspan(begin, end - begin);
    }

    std::vector<std::int64_t> positions;
    std::int64_t epoch;
    std::vector<std::size_t> order;
    std::vector<std::size_t> run_ends;  // in `order`; a run is read by one worker
    std::vector<Sample> samples;
    std::vector<std::exception_ptr> errors;  // by slot
    std::size_t run = 0;                     // the first that nobody reads yet
    std::size_t left;
    bool done = false;
    std::any batch;
    std::exception_ptr error;
  };

  Impl(std::int64_t size, const LoaderOptions& wanted, Read reading, Gather gathering, ReadsOn reading_on)
      : options(wanted),
        read(std::move(reading)),
        gather(std::move(gathering)),
        reads_on(std::move(reading_on)),
        sampler({.size = size, .batch_size = options.batch_size, .shuffle = options.shuffle, .seed = options.seed}),
        next_number(options.first_batch) {}

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    work_waits.notify_all();
    workers.clear();  // joins
  }

  void start() {
    const SignalsBlocked blocked;
    for (int i = 0; i < options.workers; ++i) workers.emplace_back([this] { work(); });
  }

  // --- reading ---

  /// The next batch, nothing of it read yet. The order of the running epoch is kept.
  std::shared_ptr<Job> next_job() {
    const std::int64_t epoch = next_number / sampler.batches_per_epoch();
    if (epoch != order_epoch) {
      order = sampler.order(epoch);
      order_epoch = epoch;
    }
    return std::make_shared<Job>(sampler.positions(next_number++, order), epoch, reads_on);
  }

  void read_slot(Job& job, std::size_t slot) const {
    try {
      job.samples[slot] = read({.position = job.positions[slot], .epoch = job.epoch});
    } catch (...) {
      job.errors[slot] = std::current_exception();
    }
  }

  /// Gathers what was read; the error of the lowest slot wins, whichever came first.
  void finish(Job& job) const {
    const auto failed = std::find_if(job.errors.begin(), job.errors.end(), [](const auto& e) { return e != nullptr; });
    try {
      if (failed != job.errors.end()) std::rethrow_exception(*failed);
      job.batch = gather(std::move(job.samples));
    } catch (...) {
      job.error = std::current_exception();
    }
  }

  // --- threads ---

  /// A batch with a sample nobody reads yet; a new one while fewer than `prefetch` are under way; or null.
  std::shared_ptr<Job> job_with_work() {
    for (const auto& job : jobs) {
      if (job->run < job->run_ends.size()) return job;
    }
    if (jobs.size() >= static_cast<std::size_t>(options.prefetch)) return nullptr;
    jobs.push_back(next_job());
    return jobs.back();
  }

  void work() {
    const c10::ParallelGuard one_thread_each(true);  // operators in a worker start no threads of their own
    const at::NoGradGuard no_grad;
    std::unique_lock lock(mutex);
    while (true) {
      std::shared_ptr<Job> job;
      work_waits.wait(lock, [&] { return stopping || (job = job_with_work()) != nullptr; });
      if (stopping) return;
      const std::span<const std::size_t> run = job->take_run();
      lock.unlock();
      for (const std::size_t slot : run) {
        if (stopping) return;
        read_slot(*job, slot);
      }
      lock.lock();
      job->left -= run.size();
      if (job->left > 0) continue;
      lock.unlock();
      finish(*job);
      lock.lock();
      job->done = true;
      batch_waits.notify_all();
    }
  }

  std::shared_ptr<Job> take_finished() {
    std::unique_lock lock(mutex);
    batch_waits.wait(lock, [this] { return !jobs.empty() && jobs.front()->done; });
    std::shared_ptr<Job> job = std::move(jobs.front());
    jobs.pop_front();
    lock.unlock();
    work_waits.notify_all();
    return job;
  }

  std::shared_ptr<Job> read_now() {
    const at::NoGradGuard no_grad;
    std::shared_ptr<Job> job = next_job();
    for (const std::size_t slot : job->order) read_slot(*job, slot);
    finish(*job);
    return job;
  }

  std::any next() {
    const auto begin = std::chrono::steady_clock::now();
    const std::shared_ptr<Job> job = workers.empty() ? read_now() : take_finished();
    waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (job->error != nullptr) std::rethrow_exception(job->error);
    return std::move(job->batch);
  }

  LoaderOptions options;
  Read read;
  Gather gather;
  ReadsOn reads_on;
  Sampler sampler;
  double waited = 0.0;

  std::mutex mutex;
  std::condition_variable work_waits;     // a slot to fill, or the end
  std::condition_variable batch_waits;    // the front batch is done
  std::deque<std::shared_ptr<Job>> jobs;  // in the order of their numbers
  std::int64_t next_number;
  std::vector<std::int64_t> order;
  std::int64_t order_epoch = -1;
  std::atomic<bool> stopping = false;
  std::vector<std::jthread> workers;  // last: they use everything above
};

OrderedLoader::OrderedLoader(std::int64_t size, const LoaderOptions& options, Read read, Gather gather,
                             ReadsOn reads_on) {
  options.validate();
  impl_ = std::make_unique<Impl>(size, options, std::move(read), std::move(gather), std::move(reads_on));
  impl_->start();
}

OrderedLoader::~OrderedLoader() = default;

std::any OrderedLoader::next() { return impl_->next(); }

std::int64_t OrderedLoader::batches_per_epoch() const { return impl_->sampler.batches_per_epoch(); }

double OrderedLoader::wait_seconds() const { return impl_->waited; }

}  // namespace thaw
