// thaw plan: what a freeze would train and cost, before anything is loaded.
#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <optional>

#include "command.h"
#include "flags.h"
#include "thaw/core/json.h"
#include "thaw/data/dataset.h"
#include "thaw/freeze/forecast.h"
#include "thaw/models/registry.h"
#include "thaw/nn/linear.h"
#include "thaw/policy/adapters.h"
#include "thaw/tensor/device.h"
#include "thaw/train/precision.h"

namespace thaw::cli {
namespace {

constexpr std::int64_t kAllBlocks = -1;
/// Between 0.07 and 0.11 GB were measured with SmolVLA at full size (docs/benchmarks.md).
constexpr double kProcessBytes = 80e6;

struct PlanFlags {
  std::string policy;
  FreezeFlags freeze;
  AdapterFlags lora;
  StepShape shape;
  std::string precision = "auto";
  bool ema = false;
  std::string cache = "all";
  std::string storage = "exact";
  std::string cache_memory = "2GiB";
  std::int64_t views = 1;
  std::filesystem::path dataset;
  std::string stack = "*";
  std::string blocks;
  std::string memory;
  double seconds = 2.0;
};

[[noreturn]] void refuse(const std::string& flag, const std::string& expected, const std::string& found) {
  throw UsageError(Problem{.where = flag, .expected = expected, .found = "'" + found + "'"});
}

/// "0,2,all"
std::vector<std::int64_t> parse_blocks(const std::string& text) {
  std::vector<std::int64_t> blocks;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    if (part == "all") {
      blocks.push_back(kAllBlocks);
    } else {
      const std::vector<std::int64_t> numbers = parse_numbers(part, "--blocks");
      if (numbers.empty()) refuse("--blocks", "numbers of blocks and 'all', as in 0,1,2,4,all", text);
      blocks.insert(blocks.end(), numbers.begin(), numbers.end());
    }
    begin = end + 1;
  }
  return blocks;
}

std::string blocks_text(std::int64_t blocks) { return blocks == kAllBlocks ? "all" : std::to_string(blocks); }

/// What the flags ask, as the library takes it.
struct Question {
  ModelLayout layout;
  LayerFreezePolicy rules;
  FreezePlan plan;
  ForecastOptions options;           ///< its frames count every view
  std::int64_t views = 1;            ///< of every frame, each with a prefix of its own
  std::vector<std::int64_t> blocks;  ///< empty: the plan alone
  std::string stack;
  std::optional<CacheCut> cut;  ///< empty: every cut
  std::optional<double> memory;
};

Question question_of(const PlanFlags& flags) {
  Question question{.layout = layout_of_named_config(flags.policy), .stack = flags.stack};
  const std::vector<Adapter> adapters = flags.lora.adapters(question.layout, flags.freeze.policy());
  question.layout = with_adapters(std::move(question.layout), adapters);
  question.rules = flags.lora.freeze(flags.freeze.policy());
  question.plan = question.rules.resolve(question.layout);
  question.options.shape = flags.shape;
  question.options.shape.validate();
  question.options.memory = {
      .compute = compute_dtype(resolve_precision(parse_precision(flags.precision), parse_device("auto"))),
      .ema = flags.ema,
      .weights_return = false,  // as thaw train leaves it
      .process_bytes = kProcessBytes};
  question.options.storage = parse_cache_storage(flags.storage);
  question.options.cache_memory_bytes = static_cast<double>(parse_byte_size(flags.cache_memory, "--cache-memory"));
  if (flags.views < 1) refuse("--views", "at least 1", std::to_string(flags.views));
  question.views = flags.views;
  if (!flags.dataset.empty()) question.options.frames = flags.views * LeRobotDataset::open(flags.dataset).size();
  if (!flags.blocks.empty()) question.blocks = parse_blocks(flags.blocks);
  if (flags.cache != "all") question.cut = parse_cache_cut(flags.cache);
  if (!flags.memory.empty()) question.memory = static_cast<double>(parse_byte_size(flags.memory, "--memory"));
  if (flags.stack != "*") static_cast<void>(question.layout.stack(flags.stack));
  return question;
}

/// The cuts to compare: those that `plan` allows, or the one asked for.
std::vector<PrefixCut> cuts_of(const Question& question, const FreezePlan& plan, const MachineRates* rates) {
  if (!question.cut) return deepest_cuts(question.layout, plan);
  if (*question.cut == CacheCut::automatic) {
    return {choose_cut(question.layout, plan, question.options, HUGE_VAL, rates)};
  }
  return {deepest_cut(question.layout, plan, *question.cut)};
}

class Planner {
 public:
  Planner(Question question, double seconds) : question_(std::move(question)) {
    if (question_.layout.keys.empty()) return;
    if (seconds > 0) measure(seconds);
    add(question_.plan, "");
    for (const std::int64_t blocks : question_.blocks) {
      add(resolve_last_blocks(question_.rules, question_.layout, question_.stack, blocks), blocks_text(blocks));
    }
  }

