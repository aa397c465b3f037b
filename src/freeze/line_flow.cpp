#include <algorithm>
#include <map>
#include <set>

#include "line_flow_impl.h"

namespace thaw {

std::vector<bool> live_stages(const ModelLayout& layout) {
  std::vector<bool> live(layout.line.size(), false);
  std::set<std::string> needed{layout.output_key};
  for (std::size_t i = layout.line.size(); i-- > 0;) {
    const StageInfo& stage = layout.line[i];
    const auto is_needed = [&needed](const std::string& key) { return needed.contains(key); };
    live[i] = std::any_of(stage.writes.begin(), stage.writes.end(), is_needed);
    if (!live[i]) continue;
    for (const std::string& key : stage.writes) needed.erase(key);
    needed.insert(stage.reads.begin(), stage.reads.end());
  }
  return live;
}

std::vector<StageFlow> gradient_flow(const ModelLayout& layout, const std::function<bool(const std::string&)>& trains) {
  const std::vector<bool> live = live_stages(layout);
  std::vector<StageFlow> flow(layout.line.size());
  std::map<std::string, std::size_t> source_of;  // keys that carry a gradient -> the earliest stage it leads to
  for (std::size_t i = 0; i < flow.size(); ++i) {
    const StageInfo& info = layout.line[i];
    StageFlow& stage = flow[i];
    stage.trains = std::any_of(info.parameters.begin(), info.parameters.end(), trains);
    for (const std::string& key : info.reads) {
      if (const auto found = source_of.find(key); found != source_of.end()) {
        stage.source = std::min(stage.source, found->second);
      }
    }
    stage.reads_gradient = stage.source != StageFlow::kNoSource;
    const bool carries = stage.trains || stage.reads_gradient;
    stage.walks = carries && live[i];
    for (const std::string& key : info.writes) {
      source_of.erase(key);
      if (carries) source_of[key] = stage.reads_gradient ? stage.source : i;
    }
  }
  return flow;
}

}  // namespace thaw
