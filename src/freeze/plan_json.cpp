// plan.json: writing, and reading what nobody vouches for.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "class_names_impl.h"
#include "thaw/core/error.h"
#include "thaw/freeze/plan.h"
#include "thaw/tensor/dtype.h"

namespace thaw {
namespace {

constexpr std::size_t kMaxParameters = 1'000'000;
constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kDigestLength = 64;
/// Bytes of any dtype (at most 16 an element) must fit into int64.
constexpr std::int64_t kMaxElements = std::numeric_limits<std::int64_t>::max() / 16;

Json parameter_json(const PlannedParameter& parameter) {
  Json json;
  json["name"] = parameter.name;
  json["shape"] = parameter.shape;
  json["dtype"] = safetensors_dtype_name(parameter.dtype);
  json["class"] = class_name(parameter.parameter_class);
  json["decided_by"] = parameter.decided_by;
  if (!parameter.stack.empty()) {
    json["stack"] = parameter.stack;
    json["block"] = parameter.block;
  }
  if (!parameter.same_as.empty()) json["same_as"] = parameter.same_as;
  if (parameter.unread) json["unread"] = true;
  if (!parameter.digest.empty()) json["digest"] = parameter.digest;
  return json;
}

Json stack_json(const StackPlan& stack) {
  Json json;
  json["name"] = stack.name;
  json["blocks"] = stack.blocks;
  json["trainable_blocks"] = stack.trainable_blocks;
  json["dead_blocks"] = stack.dead_blocks;
  return json;
}

Json stage_json(const StagePlan& stage) {
  Json json;
  json["name"] = stage.name;
  json["runs_under_grad"] = stage.runs_under_grad;
  json["backward_walks"] = stage.backward_walks;
  json["forward_flops"] = stage.forward_flops;
  json["backward_flops"] = stage.backward_flops;
  return json;
}

template <class Item>
Json array_json(const std::vector<Item>& items, Json (*item_json)(const Item&)) {
  Json array = Json::array();
  for (const Item& item : items) array.push_back(item_json(item));
  return array;
}

/// Reads fields of one object; every error names the object and the field.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail("an object", object.type_name());
  }

  template <class T>
  [[nodiscard]] T get(std::string_view key) const {
    return json_field<T>(object_, key, where_);
  }

  template <class T>
  [[nodiscard]] T get_or(std::string_view key, T fallback) const {
    return json_field_or<T>(object_, key, std::move(fallback), where_);
  }

  [[nodiscard]] std::int64_t count(std::string_view key) const {
    const auto value = get<std::int64_t>(key);
    if (value < 0) fail_field(key, "0 or more", std::to_string(value));
    return value;
  }

  [[nodiscard]] double flops(std::string_view key) const {
    const auto value = get<double>(key);
    if (!std::isfinite(value) || value < 0) fail_field(key, "a finite number, 0 or more", fmt::format("{}", value));
    return value;
  }

  [[nodiscard]] std::string name(std::string_view key) const {
    auto value = get<std::string>(key);
    if (value.empty()) fail_field(key, "a name", "an empty text");
    return value;
  }

  /// 64 lower-case hex digits.
  void check_digest(std::string_view key, const std::string& digest) const {
    const bool hex = digest.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!hex || digest.size() != kDigestLength) fail_field(key, "64 lower-case hex digits", "'" + digest + "'");
  }

  /// Reads every item of an array of objects with `read(Fields)`.
  template <class Read>
  auto list(std::string_view key, Read read) const {
    const auto array = get<Json>(key);
    if (!array.is_array()) fail_field(key, "an array", array.type_name());
    if (array.size() > kMaxParameters) fail_field(key, "a sane number of items", std::to_string(array.size()));
    std::vector<decltype(read(*this))> items;
    for (std::size_t i = 0; i < array.size(); ++i) {
      items.push_back(read(Fields(array[i], fmt::format("{}: {}[{}]", where_, key, i))));
    }
    return items;
  }

  [[nodiscard]] Fields object(std::string_view key, const Json& value) const {
    return Fields(value, fmt::format("{}: {}", where_, key));
  }

  [[noreturn]] void fail_field(std::string_view key, const std::string& expected, const std::string& found,
                               const std::string& fix = {}) const {
    throw FormatError(
        Problem{.where = fmt::format("{}: {}", where_, key), .expected = expected, .found = found, .fix = fix});
  }

  [[noreturn]] void fail(const std::string& expected, const std::string& found) const {
    throw FormatError(Problem{.where = where_, .expected = expected, .found = found});
  }

 private:
  const Json& object_;
  std::string where_;
};