  [[nodiscard]] Json to_json() const {
    Json json = question_.plan.to_json();
    Json& forecasts = json["forecasts"] = Json::array();
    for (const Forecast& forecast : forecasts_) forecasts.push_back(forecast.to_json());
    json["views"] = question_.views;
    if (rates_) json["rates"] = rates_->to_json();
    if (question_.memory) json["memory"] = Json{{"limit_bytes", *question_.memory}, {"largest_blocks", largest_json()}};
    return json;
  }

  [[nodiscard]] std::string text() const {
    std::string text = question_.plan.summary();
    if (forecasts_.empty()) return text;
    text += "\n" + forecast_details(forecasts_.front()) + "\n" + heading() + forecast_table(table_rows());
    if (question_.memory) text += largest_text();
    return text;
  }

 private:
  void measure(double seconds) {
    const std::vector<PrefixCut> cuts = deepest_cuts(question_.layout, question_.plan);
    const std::vector<ProductShape> shapes =
        step_products(question_.layout, question_.plan, cuts, question_.options.shape);
    CalibrationOptions options{.seconds = seconds, .dtype = question_.options.memory.compute};
    options.product = [](const at::Tensor& x, const at::Tensor& weight) {
      return nn::linear(x, {.weight = weight, .bias = {}});
    };
    rates_ = calibrate(shapes, options);
  }

  void add(const FreezePlan& plan, const std::string& blocks) {
    const MachineRates* rates = rates_ ? &*rates_ : nullptr;
    const std::vector<PrefixCut> cuts = cuts_of(question_, plan, rates);
    for (Forecast& forecast : forecast(question_.layout, plan, cuts, question_.options, rates)) {
      forecast.blocks = blocks;
      forecast.cache_bytes_per_frame *= static_cast<double>(question_.views);
      if (question_.memory) {
        forecast.fits = largest_batch(question_.layout, plan, forecast.cut, question_.options, *question_.memory);
      }
      forecasts_.push_back(std::move(forecast));
    }
  }

  /// The plan alone, or the freezes asked for.
  [[nodiscard]] std::vector<Forecast> table_rows() const {
    if (question_.blocks.empty()) return forecasts_;
    std::vector<Forecast> rows;
    for (const Forecast& forecast : forecasts_) {
      if (!forecast.blocks.empty()) rows.push_back(forecast);
    }
    return rows;
  }

  [[nodiscard]] std::string heading() const {
    const StepShape& shape = question_.options.shape;
    std::string text = fmt::format("A step of {} samples", shape.batch_size * shape.accumulation);
    if (shape.accumulation > 1) text += fmt::format(" in {} micro-batches", shape.accumulation);
    if (shape.draws > 1) text += fmt::format(", {} draws each", shape.draws);
    if (question_.views > 1) text += fmt::format("; a cache keeps {} views of a frame", question_.views);
    text += question_.blocks.empty() ? "" : fmt::format("; N is the last blocks of {} that train", stack_text());
    return text + ":\n";
  }

  [[nodiscard]] std::string stack_text() const {
    return question_.stack == "*" ? "every stack" : "stack " + question_.stack;
  }

  [[nodiscard]] std::optional<std::int64_t> largest() const {
    return largest_blocks(question_.rules, question_.layout, question_.stack, question_.cut.value_or(CacheCut::none),
                          question_.options, *question_.memory);
  }

  [[nodiscard]] Json largest_json() const {
    const std::optional<std::int64_t> blocks = largest();
    return blocks ? Json(*blocks) : Json();
  }

