#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "backward_causes_impl.h"

namespace thaw {
namespace {

constexpr std::size_t kShownRuns = 4;

using Block = std::pair<std::string, std::int64_t>;

/// Frozen work that one trainable stage sends its gradient through.
struct Detour {
  std::map<std::string, std::set<std::int64_t>> blocks;    ///< by stack
  std::map<std::string, std::vector<std::string>> stages;  ///< that hold them, by stack
  std::vector<std::string> other_stages;                   ///< without blocks
};

/// "B.language.3" -> "B.language." and 3; -1 when it does not end in a number.
std::pair<std::string, std::int64_t> split_number(const std::string& name) {
  const std::size_t dot = name.rfind('.');
  const std::string digits = dot == std::string::npos ? "" : name.substr(dot + 1);
  if (digits.empty() || digits.size() > 6 || digits.find_first_not_of("0123456789") != std::string::npos) {
    return {name, -1};
  }
  return {name.substr(0, dot + 1), std::stoll(digits)};
}

/// B.x.0, B.x.1, B.x.2, head -> "B.x.0..2, head"
std::string stage_runs(const std::vector<std::string>& names) {
  std::vector<std::string> runs;
  for (std::size_t i = 0; i < names.size();) {
    const auto first = split_number(names[i]);
    std::int64_t last = first.second;
    std::size_t end = i + 1;
    while (last >= 0 && end < names.size() && split_number(names[end]) == std::make_pair(first.first, last + 1)) {
      ++last;
      ++end;
    }
    runs.push_back(last > first.second ? fmt::format("{}..{}", names[i], last) : names[i]);
    i = end;
  }
  const std::string more = runs.size() > kShownRuns ? fmt::format(", … {} more", runs.size() - kShownRuns) : "";
  runs.resize(std::min(runs.size(), kShownRuns));
  return fmt::format("{}{}", fmt::join(runs, ", "), more);
}

std::string plural(std::size_t count, const std::string& what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

std::string sentence(const std::string& parameter, const Detour& walk) {
  std::vector<std::string> parts;
  for (const auto& [stack, stages] : walk.stages) {
    const std::size_t blocks = walk.blocks.at(stack).size();
    parts.push_back(fmt::format("{} ({})", plural(blocks, stack + " block"), stage_runs(stages)));
  }
  if (!walk.other_stages.empty()) {
    const std::size_t stages = walk.other_stages.size();
    parts.push_back(fmt::format("{} ({})", plural(stages, "frozen stage"), stage_runs(walk.other_stages)));
  }
  return fmt::format("{} makes backward walk {}", parameter, fmt::join(parts, " and "));
}

class Causes {
 public:
  Causes(const ModelLayout& layout, const std::function<bool(const std::string&)>& trains)
      : layout_(layout), trains_(trains) {
    for (const ParameterInfo& info : layout.parameters) {
      by_name_[info.name] = &info;
      if (!info.stack.empty() && trains(info.name)) trained_.insert({info.stack, info.block});
    }
  }

  std::vector<std::string> sentences(const std::vector<StageFlow>& flow) {
    for (std::size_t i = 0; i < flow.size(); ++i) {
      if (flow[i].walks && flow[i].reads_gradient) add(layout_.line[i], flow[i]);
    }
    std::vector<std::string> sentences;
    for (const auto& [source, walk] : walks_) {
      const auto& names = layout_.line[source].parameters;
      sentences.push_back(sentence(*std::find_if(names.begin(), names.end(), trains_), walk));
    }
    return sentences;
  }

 private:
  /// Frozen blocks of the stage, also beside trained ones; the stage itself when it has no block and trains nothing.
  void add(const StageInfo& stage, const StageFlow& flow) {
    std::set<std::string> stacks;
    bool has_blocks = false;
    for (const std::string& name : stage.parameters) {
      const ParameterInfo& info = *by_name_.at(name);
      if (info.stack.empty()) continue;
      has_blocks = true;
      if (trained_.contains({info.stack, info.block})) continue;
      walks_[flow.source].blocks[info.stack].insert(info.block);
      stacks.insert(info.stack);
    }
    if (!has_blocks && !flow.trains && !stage.parameters.empty())
      walks_[flow.source].other_stages.push_back(stage.name);
    for (const std::string& stack : stacks) walks_[flow.source].stages[stack].push_back(stage.name);
  }

  const ModelLayout& layout_;
  const std::function<bool(const std::string&)>& trains_;
  std::unordered_map<std::string, const ParameterInfo*> by_name_;
  std::set<Block> trained_;
  std::map<std::size_t, Detour> walks_;  ///< by the stage the gradient leads to
};

}  // namespace

std::vector<std::string> backward_causes(const ModelLayout& layout, const std::vector<StageFlow>& flow,
                                         const std::function<bool(const std::string&)>& trains) {
  return Causes(layout, trains).sentences(flow);
}

}  // namespace thaw
