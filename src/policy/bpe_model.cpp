#include <algorithm>
#include <queue>

#include "bpe_model_impl.h"
#include "thaw/core/error.h"
#include "utf8_impl.h"

namespace thaw::detail {
namespace {

constexpr std::int64_t kLargestId = (std::int64_t{1} << 31) - 1;

/// GPT-2's alphabet: printable bytes stand for themselves, the others in rising order become U+0100, U+0101, …
std::array<std::string, 256> make_byte_alphabet() {
  std::array<std::string, 256> alphabet;
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    alphabet[byte] = utf8_encode(printable ? byte : next++);
  }
  return alphabet;
}

const std::array<std::string, 256>& byte_alphabet() {
  static const std::array<std::string, 256> alphabet = make_byte_alphabet();
  return alphabet;
}

std::string spelled(std::string_view piece) {
  std::string text;
  for (const char c : piece) text += byte_alphabet()[static_cast<unsigned char>(c)];
  return text;
}

[[noreturn]] void throw_unsupported(const std::string& where, const std::string& key, const Json& value) {
  throw FormatError(Problem{.where = where + ", field '" + key + "'",
                            .expected = "byte-level BPE without it",
                            .found = value.dump(-1, ' ', true)});
}

/// Options that would change ids. Absent, null, false, 0 and "" leave them alone.
void check_unsupported(const Json& description, const std::string& where) {
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    const Json value = json_field_or<Json>(description, key, Json(nullptr), where);
    if (!value.is_null() && value != false && value != 0 && value != "") throw_unsupported(where, key, value);
  }
  const auto type = json_field_or<std::string>(description, "type", "BPE", where);
  if (type != "BPE") {
    throw FormatError(Problem{.where = where, .expected = "the model BPE", .found = "'" + type + "'"});
  }
}

/// A symbol of a piece, linked to its living neighbours.
struct Symbol {
  std::int64_t id = 0;
  std::ptrdiff_t previous = -1;
  std::ptrdiff_t next = -1;
  bool alive = true;
};

struct Candidate {
  std::int64_t rank = 0;
  std::ptrdiff_t position = 0;
  std::int64_t id = 0;
  /// The lowest rank is on top of the queue, the leftmost among equals.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

BpeModel::BpeModel(const Json& description, const std::string& where) {
  check_unsupported(description, where);
  read_vocabulary(description, where);
  read_merges(description, where);
  fuse_unknown_ = json_field_or(description, "fuse_unk", false, where);
  ignore_merges_ = json_field_or(description, "ignore_merges", false, where);
  const auto unknown = json_field_or<std::string>(description, "unk_token", "", where);
  if (unknown.empty()) return;
  unknown_id_ = id_of(unknown);
  if (!unknown_id_) {
    throw FormatError(Problem{
        .where = where + ", field 'unk_token'", .expected = "a token of the vocabulary", .found = "'" + unknown + "'"});
  }
}

void BpeModel::read_vocabulary(const Json& description, const std::string& where) {
  const std::string at = where + ", field 'vocab'";
  const Json vocabulary = json_field<Json>(description, "vocab", where);
  if (!vocabulary.is_object()) {
    throw FormatError(Problem{.where = at, .expected = "an object", .found = vocabulary.type_name()});
  }
  vocabulary_.reserve(vocabulary.size());
  for (const auto& [token, id] : vocabulary.items()) {
    const bool good = id.is_number_integer() && id >= 0 && id <= kLargestId;
    if (!good) {
      throw FormatError(Problem{.where = at + ", token '" + token + "'",
                                .expected = "an id from 0 to " + std::to_string(kLargestId),
                                .found = id.is_structured() ? id.type_name() : id.dump(-1, ' ', true)});
    }
    vocabulary_[token] = id.get<std::int64_t>();
    largest_id_ = std::max(largest_id_, id.get<std::int64_t>());
  }
  for (std::size_t byte = 0; byte < byte_id_.size(); ++byte) byte_id_[byte] = id_of(byte_alphabet()[byte]);
}

/// "a b", or ["a", "b"] in newer files.
void BpeModel::read_merges(const Json& description, const std::string& where) {
  const std::string at = where + ", field 'merges'";
  const auto list = json_field<std::vector<Json>>(description, "merges", where);
  std::int64_t rank = 0;
  for (const Json& entry : list) {
    const std::string here = at + ", entry " + std::to_string(rank);
    if (entry.is_string()) {
      const auto& text = entry.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;
      const std::size_t space = text.find(' ');
      const bool two = space != std::string::npos && text.find(' ', space + 1) == std::string::npos;
      if (!two) {
        throw FormatError(Problem{.where = here, .expected = "two tokens and a space", .found = "'" + text + "'"});
      }
      add_merge(text.substr(0, space), text.substr(space + 1), rank++, here);
    } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
      add_merge(entry[0].get<std::string>(), entry[1].get<std::string>(), rank++, here);
    } else {
      throw FormatError(Problem{.where = here, .expected = "a pair of tokens", .found = entry.type_name()});
    }
  }
}

