#include <fmt/format.h>

#include <algorithm>

#include "findings_impl.h"

namespace thaw::lerobot {
namespace {

constexpr std::size_t kListed = 20;  // a dataset with a thousand missing files needs no thousand lines

}  // namespace

void Findings::add(Kind kind, std::string text) {
  kinds_.push_back(kind);
  texts_.push_back(std::move(text));
}

std::string Findings::message() const {
  std::string text = fmt::format("dataset '{}': ", root_.string());
  if (texts_.size() == 1) return text + texts_.front();
  text += fmt::format("{} problems:", texts_.size());
  for (std::size_t i = 0; i < std::min(texts_.size(), kListed); ++i)
    text += fmt::format("\n  {}. {}", i + 1, texts_[i]);
  if (texts_.size() > kListed) text += fmt::format("\n  … and {} more", texts_.size() - kListed);
  return text;
}

void Findings::throw_if_any() const {
  if (texts_.empty()) return;
  const bool one_kind = std::all_of(kinds_.begin(), kinds_.end(), [this](Kind k) { return k == kinds_.front(); });
  if (one_kind && kinds_.front() == Kind::io) throw IoError(message());
  if (one_kind && kinds_.front() == Kind::format) throw FormatError(message());
  throw MismatchError(message());
}

}  // namespace thaw::lerobot
