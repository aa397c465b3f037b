#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "processor_steps_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"

namespace thaw {

void TokenizerStepOptions::validate() const {
  constexpr std::int64_t kMost = 1'000'000;
  if (max_length < 1 || max_length > kMost) {
    throw UsageError(Problem{.where = "tokenizer step: max_length",
                             .expected = "1 to " + std::to_string(kMost),
                             .found = std::to_string(max_length)});
  }
  if (task_key != "task") {
    throw UsageError(Problem{.where = "tokenizer step: task_key", .expected = "'task'", .found = "'" + task_key + "'"});
  }
}

namespace detail {
namespace {

Json to_json(const TokenizerStepOptions& options) {
  Json config{{"max_length", options.max_length},
              {"task_key", options.task_key},
              {"padding_side", options.padding_side == PaddingSide::right ? "right" : "left"},
              {"padding", options.padding == TokenPadding::longest ? "longest" : "max_length"},
              {"truncation", options.truncation}};
  if (!options.tokenizer_name.empty()) config["tokenizer_name"] = options.tokenizer_name;
  return config;
}

[[noreturn]] void throw_bad_value(const std::string& where, const char* key, const char* expected, const Json& found) {
  throw FormatError(
      Problem{.where = where + ", field '" + key + "'", .expected = expected, .found = found.dump(-1, ' ', true)});
}

TokenPadding parse_padding(const Json& config, const std::string& where) {
  const Json value = json_field_or<Json>(config, "padding", "max_length", where);
  if (value == "longest" || value == true) return TokenPadding::longest;
  if (value == "max_length") return TokenPadding::max_length;
  throw_bad_value(where, "padding", "\"longest\" or \"max_length\"", value);
}

PaddingSide parse_padding_side(const Json& config, const std::string& where) {
  const Json value = json_field_or<Json>(config, "padding_side", "right", where);
  if (value == "right") return PaddingSide::right;
  if (value == "left") return PaddingSide::left;
  throw_bad_value(where, "padding_side", "\"right\" or \"left\"", value);
}

TokenizerStepOptions parse_tokenizer_options(const Json& config, const std::string& where) {
  check_config_keys(config, {"max_length", "task_key", "padding_side", "padding", "truncation", "tokenizer_name"},
                    where);
  TokenizerStepOptions options;
  options.max_length = json_field_or(config, "max_length", options.max_length, where);
  options.task_key = json_field_or(config, "task_key", options.task_key, where);
  options.truncation = json_field_or(config, "truncation", options.truncation, where);
  options.tokenizer_name = json_field_or(config, "tokenizer_name", options.tokenizer_name, where);
  options.padding = parse_padding(config, where);
  options.padding_side = parse_padding_side(config, where);
  check_task_key(options.task_key, where);
  if (options.max_length < 1) throw_bad_value(where, "max_length", "at least 1", config["max_length"]);
  return options;
}

/// Cuts the text's ids to `length`; the special tokens that the tokenizer adds stay.
void truncate(std::vector<std::int64_t>& ids, std::int64_t length, const Tokenizer& tokenizer) {
  const auto excess = static_cast<std::int64_t>(ids.size()) - length;
  if (excess <= 0) return;
  const AddedSpecials specials = tokenizer.added_specials();
  if (specials.before + specials.after > length) {
    throw MismatchError(Problem{.where = "tokenizer step: max_length",
                                .expected = "room for the special tokens of the tokenizer",
                                .found = std::to_string(length)});
  }
  const std::int64_t begin = tokenizer.truncation_side() == TruncationSide::left
                                 ? specials.before
                                 : static_cast<std::int64_t>(ids.size()) - specials.after - excess;
  ids.erase(ids.begin() + begin, ids.begin() + begin + excess);
}

/// Where tokens go: beside the observations.
at::Device device_of(const Batch& batch) {
  for (const auto& [key, tensor] : batch.tensors) {
    if (key.starts_with("observation.")) return tensor.device();
  }
  const auto action = batch.tensors.find(kActionKey);
  return action == batch.tensors.end() ? at::Device(at::kCPU) : action->second.device();
}

std::int64_t row_length(const std::vector<std::vector<std::int64_t>>& rows, const TokenizerStepOptions& options) {
  std::size_t longest = 0;
  for (const auto& ids : rows) longest = std::max(longest, ids.size());
  const auto length = static_cast<std::int64_t>(longest);
  if (options.padding == TokenPadding::longest) return length;
  if (length > options.max_length) {
    throw MismatchError(Problem{.where = "tokenizer step",
                                .expected = "at most " + std::to_string(options.max_length) + " tokens (max_length)",
                                .found = std::to_string(length),
                                .fix = "Shorten the task or turn truncation on."});
  }
  return options.max_length;
}

}  // namespace

std::shared_ptr<const Tokenizer> LazyTokenizer::get() {
  const std::scoped_lock lock(mutex_);
  if (!tokenizer_) tokenizer_ = find_tokenizer(name_, search_);
  return tokenizer_;
}

TokenizerStep::TokenizerStep(TokenizerStepOptions options, std::shared_ptr<LazyTokenizer> tokenizer)
    : ConfiguredStep(to_json(options)), options_(std::move(options)), tokenizer_(std::move(tokenizer)) {}

TokenizerStep::TokenizerStep(const StepSource& source)
    : ConfiguredStep(source.config),
      options_(parse_tokenizer_options(source.config, source.where)),
      artifacts_(source.artifacts) {
  std::string name = options_.tokenizer_name;
  if (const auto artifact = artifacts_.find("tokenizer_name"); artifact != artifacts_.end()) {
    name = resolve_beneath(source.folder, artifact->second, source.where).string();
  }
  tokenizer_ = std::make_shared<LazyTokenizer>(std::move(name), source.tokenizers);
}

void TokenizerStep::apply(Batch& batch) const {
  const std::shared_ptr<const Tokenizer> tokenizer = tokenizer_->get();
  std::vector<std::vector<std::int64_t>> rows;
  rows.reserve(batch.tasks.size());
  for (const std::string& task : batch.tasks) {
    rows.push_back(tokenizer->encode(task));
    if (options_.truncation) truncate(rows.back(), options_.max_length, *tokenizer);
  }

  const auto count = static_cast<std::int64_t>(rows.size());
  const std::int64_t length = row_length(rows, options_);
  at::Tensor tokens = at::full({count, length}, tokenizer->pad_id(), at::kLong);
  at::Tensor mask = at::zeros({count, length}, at::kBool);
  for (std::int64_t row = 0; row < count; ++row) {
    const auto& ids = rows[static_cast<std::size_t>(row)];
    const auto used = static_cast<std::int64_t>(ids.size());
    const std::int64_t begin = options_.padding_side == PaddingSide::right ? 0 : length - used;
    tokens[row].slice(0, begin, begin + used).copy_(at::tensor(ids, at::kLong));
    mask[row].slice(0, begin, begin + used).fill_(true);
  }
  const at::Device device = device_of(batch);
  batch.tensors[kTokensKey] = tokens.to(device);
  batch.tensors[kAttentionMaskKey] = mask.to(device);
}

}  // namespace detail

std::shared_ptr<ProcessorStep> make_tokenizer_step(TokenizerStepOptions options,
                                                   std::shared_ptr<const Tokenizer> tokenizer) {
  options.validate();
  if (!tokenizer) throw UsageError(Problem{.where = "tokenizer step", .expected = "a tokenizer", .found = "null"});
  auto holder = std::make_shared<detail::LazyTokenizer>(std::move(tokenizer));
  return std::make_shared<detail::TokenizerStep>(std::move(options), std::move(holder));
}

std::shared_ptr<ProcessorStep> make_tokenizer_step(TokenizerStepOptions options, TokenizerSearch search) {
  options.validate();
  auto holder = std::make_shared<detail::LazyTokenizer>(options.tokenizer_name, std::move(search));
  return std::make_shared<detail::TokenizerStep>(std::move(options), std::move(holder));
}

}  // namespace thaw
