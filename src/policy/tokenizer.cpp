#include "thaw/policy/tokenizer.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>

#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "tokenizer_files_impl.h"

namespace thaw {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJsonFile = "tokenizer.json";
constexpr const char* kModelFile = "tokenizer.model";

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool holds_tokenizer(const fs::path& folder) { return is_file(folder / kJsonFile) || is_file(folder / kModelFile); }

// ---- where to look ----

fs::path environment_path(const char* variable) {
  const char* value = std::getenv(variable);
  return value == nullptr ? fs::path{} : fs::path(value);
}

void add_below(std::vector<fs::path>& folders, const fs::path& base, const char* below) {
  if (!base.empty()) folders.push_back(base / below);
}

std::vector<fs::path> cache_folders() {
  std::vector<fs::path> folders;
  add_below(folders, environment_path("HF_HUB_CACHE"), "");
  add_below(folders, environment_path("HF_HOME"), "hub");
  add_below(folders, environment_path("XDG_CACHE_HOME"), "huggingface/hub");
  add_below(folders, environment_path("HOME"), ".cache/huggingface/hub");
  return folders;
}

/// "org/name" as the hub allows it: never a way out of the cache folder.
bool is_repository_name(const std::string& name) {
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.' || c == '/';
  });
  return plain && !name.empty() && name.front() != '/' && name.find("..") == std::string::npos &&
         std::count(name.begin(), name.end(), '/') <= 1;
}

std::string cache_entry(const std::string& repository) {
  std::string entry = "models--";
  for (const char c : repository) c == '/' ? entry += "--" : entry += c;
  return entry;
}

std::string trimmed(std::string text) {
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  return text;
}

/// The snapshot that refs/main names, then the others by name.
std::vector<fs::path> snapshots(const fs::path& entry) {
  std::vector<fs::path> folders;
  std::error_code ignored;
  for (fs::directory_iterator it(entry / "snapshots", ignored), end; !ignored && it != end; it.increment(ignored)) {
    folders.push_back(it->path());
  }
  std::sort(folders.begin(), folders.end());
  if (is_file(entry / "refs" / "main")) {
    constexpr std::size_t kMostBytes = 256;
    const std::string revision = trimmed(read_text(entry / "refs" / "main", kMostBytes));
    const auto is_main = [&](const fs::path& folder) { return folder.filename() == revision; };
    std::stable_partition(folders.begin(), folders.end(), is_main);
  }
  return folders;
}

void add_with_subfolder(std::vector<fs::path>& places, const fs::path& folder) {
  if (folder.empty()) return;
  places.push_back(folder);
  places.push_back(folder / "tokenizer");
}

/// Every folder that may hold the tokenizer, best first.
std::vector<fs::path> places_for(const std::string& name, const TokenizerSearch& search) {
  std::vector<fs::path> places;
  if (!search.override_folder.empty()) {
    add_with_subfolder(places, search.override_folder);
    return places;
  }
  const fs::path named(name);
  if (named.is_absolute()) places.push_back(named);
  const bool beneath = !name.empty() && named.is_relative() && name.find("..") == std::string::npos;
  if (beneath && !search.checkpoint.empty()) places.push_back(search.checkpoint / named);
  add_with_subfolder(places, search.checkpoint);
  if (!is_repository_name(name)) return places;
  for (const fs::path& cache : cache_folders()) {
    const auto found = snapshots(cache / cache_entry(name));
    places.insert(places.end(), found.begin(), found.end());
    if (found.empty()) places.push_back(cache / cache_entry(name));
  }
  return places;
}

std::string listed(const std::vector<fs::path>& places) {
  std::string text;
  for (const fs::path& place : places) text += (text.empty() ? "" : ", ") + place.string();
  return text;
}

}  // namespace

std::shared_ptr<const Tokenizer> load_tokenizer(const fs::path& folder) {
  const bool json = is_file(folder / kJsonFile);
  const bool model = is_file(folder / kModelFile);
  if (!json && !model) {
    throw IoError(Problem{.where = folder.string(),
                          .expected = std::string("a folder with ") + kJsonFile + " or " + kModelFile,
                          .found = fs::is_directory(folder) ? "neither" : "no such folder"});
  }
  const bool sentence_piece = model && (!json || detail::is_converted_sentence_piece(folder / kJsonFile));
  return sentence_piece ? detail::load_sentence_piece(folder) : detail::load_byte_level_bpe(folder);
}

std::shared_ptr<const Tokenizer> find_tokenizer(const std::string& name, const TokenizerSearch& search) {
  const std::vector<fs::path> places = places_for(name, search);
  for (const fs::path& place : places) {
    if (holds_tokenizer(place)) return load_tokenizer(place);
  }
  throw IoError(Problem{.where = "tokenizer '" + name + "'",
                        .expected = std::string(kJsonFile) + " or " + kModelFile + " in one of: " + listed(places),
                        .found = "neither in any",
                        .fix = "Give its folder with --tokenizer, or put the files into the checkpoint's 'tokenizer' "
                               "folder."});
}

void copy_tokenizer_files(const Tokenizer& tokenizer, const fs::path& folder) {
  for (const fs::path& file : tokenizer.files()) write_text_atomic(folder / file.filename(), read_text(file));
}

}  // namespace thaw
