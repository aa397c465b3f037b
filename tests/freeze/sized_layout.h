// A line small enough to work its memory and operations out by hand.
#pragma once

#include "layouts.h"

namespace thaw::test {

/// Two tower blocks over an image, a block that makes what the head reads of it and of a text, and two head blocks over
/// noise. Each block is one 4 x 4 matrix. Per sample, in float32: image 48 elements, hidden 16, text 4 integers of 8
/// bytes, memory 8, noise, x and y 4 each for every draw.
inline ModelLayout sized_layout() {
  ModelLayout layout;
  layout.type = "sized";
  layout.stacks = {{"tower", "tower", 2}, {"head", "head", 2}};
  const auto block = [&layout](const std::string& stack, int index, bool trains) {
    ParameterInfo info = parameter(stack + "." + std::to_string(index) + ".weight", {4, 4}, trains);
    info.stack = stack;
    info.block = index;
    layout.parameters.push_back(info);
  };
  block("tower", 0, false);
  block("tower", 1, false);
  layout.parameters.push_back(parameter("middle.weight", {4, 4}, false));
  layout.parameters.push_back(parameter("unused.weight", {2, 4}, false));
  block("head", 0, true);
  block("head", 1, true);
  const auto stage = [&layout](StageInfo info) { layout.line.push_back(std::move(info)); };
  stage({.name = "tower.0",
         .reads = {"image"},
         .writes = {"hidden"},
         .parameters = {"tower.0.weight"},
         .flops = 100,
         .bytes = {.saved = {.fixed = 30}, .saved_for = {{{.fixed = 7}, {"tower.0.weight"}}}, .workspace = {200}}});
  stage({.name = "tower.1",
         .reads = {"hidden"},
         .writes = {"hidden"},
         .parameters = {"tower.1.weight"},
         .flops = 100,
         .bytes = {.saved = {.fixed = 30}, .saved_for = {{{.fixed = 7}, {"tower.1.weight"}}}, .workspace = {200}},
         .cut = "vision"});
  stage({.name = "middle",
         .reads = {"hidden", "text"},
         .writes = {"memory"},
         .parameters = {"middle.weight"},
         .flops = 50,
         .bytes = {.workspace = {.fixed = 20}},
         .cut = "kv"});
  stage({.name = "head.0",
         .reads = {"memory", "noise"},
         .writes = {"x"},
         .parameters = {"head.0.weight"},
         .flops = 30,
         .pair_flops = 10,
         .bytes = {.saved = {.fixed = 8, .per_draw = 16, .per_pair = 4},
                   .saved_for = {{{.per_draw = 16}, {"head.0.weight"}}},
                   .workspace = {.per_draw = 40}}});
  stage({.name = "head.1",
         .reads = {"x"},
         .writes = {"y"},
         .parameters = {"head.1.weight"},
         .flops = 20,
         .bytes = {.saved = {.per_draw = 16}, .workspace = {.per_draw = 40}}});
  layout.output_key = "y";
  layout.image_inputs = {"image"};
  const auto key = [&layout](const char* name, std::int64_t elements, at::ScalarType dtype, bool per_draw) {
    layout.keys.push_back(
        {.name = name, .elements = elements, .width = elements, .dtype = dtype, .per_draw = per_draw});
  };
  key("image", 48, at::kFloat, false);
  key("hidden", 16, at::kFloat, false);
  key("text", 4, at::kLong, false);
  key("memory", 8, at::kFloat, false);
  key("noise", 4, at::kFloat, true);
  key("x", 4, at::kFloat, true);
  key("y", 4, at::kFloat, true);
  return layout;
}

}  // namespace thaw::test
