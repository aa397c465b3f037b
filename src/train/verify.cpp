#include "thaw/train/verify.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <set>

#include "thaw/core/error.h"
#include "thaw/freeze/plan.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/digest.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/parameters.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

using Tensors = std::map<std::string, at::Tensor>;

std::int64_t count(std::size_t size) { return static_cast<std::int64_t>(size); }

Tensors parameters_of(const torch::nn::Module& module) {
  Tensors tensors;
  for (const auto& item : module.named_parameters()) tensors[item.key()] = item.value();
  return tensors;
}

Tensors buffers_of(const torch::nn::Module& module) {
  Tensors tensors;
  for (const auto& item : module.named_buffers()) tensors[item.key()] = item.value();
  return tensors;
}

/// What every check reads.
struct Evidence {
  FreezePlan plan;
  Checkpoint checkpoint;
  Tensors base;
  Tensors buffers;                     ///< of the base
  std::set<std::string> trainable;     ///< by the plan, tied names once
  std::set<std::string> with_buffers;  ///< and the buffers that training changes
  std::set<std::string> unread;        ///< trainable, but with a gradient of zeros: such a tensor may stay as it was
};

std::set<std::string> names_of(const std::vector<TrainableParameter>& parameters) {
  std::set<std::string> names;
  for (const TrainableParameter& parameter : parameters) names.insert(parameter.name);
  return names;
}

Check check_files(const fs::path& folder) {
  Check check{.name = "files equal their manifest", .failures = checkpoint_faults(folder)};
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder)) ++check.examined;
  return check;
}

Check check_base(const Evidence& evidence) {
  Check check{.name = "the base is the one the plan was made on"};
  for (const PlannedParameter& planned : evidence.plan.parameters) {
    ++check.examined;
    const auto found = evidence.base.find(planned.name);
    if (found == evidence.base.end()) {
      check.failures.push_back(fmt::format("{}: the base has no such tensor", planned.name));
    } else if (tensor_digest(found->second) != planned.digest) {
      check.failures.push_back(
          fmt::format("{}: the base holds another content than at the start of the run", planned.name));
    }
  }
  for (const PlannedBuffer& planned : evidence.plan.buffers) {
    ++check.examined;
    const auto found = evidence.buffers.find(planned.name);
    if (found != evidence.buffers.end() && tensor_digest(found->second) == planned.digest) continue;
    check.failures.push_back(
        fmt::format("{}: the base holds another buffer than at the start of the run", planned.name));
  }
  if (evidence.checkpoint.state.base_digest != base_digest(evidence.plan)) {
    check.failures.emplace_back("plan.json: its digests are not those the checkpoint was made with");
  }
  return check;
}

/// With the base proven equal to the plan, a frozen tensor can differ after the run only by being in the head.
Check check_frozen(const Evidence& evidence) {
  Check check{.name = "frozen tensors equal the base after training"};
  for (const PlannedParameter& planned : evidence.plan.parameters) {
    if (planned.parameter_class == ParameterClass::trainable) continue;
    ++check.examined;
    const auto saved = evidence.checkpoint.head.tensors.find(planned.name);
    if (saved == evidence.checkpoint.head.tensors.end()) continue;
    check.failures.push_back(fmt::format("{}: frozen by the plan, but the head replaces it", planned.name));
  }
  for (const std::string& name : evidence.checkpoint.state.frozen_moved) {
    check.failures.push_back(fmt::format("{}: moved during training", name));
  }
  return check;
}

Check check_plan(const Evidence& evidence) {
  Check check{.name = "the checkpoint was made under this plan", .examined = 1};
  if (evidence.checkpoint.state.plan_digest != evidence.plan.digest()) {
    check.failures.push_back(fmt::format("plan.json: digest {}, the checkpoint has {}", evidence.plan.digest(),
                                         evidence.checkpoint.state.plan_digest));
  }
  return check;
}

Check check_head(const Evidence& evidence) {
  Check check{.name = "the head holds exactly what trains", .examined = count(evidence.checkpoint.head.tensors.size())};
  for (const std::string& name : evidence.with_buffers) {
    if (!evidence.checkpoint.head.tensors.contains(name)) {
      check.failures.push_back(fmt::format("{}: trainable, but not in the head", name));
    }
  }
  for (const auto& entry : evidence.checkpoint.head.tensors) {
    if (!evidence.with_buffers.contains(entry.first)) {
      check.failures.push_back(fmt::format("{}: in the head, but not trainable", entry.first));
    }
  }
  return check;
}

/// A freeze schedule has not let it train yet.
bool waits(const Evidence& evidence, const std::string& name) {
  const TrainingState& state = evidence.checkpoint.state;
  const bool rests = std::find(state.resting.begin(), state.resting.end(), name) != state.resting.end();
  const auto flags = state.gradients.find(name);
  return rests && (flags == state.gradients.end() || !flags->second.seen);
}

Check check_moved(const Evidence& evidence) {
  Check check{.name = "every trainable tensor moved"};
  for (const std::string& name : evidence.trainable) {
    if (waits(evidence, name)) continue;
    const auto trained = evidence.checkpoint.head.tensors.find(name);
    const auto base = evidence.base.find(name);
    if (trained == evidence.checkpoint.head.tensors.end() || base == evidence.base.end()) continue;  // told above
    ++check.examined;
    if (evidence.unread.contains(name)) continue;
    if (!at::isfinite(trained->second).all().item<bool>()) {
      check.failures.push_back(fmt::format("{}: holds a value that is not finite", name));
    } else if (bitwise_equal(trained->second, base->second.to(at::kCPU, trained->second.scalar_type()))) {
      check.failures.push_back(fmt::format("{}: is still what the base holds", name));
    }
  }
  return check;
}

