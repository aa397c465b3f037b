#include <charconv>

#include "thaw/core/error.h"
#include "thaw/core/sha256.h"
#include "tokenizer_files_impl.h"

namespace thaw::detail {
namespace {

constexpr const char* kConfigFile = "tokenizer_config.json";
constexpr const char* kSpecialTokensFile = "special_tokens_map.json";

/// "pad_token" is a text, or an object with the text as "content".
std::optional<std::string> parse_pad_token(const Json& object, const std::string& where) {
  const Json token = json_field_or<Json>(object, "pad_token", Json(nullptr), where);
  if (token.is_null()) return std::nullopt;
  if (token.is_string()) return token.get<std::string>();
  return json_field<std::string>(token, "content", where + ", field 'pad_token'");
}

std::optional<TruncationSide> parse_truncation_side(const Json& object, const std::string& where) {
  const auto word = json_field_or<std::string>(object, "truncation_side", "", where);
  if (word.empty()) return std::nullopt;
  if (word == "left") return TruncationSide::left;
  if (word == "right") return TruncationSide::right;
  throw FormatError(Problem{
      .where = where + ", field 'truncation_side'", .expected = "\"left\" or \"right\"", .found = "'" + word + "'"});
}

std::optional<bool> parse_flag(const Json& object, const char* key, const std::string& where) {
  if (!object.contains(key) || object[key].is_null()) return std::nullopt;
  return json_field<bool>(object, key, where);
}

std::int64_t parse_id(const std::string& text, const std::string& where) {
  std::int64_t id = -1;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error == std::errc{} && rest == text.data() + text.size() && id >= 0) return id;
  throw FormatError(Problem{.where = where, .expected = "token ids for keys", .found = "'" + text + "'"});
}

std::vector<AddedToken> parse_added_tokens_decoder(const Json& object, const std::string& where) {
  const Json decoder = json_field_or<Json>(object, "added_tokens_decoder", Json::object(), where);
  if (!decoder.is_object()) {
    throw FormatError(Problem{.where = where + ", field 'added_tokens_decoder'", .expected = "an object"});
  }
  std::vector<AddedToken> tokens;
  for (const auto& [key, entry] : decoder.items())
    tokens.push_back(parse_added_token(entry, parse_id(key, where), where));
  return tokens;
}

/// A cache key: names and contents.
std::string digest_of(const std::vector<std::filesystem::path>& files) {
  Sha256 hash;
  for (const auto& file : files) hash.update(file.filename().string() + '\n' + sha256_file(file) + '\n');
  return hash.hex();
}

}  // namespace

AddedToken parse_added_token(const Json& entry, std::int64_t id, const std::string& where) {
  const bool special = json_field_or(entry, "special", false, where);
  return {.id = id,
          .content = json_field<std::string>(entry, "content", where),
          .single_word = json_field_or(entry, "single_word", false, where),
          .lstrip = json_field_or(entry, "lstrip", false, where),
          .rstrip = json_field_or(entry, "rstrip", false, where),
          .normalized = json_field_or(entry, "normalized", !special, where)};
}

std::vector<std::filesystem::path> existing_files(const std::filesystem::path& folder,
                                                  std::initializer_list<const char*> names) {
  std::vector<std::filesystem::path> files;
  for (const char* name : names) {
    if (std::filesystem::exists(folder / name)) files.push_back(folder / name);
  }
  return files;
}

TokenizerSettings read_tokenizer_settings(const std::filesystem::path& folder) {
  TokenizerSettings settings;
  for (const auto& file : existing_files(folder, {kConfigFile})) {
    const Json config = read_json(file);
    const std::string where = file.string();
    settings.pad_token = parse_pad_token(config, where);
    settings.truncation_side = parse_truncation_side(config, where);
    settings.add_bos = parse_flag(config, "add_bos_token", where);
    settings.add_eos = parse_flag(config, "add_eos_token", where);
    settings.added_tokens = parse_added_tokens_decoder(config, where);
  }
  for (const auto& file : existing_files(folder, {kSpecialTokensFile})) {
    if (!settings.pad_token) settings.pad_token = parse_pad_token(read_json(file), file.string());
  }
  return settings;
}

FileTokenizer::FileTokenizer(const std::filesystem::path& folder, const char* vocabulary_file)
    : settings_(read_tokenizer_settings(folder)), files_{folder / vocabulary_file} {
  for (auto& file : existing_files(folder, {kConfigFile, kSpecialTokensFile})) files_.push_back(std::move(file));
  digest_ = digest_of(files_);
}

std::int64_t FileTokenizer::pad_id() const {
  if (pad_id_) return *pad_id_;
  throw FormatError(Problem{.where = where(),
                            .expected = "a padding token",
                            .found = "none",
                            .fix = "Name one as \"pad_token\" in tokenizer_config.json beside it."});
}

TruncationSide FileTokenizer::truncation_side() const {
  return settings_.truncation_side.value_or(TruncationSide::right);
}

}  // namespace thaw::detail
