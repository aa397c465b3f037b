// tokenizer.json, as huggingface/tokenizers reads it.
#include <algorithm>
#include <utility>

#include "added_tokens_impl.h"
#include "bpe_model_impl.h"
#include "pre_tokenizer_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/log.h"
#include "tokenizer_files_impl.h"
#include "utf8_impl.h"

namespace thaw::detail {
namespace {

constexpr const char* kTokenizerFile = "tokenizer.json";
constexpr JsonLimits kLimits{.max_bytes = std::size_t{64} << 20};

/// Ids that stand before and behind those of every text.
struct Template {
  std::vector<std::int64_t> before;
  std::vector<std::int64_t> after;
};

std::vector<std::int64_t> special_ids(const Json& processor, const std::string& name, const std::string& where) {
  const Json specials = json_field<Json>(processor, "special_tokens", where);
  return json_field<std::vector<std::int64_t>>(json_field<Json>(specials, name, where), "ids", where);
}

Template parse_template(const Json& processor, const std::string& where) {
  Template result;
  bool behind_text = false;
  for (const Json& part : json_field<std::vector<Json>>(processor, "single", where)) {
    if (part.is_object() && part.contains("Sequence") && !behind_text) {
      behind_text = true;
      continue;
    }
    const Json special = json_field<Json>(part, "SpecialToken", where);
    const auto ids = special_ids(processor, json_field<std::string>(special, "id", where), where);
    auto& side = behind_text ? result.after : result.before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (behind_text) return result;
  throw FormatError(Problem{.where = where + ", field 'single'", .expected = "a place for the text", .found = "none"});
}

Template parse_post_processor(const Json& processor, const std::string& where) {
  if (processor.is_null()) return {};
  const auto type = json_field<std::string>(processor, "type", where);
  if (type == "ByteLevel") return {};  // moves offsets, which nobody asks for
  if (type == "TemplateProcessing") return parse_template(processor, where + ", " + type);
  if (type == "Sequence") {
    Template result;
    for (const Json& part : json_field<std::vector<Json>>(processor, "processors", where)) {
      const Template inner = parse_post_processor(part, where + ", " + type);
      result.before.insert(result.before.begin(), inner.before.begin(), inner.before.end());
      result.after.insert(result.after.end(), inner.after.begin(), inner.after.end());
    }
    return result;
  }
  throw FormatError(Problem{.where = where,
                            .expected = "ByteLevel, TemplateProcessing or Sequence",
                            .found = "the post-processor '" + type + "'"});
}

void check_no_normalizer(const Json& file, const std::string& where) {
  const Json normalizer = json_field_or<Json>(file, "normalizer", Json(nullptr), where);
  if (normalizer.is_null()) return;
  const auto type = json_field<std::string>(normalizer, "type", where + ", field 'normalizer'");
  const bool empty =
      type == "Sequence" && json_field_or<std::vector<Json>>(normalizer, "normalizers", {}, where).empty();
  if (empty) return;
  throw FormatError(Problem{
      .where = where, .expected = "a tokenizer without a normalizer", .found = "the normalizer '" + type + "'"});
}

/// Numbers added tokens as the reference does when it loads a file: by the vocabulary, else one after the other behind
/// it. The ids that the file states are what they were when it was saved, and in a sound file the same.
class AddedTokenList {
 public:
  AddedTokenList(const BpeModel& model, const std::string& where)
      : model_(model), where_(where), next_id_(model.size()) {}

  /// A token that is known already keeps its id and takes the new flags.
  void add(AddedToken token) {
    if (token.content.empty()) return;
    const auto [place, is_new] = places_.try_emplace(token.content, tokens_.size());
    const std::int64_t id = is_new ? model_.id_of(token.content).value_or(next_id_) : tokens_[place->second].id;
    if (id != token.id) warn(token, id);
    token.id = id;
    next_id_ = std::max(next_id_, id + 1);
    if (is_new) {
      tokens_.push_back(std::move(token));
    } else {
      tokens_[place->second] = std::move(token);
    }
  }

  std::vector<AddedToken> take() { return std::move(tokens_); }

 private:
  void warn(const AddedToken& token, std::int64_t id) {
    if (std::exchange(warned_, true)) return;
    log_warning(where_ + ": the added token '" + token.content + "' is listed with the id " + std::to_string(token.id) +
                " and gets " + std::to_string(id) + ", as in the reference");
  }

  const BpeModel& model_;
  const std::string& where_;
  std::int64_t next_id_;
  std::vector<AddedToken> tokens_;
  bool warned_ = false;
  std::unordered_map<std::string, std::size_t> places_;  ///< content -> index in tokens_
};

/// Tokens of the file, then those that tokenizer_config.json adds or describes anew.
std::vector<AddedToken> parse_added_tokens(const Json& file, const std::vector<AddedToken>& of_config,
                                           const BpeModel& model, const std::string& where) {
  AddedTokenList list(model, where);
  const std::string at = where + ", field 'added_tokens'";
  for (const Json& entry : json_field_or<std::vector<Json>>(file, "added_tokens", {}, where)) {
    list.add(parse_added_token(entry, json_field<std::int64_t>(entry, "id", at), at));
  }
  for (const AddedToken& token : of_config) list.add(token);
  return list.take();
}

class ByteLevelBpe final : public FileTokenizer {
 public:
  ByteLevelBpe(const std::filesystem::path& folder, const Json& file)
      : FileTokenizer(folder, kTokenizerFile),
        model_(json_field<Json>(file, "model", where()), where() + ", field 'model'"),
        pre_tokenizer_(json_field_or<Json>(file, "pre_tokenizer", Json(nullptr), where()),
                       where() + ", field 'pre_tokenizer'"),
        template_(parse_post_processor(json_field_or<Json>(file, "post_processor", Json(nullptr), where()),
                                       where() + ", field 'post_processor'")),
        tokens_(parse_added_tokens(file, settings_.added_tokens, model_, where())),
        added_tokens_(tokens_) {
    check_no_normalizer(file, where());
    read_truncation_side(file);
    read_pad_token(file);
  }

  [[nodiscard]] std::vector<std::int64_t> encode(std::string_view text) const override;
  [[nodiscard]] std::int64_t vocabulary_size() const override;
  [[nodiscard]] AddedSpecials added_specials() const override {
    return {.before = static_cast<std::int64_t>(template_.before.size()),
            .after = static_cast<std::int64_t>(template_.after.size())};
  }

 private:
  void read_truncation_side(const Json& file);
  void read_pad_token(const Json& file);
  [[nodiscard]] std::optional<std::int64_t> id_of(const std::string& token) const;

  BpeModel model_;
  PreTokenizer pre_tokenizer_;
  Template template_;
  std::vector<AddedToken> tokens_;
  AddedTokens added_tokens_;
};

std::vector<std::int64_t> ByteLevelBpe::encode(std::string_view text) const {
  check_utf8(text, "text to tokenize");
  std::vector<std::int64_t> ids = template_.before;
  for (const TextPiece& piece : added_tokens_.split(text)) {
    if (piece.id) {
      ids.push_back(*piece.id);
      continue;
    }
    for (const std::string& word : pre_tokenizer_.split(piece.text)) model_.encode(word, ids);
  }
  ids.insert(ids.end(), template_.after.begin(), template_.after.end());
  return ids;
}

std::int64_t ByteLevelBpe::vocabulary_size() const {
  std::int64_t largest = model_.largest_id();
  for (const AddedToken& token : tokens_) largest = std::max(largest, token.id);
  return largest + 1;
}

std::optional<std::int64_t> ByteLevelBpe::id_of(const std::string& token) const {
  for (const AddedToken& added : tokens_) {
    if (added.content == token) return added.id;
  }
  return model_.id_of(token);
}

void ByteLevelBpe::read_truncation_side(const Json& file) {
  const Json truncation = json_field_or<Json>(file, "truncation", Json(nullptr), where());
  if (settings_.truncation_side || truncation.is_null()) return;
  const bool left = json_field_or<std::string>(truncation, "direction", "Right", where()) == "Left";
  settings_.truncation_side = left ? TruncationSide::left : TruncationSide::right;
}

/// A named token must exist. SmolVLM2's "<|im_end|>" is taken where nothing names one.
void ByteLevelBpe::read_pad_token(const Json& file) {
  std::optional<std::string> name = settings_.pad_token;
  const Json padding = json_field_or<Json>(file, "padding", Json(nullptr), where());
  if (!name && !padding.is_null()) name = json_field<std::string>(padding, "pad_token", where() + ", field 'padding'");
  pad_id_ = id_of(name.value_or("<|im_end|>"));
  if (!name || pad_id_) return;
  throw FormatError(
      Problem{.where = where(), .expected = "the padding token '" + *name + "' among the tokens", .found = "none"});
}

}  // namespace

std::shared_ptr<const Tokenizer> load_byte_level_bpe(const std::filesystem::path& folder) {
  return std::make_shared<ByteLevelBpe>(folder, read_json(folder / kTokenizerFile, kLimits));
}

bool is_converted_sentence_piece(const std::filesystem::path& tokenizer_json) {
  const Json file = read_json(tokenizer_json, kLimits);
  const Json model = json_field_or<Json>(file, "model", Json::object(), tokenizer_json.string());
  return json_field_or(model, "byte_fallback", false, tokenizer_json.string()) ||
         json_field_or<std::string>(model, "type", "", tokenizer_json.string()) == "Unigram";
}

}  // namespace thaw::detail