void BpeModel::add_merge(const std::string& left, const std::string& right, std::int64_t rank,
                         const std::string& where) {
  for (const std::string& token : {left, right, left + right}) {
    if (id_of(token)) continue;
    throw FormatError(
        Problem{.where = where, .expected = "tokens of the vocabulary", .found = "the unknown token '" + token + "'"});
  }
  const auto key = static_cast<std::uint64_t>(*id_of(left)) << 32U | static_cast<std::uint64_t>(*id_of(right));
  merges_[key] = {.rank = rank, .id = *id_of(left + right)};
}

std::optional<std::int64_t> BpeModel::id_of(const std::string& token) const {
  const auto found = vocabulary_.find(token);
  if (found == vocabulary_.end()) return std::nullopt;
  return found->second;
}

const BpeModel::Merge* BpeModel::find_merge(std::int64_t left, std::int64_t right) const {
  const auto found = merges_.find(static_cast<std::uint64_t>(left) << 32U | static_cast<std::uint64_t>(right));
  return found == merges_.end() ? nullptr : &found->second;
}

/// One id a byte. A byte outside of the vocabulary becomes the unknown token, or vanishes where there is none.
std::vector<std::int64_t> BpeModel::byte_ids(std::string_view piece) const {
  std::vector<std::int64_t> ids;
  ids.reserve(piece.size());
  bool after_unknown = false;
  for (const char c : piece) {
    const auto& known = byte_id_[static_cast<unsigned char>(c)];
    if (known) {
      ids.push_back(*known);
    } else if (unknown_id_ && !(after_unknown && fuse_unknown_)) {
      ids.push_back(*unknown_id_);
    }
    after_unknown = !known;
  }
  return ids;
}

void BpeModel::encode(std::string_view piece, std::vector<std::int64_t>& ids) const {
  if (ignore_merges_) {
    if (const auto whole = id_of(spelled(piece))) {
      ids.push_back(*whole);
      return;
    }
  }
  merge_all(byte_ids(piece), ids);
}

void BpeModel::merge_all(const std::vector<std::int64_t>& symbols, std::vector<std::int64_t>& ids) const {
  const auto count = static_cast<std::ptrdiff_t>(symbols.size());
  std::vector<Symbol> line(symbols.size());
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    line[i] = {.id = symbols[i], .previous = i - 1, .next = i + 1 < count ? i + 1 : -1};
  }
  std::priority_queue<Candidate> queue;
  const auto offer = [&](std::ptrdiff_t position) {
    if (position < 0 || line[position].next < 0) return;
    const Merge* merge = find_merge(line[position].id, line[line[position].next].id);
    if (merge != nullptr) queue.push({.rank = merge->rank, .position = position, .id = merge->id});
  };
  for (std::ptrdiff_t i = 0; i < count; ++i) offer(i);

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = line[best.position];
    if (!left.alive || left.next < 0) continue;
    Symbol& right = line[left.next];
    // An entry is stale when its pair no longer gives the token it was queued for.
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->id != best.id) continue;
    left.id = best.id;
    left.next = right.next;
    right.alive = false;
    if (right.next >= 0) line[right.next].previous = best.position;
    offer(left.previous);
    offer(best.position);
  }
  for (const Symbol& symbol : line) {
    if (symbol.alive) ids.push_back(symbol.id);
  }
}

}  // namespace thaw::detail
