#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>

#include "shard_folder_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/log.h"

namespace thaw::detail {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "shard-";
constexpr std::string_view kSuffix = ".safetensors";

/// 6 to 18 digits between prefix and suffix; nullopt for any other name.
std::optional<std::uint64_t> number_in(std::string_view name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix) || name.size() < kPrefix.size() + kSuffix.size()) {
    return std::nullopt;
  }
  const std::string_view digits = name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool good = error == std::errc{} && end == digits.data() + digits.size();
  return good && digits.size() >= 6 && digits.size() <= 18 ? std::optional(number) : std::nullopt;
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (!error) return;
  throw IoError(Problem{.where = path.string(),
                        .expected = "a folder for the prefix cache",
                        .found = error.message(),
                        .fix = "Choose another folder, or run without a cache."});
}

}  // namespace

ShardFolder::ShardFolder(const fs::path& path) : path_(path) {
  make_folder(path_);
  take_lock();
  list();
}

void ShardFolder::take_lock() {
  try {
    lock_.emplace(path_);
    static_cast<void>(remove_stale_temporaries(path_));
  } catch (const IoError& error) {
    lock_.reset();
    log_warning(
        fmt::format("prefix cache: {} What it holds is read; new entries are kept in memory only.", error.what()));
  }
}

void ShardFolder::list() {
  std::map<std::uint64_t, std::shared_ptr<Shard>> numbered;
  std::error_code error;
  for (fs::directory_iterator file(path_, error), end; !error && file != end; file.increment(error)) {
    const auto number = number_in(file->path().filename().string());
    if (!number) continue;
    std::error_code gone;  // another process may delete what is listed here
    const auto bytes = fs::file_size(file->path(), gone);
    numbered[*number] =
        std::make_shared<Shard>(Shard{.path = file->path(), .bytes = gone ? 0 : static_cast<std::int64_t>(bytes)});
  }
  if (error) {
    throw IoError(Problem{.where = path_.string(), .expected = "a readable folder", .found = error.message()});
  }
  if (!numbered.empty()) last_number_ = numbered.rbegin()->first;
  for (auto& [number, shard] : numbered) shards_.push_back(std::move(shard));
}

std::int64_t ShardFolder::bytes() const {
  std::int64_t sum = 0;
  for (const auto& shard : shards_) sum += shard->bytes;
  return sum;
}

fs::path ShardFolder::next_path() { return path_ / fmt::format("{}{:06}{}", kPrefix, ++last_number_, kSuffix); }

std::shared_ptr<Shard> ShardFolder::add(const fs::path& path, std::int64_t bytes) {
  shards_.push_back(std::make_shared<Shard>(Shard{.path = path, .bytes = bytes}));
  use(*shards_.back());
  return shards_.back();
}

std::vector<std::shared_ptr<Shard>> ShardFolder::make_room(std::int64_t more, std::int64_t budget) {
  const auto sooner = [](const auto& a, const auto& b) {
    return std::tuple(a->live > 0, a->last_used) < std::tuple(b->live > 0, b->last_used);
  };
  std::vector<std::shared_ptr<Shard>> taken;
  while (!shards_.empty() && bytes() > budget - more) {
    const auto first = std::min_element(shards_.begin(), shards_.end(), sooner);
    taken.push_back(*first);
    shards_.erase(first);
  }
  return taken;
}

void ShardFolder::remove(const Shard& shard) {
  std::erase_if(shards_, [&](const auto& other) { return other.get() == &shard; });
}

}  // namespace thaw::detail
