// Whole checkpoints: a raw dataset frame in, robot actions out, as LeRobot's pipeline answers.
#pragma once

#include <map>
#include <string>

#include "support/golden.h"
#include "thaw/models/registry.h"

namespace thaw::golden {

// Frame `n` of the cases as the data loader would collate it.
inline Batch raw_batch(const std::map<std::string, at::Tensor>& cases, const Json& frame, std::size_t n) {
  Batch batch;
  const std::string prefix = std::to_string(n) + "/raw/";
  for (const auto& [key, tensor] : cases) {
    if (key.rfind(prefix, 0) == 0) batch.tensors[key.substr(prefix.size())] = tensor.unsqueeze(0);
  }
  batch.tasks = {frame["task"].get<std::string>()};
  batch.indices = {frame["index"].get<std::int64_t>()};
  return batch;
}

inline void expect_checkpoint(const fs::path& folder) {
  const Json meta = read_json(folder / "cases.json");
  const auto cases = read_safetensors(folder / "cases.safetensors");
  const auto policy = load_policy(folder / "pretrained_model", {.tokenizer_folder = folder / "tokenizer"});
  Report report(folder.filename().string());
  for (std::size_t n = 0; n < meta["frames"].size(); ++n) {
    const std::string name = std::to_string(n) + "/";
    const Batch batch = policy->preprocessor()(raw_batch(cases, meta["frames"][n], n));
    for (const char* key : {"observation.language.tokens", "observation.language.attention_mask"}) {
      report.expect_exact(name + key, batch.at(key), cases.at(name + "processed/" + key));
    }
    for (const char* key : {"observation.state", "action"}) {
      report.expect("normalised values", name + key, batch.at(key), cases.at(name + "processed/" + key),
                    {.absolute = 1e-6});
    }
    const at::Tensor actions = policy->sample(batch, cases.at(name + "noise"));
    report.expect("sampled actions", name + "actions", actions, cases.at(name + "actions"), {.absolute = kSample});
    const at::Tensor robot = policy->postprocessor()(postprocessor_input(batch, actions)).at("action");
    const at::Tensor& expected = cases.at(name + "robot_actions");
    const double scale = std::max(1.0, expected.abs().max().item<double>());
    report.expect("robot actions", name + "robot_actions", robot, expected, {.absolute = kSample * scale});
  }
}

}  // namespace thaw::golden
