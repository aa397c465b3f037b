// Golden sets: recorded inputs and outputs of the reference implementation (tests/golden/README.md).
//
// Sets are looked for when the test runs: in tests/golden and in every folder of THAW_GOLDEN_DIRS (colon-separated). A
// folder of that list may be a set itself or hold sets.
#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "support/paths.h"
#include "thaw/core/json.h"
#include "thaw/policy/batch.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::golden {

namespace fs = std::filesystem;

// Tolerances of tests/golden/README.md.
inline constexpr double kForward = 1e-5;        // · max(1, max |expected|)
inline constexpr double kPixels = 1e-6;         // absolute
inline constexpr double kLoss = 1e-5;           // relative
inline constexpr double kGradient = 1e-4;       // · max |expected|
inline constexpr double kGradientFloor = 1e-6;  // absolute
inline constexpr double kSample = 5e-5;         // absolute

inline std::vector<fs::path> roots() {
  std::vector<fs::path> found{fs::path(thaw::test::source_dir()) / "tests" / "golden"};
  if (const char* more = std::getenv("THAW_GOLDEN_DIRS")) {
    std::istringstream list(more);
    for (std::string folder; std::getline(list, folder, ':');) {
      if (!folder.empty()) found.emplace_back(folder);
    }
  }
  return found;
}

// Folders that hold `marker` ("meta.json": a set of intermediates; "cases.json": a whole-pipeline checkpoint) of the
// model. Sets of other models are named and left out.
inline std::vector<fs::path> sets_of(const std::string& model, const std::string& marker) {
  std::vector<fs::path> folders;
  for (const fs::path& root : roots()) {
    if (!fs::is_directory(root)) continue;
    folders.push_back(root);
    for (const auto& entry : fs::directory_iterator(root)) {
      if (entry.is_directory()) folders.push_back(entry.path());
    }
  }
  std::vector<fs::path> sets;
  for (const fs::path& folder : folders) {
    if (!fs::is_regular_file(folder / marker)) continue;
    const Json json = read_json(folder / marker);
    const std::string found = json.is_object() ? json.value("model", std::string()) : std::string();
    if (found == model) {
      sets.push_back(folder);
    } else if (!found.empty()) {
      std::cout << "[ SKIPPED  ] " << folder.filename().string() << ": a set of '" << found << "'\n";
    }
  }
  std::sort(sets.begin(), sets.end());
  return sets;
}

// Calls `check` for every set of the model, with the set's name in every failure. At least one must be there.
template <class Check>
void for_each_set(const std::string& model, const std::string& marker, Check check) {
  const std::vector<fs::path> sets = sets_of(model, marker);
  ASSERT_FALSE(sets.empty()) << "no golden set of '" << model << "' found";
  for (const fs::path& set : sets) {
    SCOPED_TRACE("golden set " + set.string());
    check(set);
  }
}

// Collects comparisons by quantity and prints the worst of each as a share of its bound.
class Report {
 public:
  explicit Report(std::string set) : set_(std::move(set)) {}
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;
  ~Report() {
    for (const auto& [quantity, worst] : worst_) {
      std::cout << "[  golden  ] " << set_ << "  " << quantity << ": worst " << worst << " of the bound\n";
    }
  }

  // `quantity` groups the printed lines; `name` says which tensor in a failure.
  void expect(const std::string& quantity, const std::string& name, const at::Tensor& actual,
              const at::Tensor& expected, Bound bound) {
    const Comparison comparison = compare_tensors(actual, expected, bound);
    double& worst = worst_[quantity];
    worst = std::max(worst, comparison.worst);
    EXPECT_TRUE(comparison.equal) << set_ << ", " << name << ": " << comparison.message;
  }

  void expect_exact(const std::string& name, const at::Tensor& actual, const at::Tensor& expected) {
    expect("exact", name, actual, expected, {});
  }

  void expect_forward(const std::string& quantity, const std::string& name, const at::Tensor& actual,
                      const at::Tensor& expected) {
    const double largest = expected.numel() == 0 ? 0.0 : expected.abs().max().item<double>();
    expect(quantity, name, actual, expected, {.absolute = kForward * std::max(1.0, largest)});
  }

  void expect_gradient(const std::string& quantity, const std::string& name, const at::Tensor& actual,
                       const at::Tensor& expected) {
    const double largest = expected.numel() == 0 ? 0.0 : expected.abs().max().item<double>();
    expect(quantity, name, actual, expected, {.absolute = std::max(kGradientFloor, kGradient * largest)});
  }

 private:
  std::string set_;
  std::map<std::string, double> worst_;
};

}  // namespace thaw::golden
