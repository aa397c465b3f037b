// Forecasts as tables for people, and as JSON.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "text_impl.h"
#include "thaw/freeze/forecast.h"

namespace thaw {
namespace {

std::string tera(double flops) { return fmt::format("{:.3g}", flops / 1e12); }
std::string giga_column(double flops) { return fmt::format("{:.4g}", flops / 1e9); }

std::string duration(const std::optional<double>& seconds) {
  return seconds ? fmt::format("{:.4g}", *seconds * 1e3) : "-";
}

/// "A.language.7" -> "A.language"; a name without a number stays.
std::string group_of(const std::string& stage) {
  const std::size_t dot = stage.rfind('.');
  const bool is_number = dot != std::string::npos && dot + 1 < stage.size() &&
                         std::all_of(stage.begin() + static_cast<std::ptrdiff_t>(dot) + 1, stage.end(),
                                     [](unsigned char c) { return std::isdigit(c) != 0; });
  return is_number ? stage.substr(0, dot) : stage;
}

/// Like stages of the line, one after the other.
struct Group {
  std::string name;
  int stages = 0;
  bool runs = true;
  double forward = 0;
  double backward = 0;
  double saved = 0;
  double workspace = 0;
};

std::vector<Group> grouped_stages(const Forecast& forecast) {
  std::vector<Group> groups;
  for (std::size_t i = 0; i < forecast.cost.stages.size(); ++i) {
    const StageCost& cost = forecast.cost.stages[i];
    const StageMemory& memory = forecast.memory.stages[i];
    const std::string name = group_of(cost.name);
    // Self and cross blocks of an expert alternate under one name.
    if (groups.empty() || groups.back().name != name) groups.push_back({.name = name, .runs = cost.runs});
    Group& group = groups.back();
    ++group.stages;
    group.forward += cost.forward_flops;
    group.backward += cost.backward_flops;
    group.saved += memory.saved;
    group.workspace = std::max(group.workspace, memory.workspace);
  }
  return groups;
}

std::string stage_table(const Forecast& forecast) {
  std::string text = fmt::format("  {:<18}  {:>6}  {:>15}  {:>16}  {:>10}  {:>10}\n", "stages", "number",
                                 "forward GFLOP", "backward GFLOP", "saved", "workspace");
  for (const Group& group : grouped_stages(forecast)) {
    if (!group.runs) {
      text += fmt::format("  {:<18}  {:>6}  from the cache\n", group.name, group.stages);
      continue;
    }
    text += fmt::format("  {:<18}  {:>6}  {:>15}  {:>16}  {:>10}  {:>10}\n", group.name, group.stages,
                        giga_column(group.forward), giga_column(group.backward), byte_size(group.saved),
                        byte_size(group.workspace));
  }
  return text + fmt::format("  {:<18}  {:>6}  {:>15}  {:>16}\n", "a step", "",
                            giga_column(forecast.cost.forward_flops()), giga_column(forecast.cost.backward_flops()));
}

std::string memory_lines(const MemoryPlan& memory) {
  const auto line = [](const char* name, double bytes) {
    return bytes > 0 ? fmt::format("  {:<34}  {:>10}\n", name, byte_size(bytes)) : std::string();
  };
  return line("frozen weights", memory.frozen_weights) + line("trainable weights", memory.trainable_weights) +
         line("weights that leave memory", memory.released_weights) +
         line("copies in the compute type", memory.copies) + line("gradients", memory.gradients) +
         line("AdamW's moments", memory.moments) + line("moving average", memory.ema) +
         line("libraries and tables", memory.process) + line("cache in memory", memory.cache) +
         line("batches read ahead", memory.read_ahead) + line("inputs of a batch", memory.inputs) +
         line("prefix of a batch", memory.prefix) + line("activations kept for backward", memory.activations) +
         line("workspace of a stage", memory.workspace) +
         fmt::format("  {:<34}  {:>10}  in the phase '{}'{}\n", "peak above the program's own", byte_size(memory.peak),
                     memory_phase_name(memory.peak_phase),
                     memory.peak_stage.empty() ? "" : fmt::format(", stage {}", memory.peak_stage));
}

}  // namespace

std::string forecast_table(std::span<const Forecast> forecasts) {
  const bool has_blocks =
      std::any_of(forecasts.begin(), forecasts.end(), [](const Forecast& f) { return !f.blocks.empty(); });
  const bool has_fits = std::any_of(forecasts.begin(), forecasts.end(), [](const Forecast& f) { return f.fits; });
  const auto row = [&](const std::string& blocks, const std::string& trainable, std::string_view cut,
                       const std::string& memory, const std::string& frame, const std::string& all,
                       const std::string& flops, const std::string& milliseconds, const std::string& fits) {
    return fmt::format("  {}{:>13}  {:<6}  {:>10}  {:>10}  {:>10}  {:>10}  {:>8}{}\n",
                       has_blocks ? fmt::format("{:>3}  ", blocks) : "", trainable, cut, memory, frame, all, flops,
                       milliseconds, has_fits ? fmt::format("  {:>7}", fits) : "");
  };
  std::string text = row("N", "trainable", "cut", "peak", "a frame", "all frames", "TFLOP/step", "ms/step", "batch");
  for (const Forecast& f : forecasts) {
    const bool cached = f.cut.kind != CacheCut::none;
    text += row(f.blocks, grouped(f.trainable_elements), cache_cut_name(f.cut.kind), byte_size(f.memory.peak),
                cached ? byte_size(f.cache_bytes_per_frame) : "-", f.cache_bytes > 0 ? byte_size(f.cache_bytes) : "-",
                tera(f.cost.flops()), duration(f.step_seconds), f.fits ? std::to_string(*f.fits) : "");
  }
  return text;
}

std::string forecast_details(const Forecast& forecast) {
  std::string text = stage_table(forecast) + "\n" + memory_lines(forecast.memory);
  if (forecast.cut.stage == 0) return text;
  return text + fmt::format("  {:<34}  {:>10}  when the training steps fill it\n", "peak until the cache is full",
                            byte_size(forecast.peak_until_full));
}

Json Forecast::to_json() const {
  Json json{{"blocks", blocks},
            {"trainable_elements", trainable_elements},
            {"cut", Json{{"kind", cache_cut_name(cut.kind)}, {"stage", cut.stage}, {"keys", cut.keys}}},
            {"cache_bytes_per_frame", cache_bytes_per_frame},
            {"cache_bytes", cache_bytes},
            {"step_seconds", step_seconds ? Json(*step_seconds) : Json()},
            {"largest_batch", fits ? Json(*fits) : Json()},
            {"peak_until_full_bytes", peak_until_full},
            {"memory", memory.to_json()},
            {"cost", cost.to_json()}};
  return json;
}

}  // namespace thaw
