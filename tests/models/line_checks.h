// Running a policy's line with and without gradients, whole and from a cut, for tests that look at both.
#pragma once

#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "models/tiny_policy.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/compare.h"

namespace thaw::line_checks {

inline std::set<std::string> keys_of(const PrefixState& state) {
  std::set<std::string> keys;
  for (const auto& entry : state.tensors()) keys.insert(entry.first);
  return keys;
}

inline std::set<std::string> as_set(const std::vector<std::string>& names) { return {names.begin(), names.end()}; }

struct Outcome {
  at::Tensor velocity;
  std::map<std::string, at::Tensor> gradients;
};

inline void forget_gradients(const Policy& policy) {
  for (auto& parameter : policy.module()->named_parameters()) parameter.value().mutable_grad().reset();
}

inline Outcome finish(const Policy& policy, const PrefixState& state, const Batch& batch, const Draw& draw) {
  Outcome outcome{.velocity = state.at("velocity").detach().clone()};
  policy.loss(state, batch, draw, Reduction::mean).backward();
  for (const auto& parameter : policy.module()->named_parameters()) {
    const at::Tensor& gradient = parameter.value().grad();
    if (gradient.defined()) outcome.gradients[parameter.key()] = gradient.clone();
  }
  return outcome;
}

inline void train_only(const Policy& policy, const std::function<bool(const std::string&)>& trains) {
  forget_gradients(policy);
  for (auto& parameter : policy.module()->named_parameters()) {
    parameter.value().set_requires_grad(trains(parameter.key()));
  }
}

inline void expect_same(const Outcome& actual, const Outcome& expected) {
  EXPECT_TRUE(bitwise_equal(actual.velocity, expected.velocity));
  ASSERT_EQ(actual.gradients.size(), expected.gradients.size());
  for (const auto& [name, gradient] : expected.gradients) {
    ASSERT_TRUE(actual.gradients.contains(name)) << name;
    EXPECT_TRUE(bitwise_equal(actual.gradients.at(name), gradient)) << name;
  }
}

// Runs [0, cut) without gradients and keeps only what later stages read, as a cache would.
inline PrefixState restart_from(const Policy& policy, std::size_t cut, const Batch& batch, const Draw& draw) {
  PrefixState whole = policy.begin(batch);
  {
    const at::NoGradGuard no_grad;
    run_stages(policy.line(), 0, cut, whole);
  }
  std::set<std::string> written;
  std::set<std::string> needed;
  for (std::size_t i = cut; i < policy.line().size(); ++i) {
    for (const std::string& key : policy.line()[i].info.reads) {
      if (!written.contains(key)) needed.insert(key);
    }
    written.insert(policy.line()[i].info.writes.begin(), policy.line()[i].info.writes.end());
  }
  PrefixState kept;
  for (const std::string& key : needed) {
    if (whole.has(key)) kept.set(key, whole.at(key).clone());
  }
  policy.add_draw(kept, batch, draw);
  run_stages(policy.line(), cut, policy.line().size(), kept);
  return kept;
}

}  // namespace thaw::line_checks
