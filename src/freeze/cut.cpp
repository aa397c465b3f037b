#include "thaw/freeze/cut.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <utility>

#include "thaw/core/error.h"

namespace thaw {
namespace {

using Named = std::pair<std::string_view, CacheCut>;

constexpr std::array<Named, 5> kNames{{{"none", CacheCut::none},
                                       {"auto", CacheCut::automatic},
                                       {"vision", CacheCut::vision},
                                       {"hidden", CacheCut::hidden},
                                       {"kv", CacheCut::kv}}};

std::string cuts_before(const ModelLayout& layout, std::size_t boundary) {
  std::vector<std::string> cuts{"none"};
  for (std::size_t i = 0; i < boundary; ++i) {
    const std::string& cut = layout.line[i].cut;
    if (!cut.empty() && cut != cuts.back()) cuts.push_back(cut);
  }
  return fmt::format("{}", fmt::join(cuts, ", "));
}

}  // namespace

CacheCut parse_cache_cut(std::string_view name) {
  const auto found =
      std::find_if(kNames.begin(), kNames.end(), [&](const Named& known) { return known.first == name; });
  if (found != kNames.end()) return found->second;
  throw UsageError(
      Problem{.where = "cache", .expected = "none, auto, vision, hidden or kv", .found = fmt::format("'{}'", name)});
}

std::string_view cache_cut_name(CacheCut cut) {
  return std::find_if(kNames.begin(), kNames.end(), [cut](const Named& known) { return known.second == cut; })->first;
}

std::size_t find_cut(const ModelLayout& layout, std::size_t boundary, CacheCut cut) {
  if (cut == CacheCut::none) return 0;
  for (std::size_t stage = std::min(boundary, layout.line.size()); stage > 0; --stage) {
    if (layout.line[stage - 1].cut == cache_cut_name(cut)) return stage;
  }
  const std::string first_trained = boundary < layout.line.size() ? layout.line[boundary].name : "none";
  throw UsageError(
      Problem{.where = fmt::format("cache {}", cache_cut_name(cut)),
              .expected = fmt::format("a cut that the plan leaves frozen ({})", cuts_before(layout, boundary)),
              .found = fmt::format("stage '{}' trains before it", first_trained),
              .fix = "Freeze what lies before the cut, or cache less."});
}

}  // namespace thaw
