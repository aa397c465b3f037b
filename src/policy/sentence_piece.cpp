// tokenizer.model, read by SentencePiece. Reference: Kudo and Richardson, "SentencePiece", EMNLP 2018.
#include <sentencepiece_processor.h>

#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "tokenizer_files_impl.h"
#include "utf8_impl.h"

namespace thaw::detail {
namespace {

constexpr const char* kModelFile = "tokenizer.model";

/// Prefix and suffix follow the conventions of the Llama and Gemma families: BOS unless the settings say no, EOS only
/// when they say yes. What the model file says of dummy prefixes and spaces is done by SentencePiece itself.
class SentencePieceTokenizer final : public FileTokenizer {
 public:
  explicit SentencePieceTokenizer(const std::filesystem::path& folder) : FileTokenizer(folder, kModelFile) {
    const std::string model = read_text(vocabulary_path());
    const auto status = processor_.LoadFromSerializedProto(model);
    if (model.empty() || !status.ok()) {
      throw FormatError(Problem{.where = where(),
                                .expected = "a SentencePiece model",
                                .found = model.empty() ? "an empty file" : status.ToString()});
    }
    add_bos_ = settings_.add_bos.value_or(true) && processor_.bos_id() >= 0;
    add_eos_ = settings_.add_eos.value_or(false) && processor_.eos_id() >= 0;
    read_pad_token();
  }

  [[nodiscard]] std::vector<std::int64_t> encode(std::string_view text) const override {
    check_utf8(text, "text to tokenize");
    std::vector<int> pieces;
    const auto status = processor_.Encode(text, &pieces);
    if (!status.ok()) throw FormatError(Problem{.where = where(), .found = status.ToString()});
    std::vector<std::int64_t> ids;
    ids.reserve(pieces.size() + 2);
    if (add_bos_) ids.push_back(processor_.bos_id());
    ids.insert(ids.end(), pieces.begin(), pieces.end());
    if (add_eos_) ids.push_back(processor_.eos_id());
    return ids;
  }

  [[nodiscard]] std::int64_t vocabulary_size() const override { return processor_.GetPieceSize(); }
  [[nodiscard]] AddedSpecials added_specials() const override {
    return {.before = add_bos_ ? 1 : 0, .after = add_eos_ ? 1 : 0};
  }

 private:
  void read_pad_token() {
    if (!settings_.pad_token) {
      if (processor_.pad_id() >= 0) pad_id_ = processor_.pad_id();
      return;
    }
    const int id = processor_.PieceToId(*settings_.pad_token);
    const bool known = processor_.IdToPiece(id) == *settings_.pad_token;
    if (!known) {
      throw FormatError(Problem{.where = where(),
                                .expected = "the padding token '" + *settings_.pad_token + "' among the pieces",
                                .found = "none"});
    }
    pad_id_ = id;
  }

  sentencepiece::SentencePieceProcessor processor_;
  bool add_bos_ = false;
  bool add_eos_ = false;
};

}  // namespace

std::shared_ptr<const Tokenizer> load_sentence_piece(const std::filesystem::path& folder) {
  return std::make_shared<SentencePieceTokenizer>(folder);
}

}  // namespace thaw::detail
