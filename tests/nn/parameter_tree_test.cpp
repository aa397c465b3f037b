// Modules made from a table of names.
#include "thaw/nn/parameter_tree.h"

#include <torch/nn/module.h>

#include "thaw/core/error.h"

namespace thaw::nn::parameter_tree_test {
namespace {

std::vector<NamedTensor> table(const std::vector<std::string>& names) {
  std::vector<NamedTensor> tensors;
  for (const std::string& name : names) tensors.push_back({.name = name, .tensor = at::zeros({2})});
  return tensors;
}

std::string message_of(const std::vector<std::string>& names) {
  try {
    static_cast<void>(make_parameter_tree(table(names)));
  } catch (const UsageError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(ParameterTree, NamesAndOrderAreThoseOfTheTable) {
  const std::vector<std::string> names{"a.layers.0.weight", "a.layers.0.bias", "a.layers.1.weight", "a.norm.weight",
                                       "b.weight"};
  const auto module = make_parameter_tree(table(names));
  EXPECT_EQ(module->named_parameters().keys(), names);
}

TEST(ParameterTree, ParametersShareTheMemoryOfTheTableAndFollowTheModule) {
  const auto tensors = table({"a.weight"});
  const auto module = make_parameter_tree(tensors);
  const ParameterMap handles = module->named_parameters();
  EXPECT_EQ(handles["a.weight"].data_ptr(), tensors[0].tensor.data_ptr());
  EXPECT_TRUE(handles["a.weight"].requires_grad());
  module->to(at::kDouble);
  EXPECT_EQ(handles["a.weight"].scalar_type(), at::kDouble);
}

TEST(ParameterTree, IllFormedNamesAreRefused) {
  EXPECT_THAT(message_of({"a..weight"}), testing::HasSubstr("empty segment"));
  EXPECT_THAT(message_of({"a."}), testing::HasSubstr("empty segment"));
  EXPECT_THAT(message_of({""}), testing::HasSubstr("empty segment"));
  EXPECT_THAT(message_of({"a.weight", "a.weight"}), testing::HasSubstr("twice"));
  EXPECT_THAT(message_of({"a.weight", "a.weight.scale"}), testing::HasSubstr("being a parameter"));
  EXPECT_THAT(message_of({"a.weight.scale", "a.weight"}), testing::HasSubstr("being a module"));
}

TEST(ParameterTree, AMissingParameterIsNamedWithTheNearest) {
  const auto module = make_parameter_tree(table({"layer.weight", "layer.bias"}));
  const ParameterMap handles = module->named_parameters();
  try {
    static_cast<void>(find_parameter(handles, "layer.wieght"));
    FAIL() << "nothing was thrown";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("'layer.weight'"));
  }
}

}  // namespace
}  // namespace thaw::nn::parameter_tree_test
