// What make_measures.py recorded.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "support/paths.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::test {

inline const at::Tensor& golden(const std::string& name) {
  static const std::map<std::string, at::Tensor> tensors =
      read_safetensors(std::string(thaw::test::source_dir()) + "/tests/study/measures/measures.safetensors");
  return tensors.at(name);
}

/// Five states of a stream, (90, 24) float64 each; dimension 7 is massive.
inline std::vector<at::Tensor> golden_streams() {
  std::vector<at::Tensor> states;
  for (int i = 0; i < 5; ++i) states.push_back(golden("stream/" + std::to_string(i)));
  return states;
}

/// Both are float64 of the same formula: what differs is the order of sums.
inline void expect_close(const at::Tensor& actual, const at::Tensor& expected) {
  const Comparison comparison = compare_tensors(actual, expected, {.relative_to_max = 1e-9});
  EXPECT_TRUE(comparison.equal) << comparison.message;
}

}  // namespace thaw::test
