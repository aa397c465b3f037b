// Steps that rewrite the task text.
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>

#include "processor_steps_impl.h"
#include "thaw/core/error.h"
#include "utf8_impl.h"

namespace thaw {
namespace detail {
namespace {

constexpr const char* kSmolVlaNewLine = "smolvla_new_line_processor";
constexpr const char* kPi0NewLine = "pi0_new_line_processor";

/// What Python's str.strip() removes.
bool is_python_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string stripped(std::string_view text) {
  while (!text.empty()) {
    const Utf8Char first = utf8_front(text);
    if (!is_python_space(first.code)) break;
    text.remove_prefix(first.bytes);
  }
  while (!text.empty()) {
    const Utf8Char last = utf8_back(text);
    if (!is_python_space(last.code)) break;
    text.remove_suffix(last.bytes);
  }
  return std::string(text);
}

/// Number of left edges of 256 equal bins on [-1, 1] that are <= x, minus one: -1 below the range, 255 above it.
/// x * 128 is exact, so an x next to an edge falls on the right side. NaN sorts last, as in numpy.digitize.
int bin_of(double x) {
  if (std::isnan(x)) return 255;
  return static_cast<int>(std::clamp(std::floor(x * 128.0) + 128.0, -1.0, 255.0));
}

std::string bins_text(const at::Tensor& state) {
  const at::Tensor values = state.to(at::kCPU, at::kDouble).contiguous();
  const double* value = values.const_data_ptr<double>();
  std::string text;
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    if (i > 0) text += ' ';
    text += std::to_string(bin_of(value[i]));
  }
  return text;
}

std::string prompt(std::string_view task, const at::Tensor& state) {
  std::string text = stripped(task);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '_' || c == '\n'; }, ' ');
  return "Task: " + text + ", State: " + bins_text(state) + ";\nAction: ";
}

}  // namespace

NewLineStep::NewLineStep(std::string registry_name, const StepSource& source)
    : ConfiguredStep(source.config), name_(std::move(registry_name)) {
  check_config_keys(config_, {}, source.where);
}

void NewLineStep::apply(Batch& batch) const {
  for (std::string& task : batch.tasks) {
    if (!task.ends_with('\n')) task += '\n';
  }
}

Pi05PromptStep::Pi05PromptStep(const StepSource& source) : ConfiguredStep(source.config) {
  check_config_keys(config_, {"max_state_dim", "task_key"}, source.where);
  check_task_key(json_field_or<std::string>(config_, "task_key", "task", source.where), source.where);
}

void Pi05PromptStep::apply(Batch& batch) const {
  const at::Tensor& state = batch.at(kStateKey);
  const auto tasks = static_cast<std::int64_t>(batch.tasks.size());
  if (state.dim() != 2 || state.size(0) != tasks) {
    throw MismatchError(Problem{.where = kStateKey,
                                .expected = "one row of state for each of " + std::to_string(tasks) + " tasks",
                                .found = c10::str("the shape ", state.sizes())});
  }
  for (std::int64_t row = 0; row < tasks; ++row) {
    std::string& task = batch.tasks[static_cast<std::size_t>(row)];
    check_utf8(task, "task");
    task = prompt(task, state[row]);
  }
}

}  // namespace detail

std::shared_ptr<ProcessorStep> make_new_line_step(std::string_view registry_name) {
  if (registry_name != detail::kSmolVlaNewLine && registry_name != detail::kPi0NewLine) {
    throw UsageError(Problem{.where = "new-line step",
                             .expected = std::string(detail::kSmolVlaNewLine) + " or " + detail::kPi0NewLine,
                             .found = "'" + std::string(registry_name) + "'"});
  }
  return std::make_shared<detail::NewLineStep>(std::string(registry_name));
}

std::shared_ptr<ProcessorStep> make_pi05_prompt_step() { return std::make_shared<detail::Pi05PromptStep>(); }

}  // namespace thaw
