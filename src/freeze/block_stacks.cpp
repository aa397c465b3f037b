#include "thaw/freeze/block_stacks.h"

#include <torch/nn/module.h>

#include <algorithm>
#include <cctype>

namespace thaw {
namespace {

using torch::nn::Module;

std::string join(const std::string& path, const std::string& name) { return path.empty() ? name : path + "." + name; }

/// Parameter names with their ranks: what makes two blocks alike.
std::vector<std::pair<std::string, std::int64_t>> signature(const Module& module) {
  std::vector<std::pair<std::string, std::int64_t>> names;
  for (const auto& item : module.named_parameters()) names.emplace_back(item.key(), item.value().dim());
  return names;
}

/// Children "0", "1", … without a gap.
std::vector<std::shared_ptr<Module>> numbered_children(const Module& module) {
  const auto children = module.named_children();
  std::vector<std::shared_ptr<Module>> numbered;
  while (const auto* child = children.find(std::to_string(numbered.size()))) numbered.push_back(*child);
  return numbered;
}

bool is_stack(const std::vector<std::shared_ptr<Module>>& blocks) {
  if (blocks.size() < 2) return false;
  const auto first = signature(*blocks.front());
  return !first.empty() && std::all_of(blocks.begin(), blocks.end(), [&first](const std::shared_ptr<Module>& block) {
    return signature(*block) == first;
  });
}

void collect_stacks(const Module& module, const std::string& path, std::vector<BlockStack>& stacks) {
  const auto blocks = numbered_children(module);
  const bool stack = is_stack(blocks);
  if (stack) {
    stacks.push_back(
        {.name = path.empty() ? "blocks" : path, .prefix = path, .blocks = static_cast<std::int64_t>(blocks.size())});
  }
  for (const auto& child : module.named_children()) {
    const bool is_block = std::find(blocks.begin(), blocks.end(), child.value()) != blocks.end();
    if (!stack || !is_block) collect_stacks(*child.value(), join(path, child.key()), stacks);
  }
}

bool contains_word(std::string text, const char* word) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char letter) { return std::tolower(letter); });
  return text.find(word) != std::string::npos;
}

std::vector<std::string> groups_of(const std::string& path, const std::string& name, const std::string& type) {
  std::vector<std::string> groups;
  const std::string full = join(path, name);
  if (contains_word(type, "norm") || contains_word(name, "norm")) groups.emplace_back("norms");
  if (contains_word(name, "bias")) groups.emplace_back("biases");
  if (contains_word(type, "embed") || contains_word(name, "embed")) groups.emplace_back("embeddings");
  if (contains_word(full, "projector") || contains_word(full, "connector")) groups.emplace_back("projectors");
  return groups;
}

/// Parameters of `module` itself and then of its children, in the order of Module::named_parameters.
void collect_parameters(const Module& module, const std::string& path, std::vector<ParameterInfo>& parameters) {
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    ParameterInfo info{.name = join(path, item.key()), .shape = item.value().sizes().vec()};
    info.dtype = item.value().scalar_type();
    info.groups = groups_of(path, item.key(), module.name());
    info.trainable_by_default = item.value().requires_grad();
    parameters.push_back(std::move(info));
  }
  for (const auto& child : module.named_children()) {
    collect_parameters(*child.value(), join(path, child.key()), parameters);
  }
}

/// "layers.3.mlp.weight" in a stack with prefix "layers" and 4 or more blocks: block 3.
void place_in_stack(ParameterInfo& parameter, const BlockStack& stack) {
  const std::string prefix = stack.prefix.empty() ? "" : stack.prefix + ".";
  if (parameter.name.compare(0, prefix.size(), prefix) != 0) return;
  for (std::int64_t block = 0; block < stack.blocks; ++block) {
    const std::string start = prefix + std::to_string(block) + ".";
    if (parameter.name.compare(0, start.size(), start) != 0) continue;
    parameter.stack = stack.name;
    parameter.block = block;
    return;
  }
}

}  // namespace

std::vector<BlockStack> find_block_stacks(const Module& module) {
  std::vector<BlockStack> stacks;
  collect_stacks(module, "", stacks);
  return stacks;
}

ModelLayout layout_of(const Module& module) {
  ModelLayout layout{.type = "module"};
  collect_parameters(module, "", layout.parameters);
  layout.stacks = find_block_stacks(module);
  StageInfo forward{.name = "forward", .reads = {"input"}, .writes = {"output"}};
  for (ParameterInfo& parameter : layout.parameters) {
    for (const BlockStack& stack : layout.stacks) place_in_stack(parameter, stack);
    forward.parameters.push_back(parameter.name);
  }
  layout.line.push_back(std::move(forward));
  layout.output_key = "output";
  return layout;
}

}  // namespace thaw