ParameterClass read_class(const Fields& fields) {
  const auto text = fields.get<std::string>("class");
  for (const ParameterClass known : {ParameterClass::trainable, ParameterClass::frozen, ParameterClass::dead}) {
    if (class_name(known) == text) return known;
  }
  fields.fail_field("class", "trainable, frozen or dead", "'" + text + "'");
}

std::vector<std::int64_t> read_shape(const Fields& fields) {
  auto shape = fields.get<std::vector<std::int64_t>>("shape");
  if (shape.size() > kMaxRank) {
    fields.fail_field("shape", fmt::format("at most {} sizes", kMaxRank), std::to_string(shape.size()));
  }
  std::int64_t left = kMaxElements;
  for (const std::int64_t size : shape) {
    if (size < 0) fields.fail_field("shape", "sizes of 0 or more", std::to_string(size));
    if (size > left) fields.fail_field("shape", "a tensor that can exist", "a product of sizes that overflows");
    left /= std::max<std::int64_t>(size, 1);
  }
  return shape;
}

PlannedParameter read_parameter(const Fields& fields) {
  PlannedParameter parameter{.name = fields.name("name"), .shape = read_shape(fields)};
  const auto dtype = fields.get<std::string>("dtype");
  const auto known = safetensors_dtype(dtype);
  if (!known) fields.fail_field("dtype", "a safetensors dtype such as F32", "'" + dtype + "'");
  parameter.dtype = *known;
  parameter.parameter_class = read_class(fields);
  parameter.decided_by = fields.name("decided_by");
  parameter.stack = fields.get_or<std::string>("stack", "");
  if (!parameter.stack.empty()) parameter.block = fields.count("block");
  parameter.same_as = fields.get_or<std::string>("same_as", "");
  parameter.unread = fields.get_or<bool>("unread", false);
  parameter.digest = fields.get_or<std::string>("digest", "");
  if (!parameter.digest.empty()) fields.check_digest("digest", parameter.digest);
  return parameter;
}

PlannedBuffer read_buffer(const Fields& fields) {
  PlannedBuffer buffer{.name = fields.name("name"), .digest = fields.get<std::string>("digest")};
  fields.check_digest("digest", buffer.digest);
  return buffer;
}

std::vector<std::int64_t> read_blocks(const Fields& fields, std::string_view key, std::int64_t blocks) {
  auto indices = fields.get<std::vector<std::int64_t>>(key);
  std::int64_t least = 0;
  for (const std::int64_t index : indices) {
    if (index < least || index >= blocks) {
      fields.fail_field(key, fmt::format("rising block numbers below {}", blocks), std::to_string(index));
    }
    least = index + 1;
  }
  return indices;
}

StackPlan read_stack(const Fields& fields) {
  StackPlan stack{.name = fields.name("name"), .blocks = fields.count("blocks")};
  stack.trainable_blocks = read_blocks(fields, "trainable_blocks", stack.blocks);
  stack.dead_blocks = read_blocks(fields, "dead_blocks", stack.blocks);
  return stack;
}

StagePlan read_stage(const Fields& fields) {
  StagePlan stage{.name = fields.name("name"), .runs_under_grad = fields.get<bool>("runs_under_grad")};
  stage.backward_walks = fields.get<bool>("backward_walks");
  stage.forward_flops = fields.flops("forward_flops");
  stage.backward_flops = fields.flops("backward_flops");
  return stage;
}

void check_version(const Fields& fields) {
  const auto version = fields.get<std::int64_t>("schema_version");
  if (version == FreezePlan::kSchemaVersion) return;
  fields.fail_field("schema_version", fmt::format("{}, the version this thaw reads", FreezePlan::kSchemaVersion),
                    std::to_string(version), "Use the thaw that wrote the file, or resolve the plan anew.");
}

