// thaw inspect: what a policy folder, a configuration, a run, a head or a safetensors file holds.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iostream>
#include <memory>

#include "command.h"
#include "flags.h"
#include "inspect_measures.h"
#include "thaw/core/json.h"
#include "thaw/freeze/plan.h"
#include "thaw/models/registry.h"
#include "thaw/tensor/dtype.h"
#include "thaw/tensor/safetensors.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/head.h"

namespace thaw::cli {
namespace {

namespace fs = std::filesystem;

struct InspectFlags {
  std::string target;
  std::string config;
  InspectMeasuresFlags measures;
};

// --- a configuration or policy folder ---

struct StackCount {
  std::int64_t total = 0;
  std::int64_t trainable = 0;
};

void add(StackCount& count, const ParameterInfo& parameter) {
  count.total += parameter.numel();
  if (parameter.trainable_by_default) count.trainable += parameter.numel();
}

Json layout_json(const ModelLayout& layout) {
  StackCount all;
  std::map<std::string, StackCount> by_stack;
  for (const ParameterInfo& parameter : layout.parameters) {
    add(all, parameter);
    if (!parameter.stack.empty()) add(by_stack[parameter.stack], parameter);
  }
  Json json{{"type", layout.type},
            {"tensors", layout.parameters.size()},
            {"parameters", all.total},
            {"trainable_parameters", all.trainable},
            {"stacks", Json::array()}};
  for (const BlockStack& stack : layout.stacks) {
    const StackCount& count = by_stack[stack.name];
    json["stacks"].push_back(Json{{"name", stack.name},
                                  {"prefix", stack.prefix},
                                  {"blocks", stack.blocks},
                                  {"parameters", count.total},
                                  {"trainable_parameters", count.trainable}});
  }
  return json;
}

void print_layout(const Json& layout) {
  std::cout << fmt::format("{}: {} parameters in {} tensors, {} trainable by its own configuration\n",
                           layout["type"].get<std::string>(), grouped(layout["parameters"]),
                           layout["tensors"].get<std::int64_t>(), grouped(layout["trainable_parameters"]));
  for (const Json& stack : layout["stacks"]) {
    std::cout << fmt::format("  {:<10} {:>3} blocks {:>14} parameters {:>14} trainable   {}\n",
                             stack["name"].get<std::string>(), stack["blocks"].get<std::int64_t>(),
                             grouped(stack["parameters"]), grouped(stack["trainable_parameters"]),
                             stack["prefix"].get<std::string>());
  }
}

void inspect_layout(const std::string& target, bool json) {
  const Json layout = layout_json(layout_of_named_config(target));
  json ? void(std::cout << layout.dump(2) << '\n') : print_layout(layout);
}

// --- a safetensors file ---

Json tensors_json(const SafetensorsFile& file) {
  Json json{{"file", file.path().string()}, {"metadata", Json::object()}, {"tensors", Json::array()}};
  for (const auto& [key, value] : file.metadata()) json["metadata"][key] = value;
  for (const SafetensorsEntry& entry : file.entries()) {
    json["tensors"].push_back(
        Json{{"name", entry.name}, {"dtype", safetensors_dtype_name(entry.dtype)}, {"shape", entry.shape}});
  }
  return json;
}

std::string dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace); }

void print_tensors(const SafetensorsFile& file) {
  for (const SafetensorsEntry& entry : file.entries()) {
    std::cout << fmt::format("{:<5} [{}] {}\n", safetensors_dtype_name(entry.dtype), fmt::join(entry.shape, ", "),
                             entry.name);
  }
  std::cout << fmt::format("{} tensors\n", file.entries().size());
}

void print_head(const HeadInfo& head) {
  std::cout << fmt::format("head of {} after {} steps, thaw {}\n  freeze: {}\n  base:   {}\n", head.policy_type,
                           head.step, head.thaw_version, fmt::join(head.freeze_rules, ","), head.base_digest);
  if (head.adapters.empty()) return;
  std::int64_t greatest = 0;
  for (const Adapter& adapter : head.adapters) greatest = std::max(greatest, adapter.rank);
  std::cout << fmt::format("  low-rank adapters: {}, of rank {} at most\n", head.adapters.size(), greatest);
}

bool is_head(const SafetensorsFile& file) { return file.metadata().contains("thaw.head.schema_version"); }

void inspect_file(const fs::path& path, bool json) {
  const SafetensorsFile file(path);
  if (json) {
    std::cout << dump(tensors_json(file)) << '\n';
    return;
  }
  if (is_head(file)) print_head(read_head_info(path));
  print_tensors(file);
}

// --- a run ---

void inspect_run(const fs::path& run, bool json) {
  const fs::path file = run / "plan.json";
  const FreezePlan plan = FreezePlan::from_json(read_json(file), file.string());
  const std::vector<std::int64_t> steps = checkpoint_steps(run / "checkpoints");
  if (json) {
    std::cout << Json{{"run", run.string()},
                      {"checkpoints", steps},
                      {"trainable_parameters", plan.elements(ParameterClass::trainable)},
                      {"plan_digest", plan.digest()}}
                     .dump(2)
              << '\n';
    return;
  }
  std::cout << plan.summary() << fmt::format("\ncheckpoints at steps: {}\n", fmt::join(steps, ", "));
}

void inspect(const InspectFlags& flags, bool json) {
  if (flags.measures.wanted()) return inspect_measures(flags.target, flags.measures, json);
  if (!flags.config.empty()) return inspect_layout(flags.config, json);
  const fs::path path = flags.target;
  const std::vector<std::string> names = named_configs();
  const bool is_name = std::find(names.begin(), names.end(), flags.target) != names.end();
  if (!fs::exists(path) && is_name) return inspect_layout(flags.target, json);
  if (fs::is_directory(path)) {
    if (fs::exists(path / "plan.json")) return inspect_run(path, json);
    if (fs::exists(path / "head.safetensors")) return inspect_file(path / "head.safetensors", json);
    return inspect_layout(flags.target, json);
  }
  if (path.extension() == ".json") return inspect_layout(flags.target, json);
  inspect_file(path, json);
}

}  // namespace

void add_inspect_command(CLI::App& app, Outcome& outcome) {
  const auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = add_subcommand(
      app, outcome, "inspect", "shows a policy folder, a configuration, a run, a head, or a safetensors file",
      "  thaw inspect --config smolvla\n"
      "  thaw inspect --config pi0\n"
      "  thaw inspect model.safetensors\n"
      "  thaw inspect runs/drawer --json\n"
      "  thaw inspect base --similarity --plasticity --dataset data/ --html blocks.html");
  CLI::Option* target = command->add_option("target", flags->target, "folder or file");
  CLI::Option* config =
      command->add_option("--config", flags->config, "a named configuration, a config.json or its folder");
  config->excludes(target);
  flags->measures.add_to(*command);
  command->callback([flags, &outcome] {
    if (flags->target.empty() && flags->config.empty()) {
      throw UsageError(Problem{.where = "inspect", .expected = "a folder, a file, or --config NAME"});
    }
    inspect(*flags, outcome.json);
  });
}

}  // namespace thaw::cli
