#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "streams_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

std::string place(const std::string& stack, const std::string& part) {
  return "stream of '" + stack + "'" + (part.empty() ? "" : ", part '" + part + "'");
}

std::vector<TokenGroup> all_of_one_kind(const at::Tensor& hidden) {
  const std::int64_t rows = hidden.numel() / (hidden.size(0) * hidden.size(-1));
  return {{.name = "token", .rows = at::ones({hidden.size(0), rows}, hidden.options().dtype(at::kBool))}};
}

/// (1, …, d) -> (R, d)
at::Tensor flat_rows(const at::Tensor& hidden) { return hidden.reshape({-1, hidden.size(-1)}); }

void check_hidden(const std::string& where, const at::Tensor& hidden) {
  const bool usable = hidden.defined() && hidden.dim() >= 2 && hidden.is_floating_point() && hidden.size(0) == 1;
  if (usable) return;
  throw UsageError(Problem{.where = where,
                           .expected = "a floating-point tensor (1, …, rows, width) of one sample",
                           .found = hidden.defined() ? fmt::format("({})", fmt::join(hidden.sizes(), ", ")) : "none"});
}

}  // namespace

void append_rows(std::vector<at::Tensor>& all, const std::vector<at::Tensor>& rows) {
  if (all.empty()) {
    all = rows;
    return;
  }
  all.resize(std::min(all.size(), rows.size()));
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = at::cat({all[i], rows[i]});
}

at::Tensor StreamRecorder::before(const std::string& stack, at::Tensor hidden, std::vector<TokenGroup> groups,
                                  const std::string& part) {
  static_cast<void>(layout_->stack(stack));
  check_hidden(place(stack, part), hidden);
  if (!stacks_.contains(stack)) return hidden;
  if (gradients_ && !hidden.requires_grad()) hidden = hidden.detach().requires_grad_();
  if (groups.empty()) groups = all_of_one_kind(hidden);
  streams_[stack][part] = {.states = {hidden}, .groups = std::move(groups)};
  return hidden;
}

at::Tensor StreamRecorder::after(const std::string& stack, std::int64_t block, at::Tensor hidden,
                                 const std::string& part) {
  static_cast<void>(layout_->stack(stack));
  check_hidden(place(stack, part), hidden);
  if (!stacks_.contains(stack)) return hidden;
  std::vector<at::Tensor>& states = streams_[stack][part].states;
  const bool in_order = static_cast<std::int64_t>(states.size()) == block + 1;
  if (!in_order || hidden.sizes() != states.front().sizes()) {
    throw UsageError(Problem{.where = place(stack, part),
                             .expected = states.empty()
                                             ? "before() first"
                                             : fmt::format("block {} with the shape of the stream before it, ({})",
                                                           states.size() - 1, fmt::join(states.front().sizes(), ", ")),
                             .found = fmt::format("block {} with ({})", block, fmt::join(hidden.sizes(), ", "))});
  }
  states.push_back(hidden);
  return hidden;
}

std::int64_t most_states(const Streams& streams) {
  std::size_t count = 0;
  for (const auto& [part, stream] : streams) count = std::max(count, stream.states.size());
  return static_cast<std::int64_t>(count);
}

std::map<std::string, std::vector<at::Tensor>> rows_by_group(const Streams& streams) {
  std::map<std::string, std::vector<at::Tensor>> groups;
  for (const auto& [part, stream] : streams) {
    for (const TokenGroup& group : stream.groups) {
      const at::Tensor rows = group.rows.flatten().nonzero().flatten();
      if (rows.numel() == 0) continue;
      std::vector<at::Tensor> chosen;
      for (const at::Tensor& state : stream.states) chosen.push_back(flat_rows(state.detach()).index_select(0, rows));
      append_rows(groups[group.name], chosen);
    }
  }
  return groups;
}

}  // namespace thaw