void check_parameters(const Fields& fields, const FreezePlan& plan) {
  std::unordered_map<std::string, const PlannedParameter*> by_name;
  std::unordered_map<std::string, std::int64_t> blocks;
  for (const StackPlan& stack : plan.stacks) blocks[stack.name] = stack.blocks;
  std::int64_t elements_left = kMaxElements;
  for (const PlannedParameter& parameter : plan.parameters) {
    if (!by_name.emplace(parameter.name, &parameter).second) {
      fields.fail_field("parameters", "different names", "'" + parameter.name + "' twice");
    }
    elements_left -= parameter.numel();
    if (elements_left < 0) fields.fail_field("parameters", "a model that can exist", "a sum of sizes that overflows");
    const auto stack = blocks.find(parameter.stack);
    if (!parameter.stack.empty() && (stack == blocks.end() || parameter.block >= stack->second)) {
      fields.fail_field("parameters", "every parameter in a block of a stack of the plan",
                        fmt::format("'{}' in block {} of '{}'", parameter.name, parameter.block, parameter.stack));
    }
    if (parameter.same_as.empty()) continue;
    const auto first = by_name.find(parameter.same_as);
    const bool valid = first != by_name.end() && first->second->same_as.empty() && first->second != &parameter &&
                       first->second->parameter_class == parameter.parameter_class;
    if (!valid) {
      fields.fail_field("parameters", fmt::format("'{}' to be an earlier name of the same class", parameter.same_as),
                        fmt::format("'{}' the same as it", parameter.name));
    }
  }
  if (plan.names(ParameterClass::trainable).empty()) fields.fail_field("parameters", "a trainable one", "none");
}

void check_boundary(const Fields& fields, const FreezePlan& plan) {
  if (plan.boundary >= plan.line.size()) {
    fields.fail_field("boundary.stage", fmt::format("below {}", plan.line.size()), std::to_string(plan.boundary));
  }
  for (std::size_t i = 0; i < plan.line.size(); ++i) {
    const StagePlan& stage = plan.line[i];
    if (stage.runs_under_grad != (i >= plan.boundary) || (stage.backward_walks && !stage.runs_under_grad)) {
      fields.fail_field("line", "grad from the boundary on, and no backward before it",
                        "'" + stage.name + "' otherwise");
    }
  }
  if (!plan.trains(plan.boundary_parameter)) {
    fields.fail_field("boundary.parameter", "a trainable parameter", "'" + plan.boundary_parameter + "'");
  }
}

void read_boundary(const Fields& fields, const Json& object, FreezePlan& plan) {
  const Fields boundary = fields.object("boundary", object);
  plan.boundary = static_cast<std::size_t>(boundary.count("stage"));
  plan.boundary_parameter = boundary.name("parameter");
  plan.backward_causes = boundary.get<std::vector<std::string>>("causes");
}

}  // namespace

Json FreezePlan::to_json() const {
  Json json;
  json["schema_version"] = kSchemaVersion;
  json["model_type"] = model_type;
  json["rules"] = rules;
  json["digest"] = digest();
  json["boundary"]["stage"] = boundary;
  json["boundary"]["parameter"] = boundary_parameter;
  json["boundary"]["causes"] = backward_causes;
  json["stacks"] = array_json(stacks, stack_json);
  json["line"] = array_json(line, stage_json);
  json["parameters"] = array_json(parameters, parameter_json);
  Json& buffer_array = json["buffers"] = Json::array();
  for (const PlannedBuffer& buffer : buffers)
    buffer_array.push_back({{"name", buffer.name}, {"digest", buffer.digest}});
  return json;
}

FreezePlan FreezePlan::from_json(const Json& json, const std::string& where) {
  const Fields fields(json, where);
  check_version(fields);
  FreezePlan plan;
  plan.model_type = fields.get<std::string>("model_type");
  plan.rules = fields.get<std::vector<std::string>>("rules");
  const auto boundary = fields.get<Json>("boundary");
  read_boundary(fields, boundary, plan);
  plan.stacks = fields.list("stacks", read_stack);
  plan.line = fields.list("line", read_stage);
  plan.parameters = fields.list("parameters", read_parameter);
  plan.buffers = fields.list("buffers", read_buffer);
  check_parameters(fields, plan);
  check_boundary(fields, plan);
  const auto digest = fields.get<std::string>("digest");
  if (digest != plan.digest()) {
    fields.fail_field("digest", plan.digest() + ", that of the parameters' names, shapes and classes",
                      "'" + digest + "'");
  }
  return plan;
}

}  // namespace thaw