  [[nodiscard]] std::string largest_text() const {
    const std::optional<std::int64_t> blocks = largest();
    const std::string cache = question_.cut && *question_.cut != CacheCut::none
                                  ? fmt::format("with cache {}", cache_cut_name(*question_.cut))
                                  : "without a cache";
    const std::string where = fmt::format("Within {:.4g} GB, {} samples at a time and {}", *question_.memory / 1e9,
                                          question_.options.shape.batch_size, cache);
    if (!blocks) return fmt::format("{}, no number of blocks of {} fits.\n", where, stack_text());
    const FreezePlan plan = resolve_last_blocks(question_.rules, question_.layout, question_.stack, *blocks);
    const std::vector<PrefixCut> allowed = deepest_cuts(question_.layout, plan);
    const auto wanted = std::find_if(allowed.begin(), allowed.end(), [this](const PrefixCut& cut) {
      return cut.kind == question_.cut.value_or(CacheCut::none);
    });
    const PrefixCut& cut = wanted == allowed.end() ? allowed.back() : *wanted;
    const std::int64_t batch = largest_batch(question_.layout, plan, cut, question_.options, *question_.memory);
    return fmt::format("{},\nthe last {} blocks of {} may train; with them the batch may grow to {}.\n", where, *blocks,
                       stack_text(), batch);
  }

  Question question_;
  std::optional<MachineRates> rates_;
  std::vector<Forecast> forecasts_;
};

void run_plan(const PlanFlags& flags, const Outcome& outcome) {
  const Planner planner(question_of(flags), flags.seconds);
  if (outcome.json) {
    std::cout << planner.to_json().dump(2) << '\n';
  } else {
    std::cout << planner.text() << '\n';
  }
}

void add_step_flags(CLI::App& command, PlanFlags& flags) {
  command.add_option("--batch-size", flags.shape.batch_size, "samples of one micro-batch");
  command.add_option("--accumulation", flags.shape.accumulation, "micro-batches of one step");
  command.add_option("--draws", flags.shape.draws, "noise draws that share one prefix");
  command.add_flag("--checkpoint-activations", flags.shape.checkpoint_activations,
                   "keep the inputs of a stage alone and run it again for backward");
  command.add_option("--precision", flags.precision, "auto, fp32, bf16 or fp16");
  command.add_flag("--ema", flags.ema, "with a moving average of the trained tensors");
}

void add_question_flags(CLI::App& command, PlanFlags& flags) {
  command.add_option("--cache", flags.cache, "the cut to plan for: all, auto, none, vision, hidden or kv");
  command.add_option("--cache-storage", flags.storage, "exact, bf16 or int8");
  command.add_option("--cache-memory", flags.cache_memory, "entries that the cache keeps in memory, at most");
  command.add_option("--views", flags.views, "fixed views of every frame that a cache keeps");
  command.add_option("--dataset", flags.dataset, "a LeRobotDataset folder: how many frames a cache would hold");
  command.add_option("--blocks", flags.blocks, "one row for each number of last blocks, as in 0,1,2,4,all");
  command.add_option("--stack", flags.stack, "whose blocks --blocks counts; *: of every stack");
  command.add_option("--memory", flags.memory, "what fits: the most blocks and the largest batch within, say, 24GB");
  command.add_option("--calibrate", flags.seconds, "seconds spent on measuring this machine; 0: no step time");
}

}  // namespace

void add_plan_command(CLI::App& app, Outcome& outcome) {
  const auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = add_subcommand(app, outcome, "plan",
                                     "shows what a freeze trains, where autograd starts and why, and what a step costs",
                                     "  thaw plan --policy smolvla --freeze 'vision=0,language=2,expert=all'\n"
                                     "  thaw plan --policy base --dataset data/ --blocks 0,1,2,4,all --memory 24GB\n"
                                     "  thaw plan --policy base --freeze 'language=all,freeze:@norms' --json");
  command
      ->add_option("--policy,--config", flags->policy, "a checkpoint folder, a config.json, or a named configuration")
      ->required();
  flags->freeze.add_to(*command);
  flags->lora.add_to(*command);
  add_step_flags(*command, *flags);
  add_question_flags(*command, *flags);
  command->callback([flags, &outcome] { run_plan(*flags, outcome); });
}

}  // namespace thaw::cli
