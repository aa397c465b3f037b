/// Datasets for the tests: the given ones with what LeRobot reads from them, and damaged copies.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "core/temporary_folder.h"
#include "core/throws.h"
#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/data/dataset.h"

namespace thaw::test {

namespace fs = std::filesystem;
using Expected = nlohmann::json;

inline fs::path given_set(const std::string& name) {
  return fs::path(thaw::test::source_dir()) / "tests/data/metaworld_tiny" / name;
}

inline void append_sets(const fs::path& folder, std::vector<fs::path>& sets) {
  if (fs::exists(folder / "expected.json")) {
    sets.push_back(folder);
    return;
  }
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (fs::exists(entry->path() / "expected.json")) found.push_back(entry->path());
  }
  std::sort(found.begin(), found.end());
  sets.insert(sets.end(), found.begin(), found.end());
}

/// The sets of the repository and those below the folders of THAW_DATASET_DIRS (colon-separated).
inline std::vector<fs::path> expected_sets() {
  std::vector<fs::path> sets;
  append_sets(fs::path(thaw::test::source_dir()) / "tests/data/metaworld_tiny", sets);
  append_sets(fs::path(thaw::test::source_dir()) / "tests/data/synthetic", sets);
  const char* more = std::getenv("THAW_DATASET_DIRS");
  std::stringstream folders(more == nullptr ? "" : more);
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (!folder.empty()) append_sets(folder, sets);
  }
  return sets;
}

inline Expected read_expected(const fs::path& set) { return Expected::parse(std::ifstream(set / "expected.json")); }

inline std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void write_file(const fs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(content.data(), static_cast<std::streamsize>(content.size()));
}

/// A copy of a given set that may be damaged.
class DatasetCopy {
 public:
  explicit DatasetCopy(const std::string& name) { fs::copy(given_set(name), root(), fs::copy_options::recursive); }

  [[nodiscard]] fs::path root() const { return folder_ / "set"; }
  [[nodiscard]] fs::path operator/(const std::string& file) const { return root() / file; }

  void edit_json(const std::string& file, const std::function<void(nlohmann::ordered_json&)>& edit) const {
    auto json = nlohmann::ordered_json::parse(read_file(root() / file));
    edit(json);
    write_file(root() / file, json.dump(4));
  }
  void edit_info(const std::function<void(nlohmann::ordered_json&)>& edit) const { edit_json("meta/info.json", edit); }
  void edit_bytes(const std::string& file, const std::function<void(std::string&)>& edit) const {
    std::string bytes = read_file(root() / file);
    edit(bytes);
    write_file(root() / file, bytes);
  }
  /// The message of the refusal to open it, which must be an `Error` of the kind.
  template <class Kind>
  [[nodiscard]] std::string refusal() const {
    return message_of<Kind>([this] { static_cast<void>(LeRobotDataset::open(root())); });
  }

 private:
  TemporaryFolder folder_;
};

/// A tensor from (nested) JSON numbers or booleans.
inline at::Tensor tensor_of(const Expected& value, at::ScalarType dtype) {
  std::vector<std::int64_t> shape;
  for (const Expected* level = &value; level->is_array(); level = &level->front()) {
    shape.push_back(static_cast<std::int64_t>(level->size()));
    if (level->empty()) break;
  }
  std::vector<double> numbers;
  const std::function<void(const Expected&)> flatten = [&](const Expected& item) {
    if (item.is_array()) {
      for (const Expected& inner : item) flatten(inner);
    } else {
      numbers.push_back(item.is_boolean() ? static_cast<double>(item.get<bool>()) : item.get<double>());
    }
  };
  flatten(value);
  return at::tensor(numbers, at::kDouble).view(shape).to(dtype);
}

}  // namespace thaw::test
