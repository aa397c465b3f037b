#include <fmt/format.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <list>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "sweep_process_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/study/sweep.h"
#include "thaw/train/signals.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

constexpr auto kLook = std::chrono::milliseconds(50);
constexpr auto kPatience = std::chrono::seconds(60);  // for a process that was asked to stop

/// Points of one process, in the order it trains them.
struct Share {
  std::vector<SweepPoint> points;
  std::unique_ptr<BackgroundProcess> process;
  std::size_t reported = 0;  ///< points whose results were taken
};

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw IoError(Problem{.where = folder.string(), .expected = "a folder", .found = error.message()});
}

class Processes {
 public:
  Processes(const SweepJobs& jobs, const std::function<void(SweepResult)>& on_result)
      : jobs_(jobs), on_result_(on_result) {
    fs::remove_all(jobs_.folder);
    make_folder(jobs_.folder);
  }
  ~Processes() {
    shares_.clear();
    std::error_code ignored;
    fs::remove_all(jobs_.folder, ignored);
  }
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  bool run(std::span<const SweepPoint> points) {
    const auto jobs = static_cast<std::size_t>(std::max<std::int64_t>(jobs_.jobs, 1));
    std::vector<std::vector<SweepPoint>> parts(std::min(jobs, points.size()));
    for (std::size_t index = 0; index < points.size(); ++index) parts[index % parts.size()].push_back(points[index]);
    for (std::vector<SweepPoint>& part : parts) start(std::move(part));
    while (!shares_.empty()) {
      std::this_thread::sleep_for(kLook);
      if (stop_signal() != 0) return stop_all();
      look();
    }
    return true;
  }

 private:
  void start(std::vector<SweepPoint> points) {
    const fs::path file = jobs_.folder / fmt::format("points-{}.json", ++started_);
    Json list = Json::array();
    for (const SweepPoint& point : points) list.push_back(point.to_json());
    write_text_atomic(file, list.dump() + "\n");
    ProcessOptions options{.command = jobs_.command(file), .environment = jobs_.environment};
    shares_.push_back({.points = std::move(points), .process = std::make_unique<BackgroundProcess>(options)});
  }

  /// Takes new results, and the ends of processes.
  void look() {
    for (auto share = shares_.begin(); share != shares_.end();) {
      const std::optional<ProcessEnd> end = share->process->end();
      take_results(*share);
      if (!end) {
        ++share;
        continue;
      }
      std::vector<SweepPoint> rest(share->points.begin() + static_cast<std::ptrdiff_t>(share->reported),
                                   share->points.end());
      share = shares_.erase(share);
      if (!rest.empty()) go_on_without_first(std::move(rest), *end);
    }
  }

  void take_results(Share& share) {
    for (; share.reported < share.points.size(); ++share.reported) {
      const fs::path file = jobs_.folder / (share.points[share.reported].id + ".json");
      if (!fs::exists(file)) return;
      on_result_(SweepResult::from_json(read_json(file), file.string()));
    }
  }

  /// The process died at the first of `points`.
  void go_on_without_first(std::vector<SweepPoint> points, const ProcessEnd& end) {
    on_result_(
        {.point = points.front(), .cut = "none", .error = fmt::format("the process that trained it {}", end.text())});
    points.erase(points.begin());
    if (!points.empty()) start(std::move(points));
  }

  bool stop_all() {
    for (const Share& share : shares_) share.process->send(SIGTERM);
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!shares_.empty() && std::chrono::steady_clock::now() < deadline) {
      shares_.remove_if([this](Share& share) {
        const bool ended = share.process->end().has_value();
        take_results(share);
        return ended;
      });
      std::this_thread::sleep_for(kLook);
    }
    return false;
  }

  const SweepJobs& jobs_;
  const std::function<void(SweepResult)>& on_result_;
  std::list<Share> shares_;
  int started_ = 0;
};

}  // namespace

PointRunner points_in_processes(SweepJobs jobs) {
  return
      [jobs = std::move(jobs)](std::span<const SweepPoint> points, const std::function<void(SweepResult)>& on_result) {
        return Processes(jobs, on_result).run(points);
      };
}

bool sweep_worker(const fs::path& file, const PointRunner& runner) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a sweep that is killed takes its processes along
  const Json list = read_json(file);
  if (!list.is_array()) {
    throw FormatError(Problem{.where = file.string(), .expected = "a list of points", .found = list.type_name()});
  }
  std::vector<SweepPoint> points;
  for (const Json& json : list) points.push_back(SweepPoint::from_json(json, file.string()));
  return runner(points, [&file](const SweepResult& result) {
    write_text_atomic(file.parent_path() / (result.point.id + ".json"), result.to_json().dump() + "\n");
  });
}

}  // namespace thaw
