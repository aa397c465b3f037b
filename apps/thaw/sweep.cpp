// thaw sweep: how many layers are enough.
#include "thaw/study/sweep.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>

#include "command.h"
#include "sweep_bases.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/core/log.h"
#include "thaw/core/names.h"
#include "thaw/core/progress.h"
#include "thaw/study/report.h"
#include "thaw/train/signals.h"
#include "thaw/train/trainer.h"
#include "train_flags.h"

namespace thaw::cli {
namespace {

namespace fs = std::filesystem;

struct SweepFlags {
  TrainFlags train;
  SweepPruneFlags prune;
  std::string stacks;
  std::string blocks;
  std::string rules;
  std::string rates;
  std::string draws = "1";
  std::string seeds = "1000,1001";
  std::int64_t search_steps = 0;
  std::int64_t search_beyond = 2;
  std::string rungs;
  double keep = 0.5;
  std::string figure = "loss";
  std::string cost = "parameters";
  std::int64_t jobs = 1;
  std::string evaluator;
  double evaluator_timeout = 3600.0;
  bool keep_heads = false;
  fs::path importance;
  std::int64_t auto_steps = 0;
  fs::path worker;
};

/// Flags of a sweep that a training has not, or has with one value, beside those of pruning: what config.toml of the
/// picked run leaves out.
const std::vector<std::string> kOwnFlags{
    "stack",      "blocks",     "rules", "lr",     "draws",  "seed",      "lr-search",
    "lr-beyond",  "halving",    "keep",  "figure", "cost",   "evaluator", "evaluator-timeout",
    "keep-heads", "importance", "auto",  "jobs",   "worker", "steps"};
const std::vector<std::string> kPaths{"policy",      "tokenizer", "dataset",   "output",
                                      "freeze-file", "cache-dir", "importance"};

/// "0,2,all"
std::vector<std::int64_t> parse_block_counts(const std::string& text) {
  std::vector<std::int64_t> counts;
  for (const std::string& part : split(text, ',')) {
    if (part == "all") {
      counts.push_back(kAllBlocks);
      continue;
    }
    const std::vector<std::int64_t> numbers = parse_numbers(part, "--blocks");
    counts.insert(counts.end(), numbers.begin(), numbers.end());
  }
  return counts;
}

/// --stack language,expert --blocks '0,2,all;4,all': one list for all stacks, or one for each.
std::vector<StackBlocks> parse_stacks(const SweepFlags& flags) {
  const std::vector<std::string> names = split(flags.stacks, ',');
  const std::vector<std::string> lists = split(flags.blocks, ';');
  if (names.empty() && !lists.empty()) {
    throw UsageError(
        Problem{.where = "--blocks",
                .expected = "--stack beside it",
                .found = "none",
                .fix = "Name the stack whose blocks are counted; --stack '*' counts those of every stack."});
  }
  if (!names.empty() && lists.size() != 1 && lists.size() != names.size()) {
    throw UsageError(
        Problem{.where = "--blocks",
                .expected = fmt::format("one list, or one for each of the {} stacks, as in '0,2;1,all'", names.size()),
                .found = flags.blocks.empty() ? "none" : fmt::format("{} lists", lists.size())});
  }
  std::vector<StackBlocks> stacks;
  for (std::size_t i = 0; i < names.size(); ++i) {
    stacks.push_back({.stack = names[i], .blocks = parse_block_counts(lists[lists.size() == 1 ? 0 : i])});
  }
  return stacks;
}

std::vector<double> parse_rate_list(const std::string& text) {
  std::vector<double> rates;
  for (const std::string& part : split(text, ',')) {
    std::istringstream stream(part);
    double rate = 0.0;
    if (!(stream >> rate) || !stream.eof()) {
      throw UsageError(Problem{.where = "--lr", .expected = "rates, as in 1e-4,3e-4", .found = "'" + part + "'"});
    }
    rates.push_back(rate);
  }
  return rates;
}

SweepGrid grid_of(const SweepFlags& flags) {
  SweepGrid grid{.base = flags.train.freeze.policy(),
                 .stacks = parse_stacks(flags),
                 .rules = split(flags.rules, ';'),
                 .learning_rates = parse_rate_list(flags.rates),
                 .draws = parse_numbers(flags.draws, "--draws"),
                 .seeds = {}};
  for (const std::int64_t seed : parse_numbers(flags.seeds, "--seed")) {
    grid.seeds.push_back(static_cast<std::uint64_t>(seed));
  }
  return grid;
}

/// A word that no evaluation of a policy gives is a typing error, and not worth hours.
void require_figure(const SweepFlags& flags) {
  const std::vector<std::string> known{"loss", "action_mse", "action_mse_robot"};
  const std::string name = flags.figure.starts_with('-') ? flags.figure.substr(1) : flags.figure;
  if (name.starts_with("evaluator.") && !flags.evaluator.empty()) return;
  if (std::find(known.begin(), known.end(), name) != known.end()) return;
  throw UsageError(Problem{.where = "--figure",
                           .expected = "loss, action_mse, action_mse_robot, or with --evaluator evaluator.NAME",
                           .found = "'" + flags.figure + "'",
                           .fix = suggest(name, known)});
}

void add_schedule(const SweepFlags& flags, SweepPlan& plan) {
  plan.figure = flags.figure;
  if (flags.search_steps != 0) plan.rate_search = {.steps = flags.search_steps, .beyond = flags.search_beyond};
  if (!flags.rungs.empty()) plan.halving = {.rungs = parse_numbers(flags.rungs, "--halving"), .keep = flags.keep};
  plan.validate();
}

/// What a sweep trains, loaded once.
struct Session {
  Session(SweepFlags& flags, const CLI::App& command, const Outcome& outcome)
      : options(options_of(flags, command, outcome)),
        dataset(open_dataset(flags.train)),
        bases(flags.prune, flags.train, flags.stacks) {}