Check check_gradients(const Evidence& evidence) {
  Check check{.name = "every trainable tensor had a finite gradient"};
  for (const std::string& name : evidence.trainable) {
    if (waits(evidence, name)) continue;
    ++check.examined;
    const auto flags = evidence.checkpoint.state.gradients.find(name);
    if (flags == evidence.checkpoint.state.gradients.end() || !flags->second.seen) {
      check.failures.push_back(fmt::format("{}: never had a gradient", name));
    } else if (!flags->second.effective && !evidence.unread.contains(name)) {
      check.failures.push_back(fmt::format("{}: its gradient was always zero or not finite", name));
    }
  }
  for (const std::string& name : evidence.checkpoint.state.frozen_with_gradient) {
    check.failures.push_back(fmt::format("{}: frozen, but held a gradient", name));
  }
  return check;
}

/// "state/<name>/<kind>" -> name.
std::string parameter_of(const std::string& key) {
  const std::size_t first = key.find('/');
  const std::size_t last = key.rfind('/');
  return first == std::string::npos || last <= first ? key : key.substr(first + 1, last - first - 1);
}

Check check_memory(const Evidence& evidence) {
  Check check{.name = "nothing frozen in optimizer and EMA"};
  std::set<std::string> held;
  for (const auto& entry : evidence.checkpoint.optimizer) held.insert(parameter_of(entry.first));
  const std::vector<std::string>& resting = evidence.checkpoint.state.resting;
  for (const std::string& name : resting) {
    if (held.contains(name))
      check.failures.push_back(fmt::format("{}: frozen for now, but the optimizer holds it", name));
  }
  for (const auto& entry : evidence.checkpoint.ema) held.insert(entry.first);
  check.examined = count(held.size());
  for (const std::string& name : held) {
    if (!evidence.trainable.contains(name))
      check.failures.push_back(fmt::format("{}: frozen, but the optimizer or EMA holds it", name));
  }
  held.insert(resting.begin(), resting.end());
  for (const std::string& name : evidence.trainable) {
    if (!held.contains(name))
      check.failures.push_back(fmt::format("{}: trainable, but the optimizer does not hold it", name));
  }
  return check;
}

Check check_eval(const Evidence& evidence) {
  Check check{.name = "frozen modules were in eval mode", .examined = 1};
  for (const std::string& name : evidence.checkpoint.state.modules_not_in_eval) {
    check.failures.push_back(fmt::format("{}: frozen, but in train mode", name));
  }
  return check;
}

fs::path newest_folder(const fs::path& run) {
  const fs::path checkpoints = run / "checkpoints";
  const std::vector<std::int64_t> steps = checkpoint_steps(checkpoints);
  if (!steps.empty()) return checkpoints / checkpoint_name(steps.back());
  throw IoError(Problem{.where = checkpoints.string(), .expected = "a checkpoint", .found = "none"});
}

Evidence gather(const fs::path& run, const fs::path& checkpoint, const torch::nn::Module& base) {
  const fs::path plan = run / "plan.json";
  Evidence evidence{.plan = FreezePlan::from_json(read_json(plan), plan.string()),
                    .checkpoint = read_checkpoint(checkpoint),
                    .base = parameters_of(base),
                    .buffers = buffers_of(base)};
  evidence.trainable = names_of(trainable_parameters(evidence.plan, base));
  for (const PlannedParameter& planned : evidence.plan.parameters) {
    if (planned.unread) evidence.unread.insert(planned.name);
  }
  evidence.with_buffers = evidence.trainable;
  evidence.with_buffers.merge(names_of(trained_buffers(evidence.plan, base)));
  return evidence;
}

}  // namespace

VerifyReport verify_run(const fs::path& run, const torch::nn::Module& base) {
  const fs::path newest = newest_folder(run);
  VerifyReport report{.run = run, .checks = {check_files(newest)}};
  if (!report.passed()) return report;  // a file that is not what was written proves nothing
  const Evidence evidence = gather(run, newest, base);
  report.step = evidence.checkpoint.state.step;
  for (const auto& check :
       {check_plan, check_base, check_frozen, check_head, check_moved, check_gradients, check_memory, check_eval}) {
    report.checks.push_back(check(evidence));
  }
  return report;
}

bool VerifyReport::passed() const {
  return std::all_of(checks.begin(), checks.end(), [](const Check& check) { return check.failures.empty(); });
}

std::string VerifyReport::text() const {
  std::string text = fmt::format("{} at step {}\n", run.string(), step);
  for (const Check& check : checks) {
    text += fmt::format("  {}  {} ({})\n", check.failures.empty() ? "ok  " : "FAIL", check.name, check.examined);
    for (const std::string& failure : check.failures) text += fmt::format("        {}\n", failure);
  }
  return text;
}

Json VerifyReport::to_json() const {
  Json list = Json::array();
  for (const Check& check : checks) {
    list.push_back({{"name", check.name}, {"examined", check.examined}, {"failures", check.failures}});
  }
  return {{"run", run.string()}, {"step", step}, {"passed", passed()}, {"checks", list}};
}

void require_verified(const VerifyReport& report) {
  if (report.passed()) return;
  std::vector<std::string> failures;
  for (const Check& check : report.checks)
    failures.insert(failures.end(), check.failures.begin(), check.failures.end());
  throw CheckFailed(fmt::format("{}: {}", report.run.string(), fmt::join(failures, "; ")));
}

}  // namespace thaw
