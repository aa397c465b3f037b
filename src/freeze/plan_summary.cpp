// The plan as a table for people.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "class_names_impl.h"
#include "rule_impl.h"
#include "text_impl.h"
#include "thaw/freeze/plan.h"

namespace thaw {
namespace {

constexpr std::size_t kColumns = 100;
constexpr ParameterClass kClasses[] = {ParameterClass::trainable, ParameterClass::frozen, ParameterClass::dead};

/// GFLOP with three significant digits.
std::string giga(double flops) { return fmt::format("{:.3g} GFLOP", flops / 1e9); }

/// Words wrapped at kColumns, the first line indented by `first`, later ones by `indent`.
std::string wrapped(const std::string& text, std::size_t first, std::size_t indent) {
  std::string out(first, ' ');
  std::size_t column = first;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::size_t length = end - begin;
    if (column > indent && column + 1 + length > kColumns) {
      out += '\n';
      out.append(indent, ' ');
      column = indent;
    } else if (begin > 0) {
      out += ' ';
      ++column;
    }
    out.append(text, begin, length);
    column += length;
    begin = end + 1;
  }
  return out + "\n";
}

std::string stack_table(const FreezePlan& plan) {
  if (plan.stacks.empty()) return {};
  std::size_t width = 12;
  for (const StackPlan& stack : plan.stacks) width = std::max(width, stack.name.size());
  std::string text =
      fmt::format("  {:<{}}  {:>6}  {:>9}  {:>4}  trained\n", "stack", width, "blocks", "trainable", "dead");
  for (const StackPlan& stack : plan.stacks) {
    const std::string row = fmt::format("  {:<{}}  {:>6}  {:>9}  {:>4}  ", stack.name, width, stack.blocks,
                                        stack.trainable_blocks.size(), stack.dead_blocks.size());
    const std::string blocks = range_text(stack.trainable_blocks, "..", ", ");
    const std::string line = row + (blocks.empty() ? "none" : blocks);
    text += line.size() <= kColumns ? line + "\n" : row + blocks.substr(0, blocks.find(',')) + ", …\n";
  }
  return text + "\n";
}

std::string parameter_table(const FreezePlan& plan) {
  std::string text =
      fmt::format("  {:<12}  {:>7}  {:>15}  {:>7}  {:>10}\n", "parameters", "tensors", "elements", "share", "weights");
  std::int64_t all = 0;
  std::int64_t all_bytes = 0;
  std::int64_t all_tensors = 0;
  for (const ParameterClass part : kClasses) {
    all += plan.elements(part);
    all_bytes += plan.bytes(part);
    all_tensors += plan.tensors(part);
  }
  const auto row = [all](std::string_view name, std::int64_t tensors, std::int64_t elements, std::int64_t bytes) {
    const double share = all == 0 ? 0.0 : 100.0 * static_cast<double>(elements) / static_cast<double>(all);
    return fmt::format("  {:<12}  {:>7}  {:>15}  {:>6.2f}%  {:>10}\n", name, tensors, grouped(elements), share,
                       byte_size(static_cast<double>(bytes)));
  };
  for (const ParameterClass part : kClasses) {
    text += row(class_name(part), plan.tensors(part), plan.elements(part), plan.bytes(part));
  }
  return text + row("total", all_tensors, all, all_bytes) + "\n";
}

std::string decided_by(const FreezePlan& plan) {
  const auto found = std::find_if(plan.parameters.begin(), plan.parameters.end(),
                                  [&plan](const auto& parameter) { return parameter.name == plan.boundary_parameter; });
  return found == plan.parameters.end() ? "" : fmt::format(" (trained by {})", found->decided_by);
}

std::string boundary_text(const FreezePlan& plan) {
  const std::string stage = plan.boundary < plan.line.size() ? plan.line[plan.boundary].name : "";
  std::string text = wrapped(fmt::format("gradient boundary: stage {} of {}, {}, because of {}{}", plan.boundary + 1,
                                         plan.line.size(), stage, plan.boundary_parameter, decided_by(plan)),
                             2, 4);
  const auto walked = std::count_if(plan.line.begin(), plan.line.end(),
                                    [](const StagePlan& planned) { return planned.backward_walks; });
  text += fmt::format("  stages: {} run without grad, {} with; backward walks {}\n", plan.boundary,
                      plan.line.size() - plan.boundary, walked);
  for (const std::string& cause : plan.backward_causes) text += wrapped(cause, 2, 4);
  return text;
}

std::string cost_text(const FreezePlan& plan) {
  std::string text;
  if (plan.forward_flops() > 0) {
    text +=
        fmt::format("  per sample: forward {}, backward {}\n", giga(plan.forward_flops()), giga(plan.backward_flops()));
  }
  text += fmt::format("  memory: gradients {}, optimizer {} (8 bytes for each trainable element)\n",
                      byte_size(static_cast<double>(plan.bytes(ParameterClass::trainable))),
                      byte_size(static_cast<double>(plan.optimizer_bytes())));
  return text;
}

}  // namespace

std::string FreezePlan::summary() const {
  const std::string text = rules.empty() ? "the model's own default" : fmt::format("{}", fmt::join(rules, ", "));
  return wrapped(fmt::format("Freeze plan of {}: {}", model_type, text), 0, 4) + "\n" + stack_table(*this) +
         parameter_table(*this) + boundary_text(*this) + cost_text(*this);
}

}  // namespace thaw