  /// All that can be wrong with what was asked is found here, and nothing is written.
  void begin(const SweepFlags& flags) {
    subject = sweep_policy(open_policy(flags.train, dataset), dataset, options);
    plan_grid(flags);
    setting = subject->setting();
    if (!bases.wanted()) return;
    setting["pruning"] = bases.question();
    subject.reset();  // makes room for what is measured
    SweepGrid grid = grid_of(flags);
    grid.learning_rates = plan.learning_rates;
    bases.choose(dataset, options, grid);
  }

  /// Once the pruned bases are there.
  void use_bases(const SweepFlags& flags) {
    if (!bases.wanted()) return;
    subject = sweep_policies(bases.sources(dataset), dataset, options);
    plan_grid(flags);
  }

  void plan_grid(const SweepFlags& flags) {
    plan = sweep_plan(*subject, grid_of(flags));
    add_schedule(flags, plan);
  }

  static TrainOptions options_of(SweepFlags& flags, const CLI::App& command, const Outcome& outcome) {
    static_cast<void>(grid_of(flags));  // what is typed wrong there costs no loading
    require_figure(flags);
    static_cast<void>(parse_sweep_cost(flags.cost));
    const bool by_number = !flags.train.eval_episodes.empty();
    if (by_number && command.get_option("--eval-split")->count() == 0) flags.train.options.eval_split = 0.0;
    return train_options(flags.train, command, outcome);
  }

  TrainOptions options;
  LeRobotDataset dataset;
  SweepBases bases;
  std::unique_ptr<SweepSubject> subject;
  Json setting;
  SweepPlan plan;
};

SweepRunOptions run_options(const SweepFlags& flags, const SweepBases& bases) {
  SweepRunOptions options{.keep_heads = flags.keep_heads};
  options.evaluator = {.command = flags.evaluator, .seconds = flags.evaluator_timeout};
  options.evaluator.environment_of = [&bases](const SweepPoint& point) {
    return std::map<std::string, std::string>{{"THAW_POLICY", fs::absolute(bases.folder(point.pruning)).string()}};
  };
  options.evaluator.environment = {
      {"THAW_DATASET", fs::absolute(flags.train.dataset).string()},
      {"THAW_TOKENIZER", flags.train.tokenizer.empty() ? std::string() : fs::absolute(flags.train.tokenizer).string()}};
  return options;
}

/// One line on the terminal for the whole sweep.
class ProgressLine final : public SweepObserver {
 public:
  explicit ProgressLine(bool quiet) : quiet_(quiet) {}

