#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/core/names.h"
#include "weights_file_impl.h"

namespace thaw::models {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::size_t kUnreadNamesShown = 4;

/// Tensor -> file name, as the index says.
using WeightMap = std::map<std::string, std::string>;

[[noreturn]] void refuse_missing(const fs::path& folder) {
  std::string fix;
  if (fs::exists(folder / "adapter_model.safetensors")) {
    fix = "The folder holds a PEFT adapter: merge it into its base with LeRobot first.";
  } else if (WeightsFile::exists_in(folder / "pretrained_model")) {
    fix = "Give its subfolder 'pretrained_model'.";
  }
  throw IoError(Problem{.where = (folder / kSingleFile).string(),
                        .expected = "the weights of a policy",
                        .found = "no such file",
                        .fix = fix});
}

/// A shard is a file of the index's own folder.
void check_file_name(const fs::path& index, const std::string& name) {
  const fs::path path(name);
  const bool plain = !name.empty() && path == path.filename() && name != "." && name != ".." &&
                     name.find('\\') == std::string::npos && name.find('\0') == std::string::npos;
  if (plain) return;
  throw FormatError(Problem{.where = index.string() + ", weight_map",
                            .expected = "names of files beside the index",
                            .found = "'" + name + "'",
                            .fix = "Nothing outside the folder is read."});
}

WeightMap read_weight_map(const fs::path& index) {
  const std::string where = index.string();
  const Json map = json_field<Json>(read_json(index), "weight_map", where);
  if (!map.is_object() || map.empty()) {
    throw FormatError(Problem{.where = where + ", weight_map",
                              .expected = "an object of tensor names and file names",
                              .found = map.type_name()});
  }
  WeightMap files;
  for (const auto& [tensor, file] : map.items()) {
    files[tensor] = json_field<std::string>(map, tensor, where + ", weight_map");
    check_file_name(index, files[tensor]);
  }
  return files;
}

std::string shown(std::vector<std::string> names) {
  const std::size_t count = names.size();
  names.resize(std::min(count, kUnreadNamesShown));
  return fmt::format("{}{}", fmt::join(names, ", "),
                     count > kUnreadNamesShown ? fmt::format(" and {} more", count - kUnreadNamesShown) : "");
}

[[noreturn]] void refuse_disagreement(const fs::path& index, const fs::path& shard, const std::string& found) {
  throw MismatchError(Problem{.where = shard.string(),
                              .expected = "the tensors that " + index.filename().string() + " lists for it",
                              .found = found,
                              .fix = "Index and shards are of different savings: fetch the checkpoint again."});
}

/// What a shard lacks or has beyond what the index says.
void check_agreement(const fs::path& index, const WeightMap& map, const SafetensorsFile& shard) {
  const std::string file = shard.path().filename().string();
  std::vector<std::string> lacking;
  std::vector<std::string> unlisted;
  for (const auto& [tensor, place] : map) {
    if (place == file && !shard.contains(tensor)) lacking.push_back(tensor);
  }
  for (const SafetensorsEntry& entry : shard.entries()) {
    const auto listed = map.find(entry.name);
    if (listed == map.end() || listed->second != file) unlisted.push_back(entry.name);
  }
  if (!lacking.empty()) refuse_disagreement(index, shard.path(), fmt::format("none named {}", shown(lacking)));
  if (!unlisted.empty()) {
    refuse_disagreement(index, shard.path(), fmt::format("{}, which it does not list there", shown(unlisted)));
  }
}

}  // namespace

bool WeightsFile::exists_in(const fs::path& folder) {
  return fs::exists(folder / kSingleFile) || fs::exists(folder / kIndexFile);
}

WeightsFile::WeightsFile(const fs::path& folder) {
  if (fs::exists(folder / kSingleFile)) {
    path_ = folder / kSingleFile;
    add_file(path_);
  } else if (fs::exists(folder / kIndexFile)) {
    path_ = folder / kIndexFile;
    add_shards(folder);
  } else {
    refuse_missing(folder);
  }
}

void WeightsFile::add_file(const fs::path& file) {
  files_.emplace_back(file);
  for (const SafetensorsEntry& entry : files_.back().entries()) {
    const auto [place, added] = place_.emplace(entry.name, files_.size() - 1);
    if (!added) {
      throw MismatchError(
          Problem{.where = path_.string(),
                  .expected = "every tensor in one shard",
                  .found = fmt::format("{} in {} and in {}", entry.name,
                                       files_.at(place->second).path().filename().string(), file.filename().string())});
    }
    entries_.push_back(entry);
  }
}

void WeightsFile::add_shards(const fs::path& folder) {
  const WeightMap map = read_weight_map(path_);
  std::set<std::string> names;
  for (const auto& entry : map) names.insert(entry.second);
  for (const std::string& name : names) {
    if (!fs::exists(folder / name)) {
      throw IoError(Problem{.where = (folder / name).string(),
                            .expected = "a shard that " + path_.filename().string() + " names",
                            .found = "no such file",
                            .fix = "Fetch the checkpoint again."});
    }
    add_file(folder / name);
  }
  for (const SafetensorsFile& shard : files_) check_agreement(path_, map, shard);
}

const SafetensorsFile& WeightsFile::file_of(const std::string& name) const {
  const auto found = place_.find(name);
  // The first file answers for an unknown name: it knows how to refuse it.
  return files_.at(found == place_.end() ? 0 : found->second);
}

const SafetensorsEntry& WeightsFile::entry(const std::string& name) const { return file_of(name).entry(name); }

at::Tensor WeightsFile::read(const std::string& name) const { return file_of(name).read(name); }

}  // namespace thaw::models