  void on_point(const SweepPoint& /*point*/, std::size_t done, std::size_t known) override {
    done_ = static_cast<std::int64_t>(done);
    if (known == known_) return;
    known_ = known;
    progress_ = std::make_unique<Progress>(
        ProgressOptions{.label = "sweep", .total = static_cast<std::int64_t>(known), .start = done_, .quiet = quiet_});
  }
  void on_progress(const SweepPoint& point, std::int64_t step, double loss) override {
    update(fmt::format("{} seed {} step {}/{} loss {:.4f}", point.name(), point.seed, step, point.steps, loss));
  }
  void on_result(const SweepResult& result) override {
    ++done_;
    const std::string name = fmt::format("{} seed {}", result.point.name(), result.point.seed);
    if (result.failed()) log_warning(fmt::format("{}: {}", name, result.error));
    update(result.held_out ? fmt::format("{} held-out loss {:.4f}", name, result.held_out->loss) : name);
  }

 private:
  void update(const std::string& detail) {
    if (progress_) progress_->update(done_, detail);
  }
  bool quiet_;
  std::int64_t done_ = 0;
  std::size_t known_ = 0;
  std::unique_ptr<Progress> progress_;
};

SweepJobs jobs_of(const SweepFlags& flags, const fs::path& root) {
  const std::int64_t threads = std::max<std::int64_t>(at::get_num_threads() / flags.jobs, 1);
  return {.jobs = flags.jobs,
          .folder = root / "jobs",
          .command =
              [root](const fs::path& points) {
                return std::vector<std::string>{
                    "/proc/self/exe", "sweep",         "--config-file", (root / "config.toml").string(),
                    "--worker",       points.string(), "--quiet"};
              },
          .environment = {{"OMP_NUM_THREADS", std::to_string(threads)}}};
}

ReportOptions report_options(const SweepFlags& flags, const SweepPlan& plan) {
  ReportOptions options{.figure = flags.figure, .cost = parse_sweep_cost(flags.cost), .steps = plan.steps};
  options.subtitle = fmt::format("{} trained on {}, {} steps a training, seeds {}",
                                 fs::path(flags.train.policy).lexically_normal().filename().string(),
                                 flags.train.dataset.lexically_normal().filename().string(), plan.steps, flags.seeds);
  if (!flags.importance.empty()) {
    options.importance = importance_from_json(read_json(flags.importance), flags.importance.string());
  }
  return options;
}

/// The picked configuration as config.toml of a training says it, so that the run can be resumed and merged.
std::string config_of_pick(const CLI::App& command, const SweepFlags& flags, const SweepCandidate& picked,
                           const fs::path& base, const std::string& rules) {
  std::vector<std::string> leave_out = kOwnFlags;
  for (const std::string& name : SweepPruneFlags::names()) leave_out.push_back(name);
  leave_out.insert(leave_out.end(),
                   {"resume", "config-file", "json", "quiet", "freeze", "freeze-file", "output", "policy"});
  std::string text = flags_as_toml(command, kPaths, leave_out);
  text += fmt::format("policy = '{}'\nfreeze = '{}'\nlr = {}\ndraws = {}\nseed = {}\nsteps = {}\noutput = '{}'\n",
                      fs::absolute(base).lexically_normal().string(), rules, picked.learning_rate, picked.draws,
                      picked.seeds.front(), flags.auto_steps,
                      fs::absolute(flags.train.options.output / "run").lexically_normal().string());
  return text;
}

/// Trains the pick at full length, as `thaw train` would.
FitResult train_pick(const CLI::App& command, const SweepFlags& flags, const Session& session,
                     const SweepCandidate& picked) {
  const auto freeze = std::find_if(
      session.plan.freezes.begin(), session.plan.freezes.end(),
      [&picked](const SweepFreeze& each) { return each.label == picked.freeze && each.pruning == picked.pruning; });
  TrainOptions options = session.options;
  options.output = flags.train.options.output / "run";
  options.resume = fs::exists(options.output / "plan.json");
  options.steps = flags.auto_steps;
  options.seed = picked.seeds.front();
  options.draws = picked.draws;
  options.optimizer.learning_rate = picked.learning_rate;
  std::string rules;
  for (const std::string& rule : freeze->policy.rules()) rules += (rules.empty() ? "" : ",") + rule;
  TrainFlags train = flags.train;
  train.policy = session.bases.folder(picked.pruning).string();
  options.config_text = config_of_pick(command, flags, picked, train.policy, rules);
  const std::shared_ptr<Policy> policy = open_policy(train, session.dataset);
  Trainer trainer(policy, freeze->policy.resolve(*policy), options);
  return trainer.fit(session.dataset);
}

Json as_json(const SweepFolder& folder, const std::optional<Pick>& chosen) {
  Json json{{"output", folder.root().string()}, {"results", Json::array()}};
  for (const SweepResult& result : folder.results()) json["results"].push_back(result.to_json());
  json["pick"] = chosen ? chosen->to_json() : Json();
  return json;
}

ExitCode stopped_code() { return stop_signal() == SIGTERM ? ExitCode::terminated : ExitCode::interrupted; }

void run_worker(SweepFlags& flags, const CLI::App& command, Outcome& outcome) {
  Session session(flags, command, outcome);
  if (session.bases.wanted()) {
    session.use_bases(flags);
  } else {
    session.begin(flags);
  }
  const SweepRunOptions options = run_options(flags, session.bases);
  const SignalScope signals;
  const PointRunner runner =
      points_in_turn(session.plan, *session.subject, flags.train.options.output / "heads", options);
  if (!sweep_worker(flags.worker, runner)) outcome.code = stopped_code();
}

void run_sweep_command(SweepFlags& flags, const CLI::App& command, Outcome& outcome) {
  if (flags.jobs < 1) {
    throw UsageError(Problem{.where = "--jobs", .expected = "at least 1", .found = fmt::format("{}", flags.jobs)});
  }
  Session session(flags, command, outcome);
  session.begin(flags);
  const ReportOptions report = report_options(flags, session.plan);
  SweepFolder folder(flags.train.options.output, session.setting, session.options.resume,
                     flags_as_toml(command, kPaths, {"resume", "config-file", "json", "quiet", "worker"}));
  session.bases.write();
  session.use_bases(flags);

  SweepRunOptions options = run_options(flags, session.bases);
  ProgressLine progress(session.options.quiet);
  options.observer = &progress;
  const SignalScope signals;
  const bool finished = flags.jobs == 1
                            ? run_sweep(session.plan, *session.subject, folder, options)
                            : run_sweep(session.plan, folder,
                                        points_in_processes(jobs_of(flags, fs::absolute(folder.root()))), &progress);
  write_text_atomic(folder.root() / "report.html", sweep_report(folder.results(), report));
  const std::optional<Pick> chosen =
      pick(sweep_candidates(folder.results(), report.figure, report.steps), report.cost, report.figure);
  if (!finished) {
    outcome.code = stopped_code();
  } else if (!chosen) {
    outcome.code = ExitCode::check_failed;
  }
  Json json = outcome.json ? as_json(folder, chosen) : Json();
  if (!outcome.json) {
    std::cout << sweep_table(folder.results(), report)
              << fmt::format("\nreport: {}\n", (folder.root() / "report.html").string());
  }
  if (finished && chosen && flags.auto_steps > 0) {
    session.subject.reset();  // its base makes room for the run's
    const FitResult fit = train_pick(command, flags, session, chosen->picked);
    outcome.code = fit.exit_code();
    if (outcome.json) json["run"] = {{"output", (folder.root() / "run").string()}, {"step", fit.step}};
    if (outcome.json && fit.evaluation) json["run"]["held_out_loss"] = fit.evaluation->loss;
    if (!outcome.json && fit.evaluation) {
      std::cout << fmt::format("run: {} steps, held-out loss {:.4f}; {}\n", fit.step, fit.evaluation->loss,
                               (folder.root() / "run").string());
    }
  }
  if (outcome.json) std::cout << json.dump(2) << '\n';
}

/// Flags of a training that take one value there and a list here.
void replace_with_lists(CLI::App& command, SweepFlags& flags) {
  for (const char* name : {"--lr", "--draws", "--seed"}) command.remove_option(command.get_option(name));
  // A freeze of the grid holds for the whole training.
  for (const char* name : {"--freeze-schedule", "--rotate-blocks", "--lora"}) {
    if (CLI::Option* option = command.get_option_no_throw(name)) command.remove_option(option);
  }
  command.add_option("--lr", flags.rates, "peak learning rates, as in 3e-4,1e-3 (default: the policy's)");
  command.add_option("--draws", flags.draws, "noise draws of every sample, as in 1,4");
  command.add_option("--seed", flags.seeds, "each of them trains every configuration once");
}

void add_grid_flags(CLI::App& command, SweepFlags& flags) {
  command.add_option("--stack", flags.stacks,
                     "whose last blocks are counted; '*': of every stack; a,b: a grid over both");
  command.add_option("--blocks", flags.blocks,
                     "numbers of last blocks that train, as in 0,1,2,4,all; for a,b: '0,1;4,all'");
  command.add_option("--rules", flags.rules,
                     "freezes beside those, each a list of rules as in --freeze, separated by ;");
  command.add_option("--lr-search", flags.search_steps,
                     "find the rate of each freeze among --lr by trainings of so many steps; 0: train with every one");
  command.add_option("--lr-beyond", flags.search_beyond,
                     "rates tried beyond the ends of --lr while the best lies there");
  command.add_option("--halving", flags.rungs, "steps of shorter rounds, as in 75,150: the better part goes on");
  command.add_option("--keep", flags.keep, "share that goes on after each round of --halving");
}

void add_outcome_flags(CLI::App& command, SweepFlags& flags) {
  command.add_option(
      "--figure", flags.figure,
      "what is compared, less is better: loss, action_mse, action_mse_robot, evaluator.NAME; -NAME where "
      "more is");
  command.add_option("--cost", flags.cost, "what the pick saves: parameters, memory or time");
  command.add_option("--evaluator", flags.evaluator,
                     "shell command that is told a head (THAW_HEAD, THAW_POLICY, THAW_DATASET, THAW_TOKENIZER,\n"
                     "THAW_POINT_ID, THAW_POINT) and prints a JSON object");
  command.add_option("--evaluator-timeout", flags.evaluator_timeout, "seconds before it is killed");
  command.add_flag("--keep-heads", flags.keep_heads, "keep heads/ID/head.safetensors of every training");
  command.add_option("--importance", flags.importance, "JSON file with the importance of blocks, for the report");
  command.add_option("--jobs", flags.jobs, "processes at a time, which share the cores");
  command.add_option("--auto", flags.auto_steps, "then train the pick for so many steps, into OUTPUT/run; 0: no");
  command.add_option("--worker", flags.worker, "points to train, of a sweep with --jobs")->group("");
}

}  // namespace

void add_sweep_command(CLI::App& app, Outcome& outcome) {
  const auto flags = std::make_shared<SweepFlags>();
  flags->train.cache = "auto";
  flags->train.options.steps = 300;
  flags->train.options.eval_split = 0.2;
  CLI::App* command = add_subcommand(
      app, outcome, "sweep", "trains with several numbers of layers and picks the fewest that are enough",
      "  thaw sweep --policy base --dataset data/ --stack language --blocks 0,1,2,4,all --steps 500 --output sweeps/n\n"
      "  thaw sweep --policy base --dataset data/ --stack '*' --blocks 1,2,4 --lr 1e-4,3e-4,1e-3 --lr-search 100 \\\n"
      "             --halving 150 --steps 500 --auto 20000 --output sweeps/n\n"
      "  thaw sweep --policy base --dataset data/ --stack language --blocks 0,2,all --prune 0,2,4 --output sweeps/p\n"
      "  thaw sweep --resume sweeps/n");
  add_training_flags(*command, flags->train);
  replace_with_lists(*command, *flags);
  add_grid_flags(*command, *flags);
  flags->prune.add_to(*command);
  add_outcome_flags(*command, *flags);
  command->callback([flags, command, &outcome] {
    if (flags->worker.empty()) {
      run_sweep_command(*flags, *command, outcome);
    } else {
      run_worker(*flags, *command, outcome);
    }
  });
}

}  // namespace thaw::cli
