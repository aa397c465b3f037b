#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <utility>

#include "shard_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/core/sha256.h"
#include "thaw/tensor/dtype.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::detail {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSchemaKey = "thaw.cache.schema";
constexpr const char* kIdentityKey = "thaw.cache.identity";
constexpr const char* kFieldsKey = "thaw.cache.identity_fields";
constexpr const char* kEntriesKey = "thaw.cache.entries";
constexpr std::string_view kScalesMark = "#scale";

Json key_json(const CacheKey& key) { return Json{{"frame", key.frame}, {"text", key.text}, {"view", key.view}}; }

std::string piece_name(std::size_t number, bool scales, const std::string& key) {
  return fmt::format("{:06}{}/{}", number, scales ? kScalesMark : "", key);
}

}  // namespace

std::size_t PendingEntry::header_bytes() const {
  constexpr std::size_t kOfATensor = 150;
  constexpr std::size_t kOfAnEntry = 250;
  std::size_t sum = kOfAnEntry + 2 * key.text.size();
  for (const StoredTensor& tensor : block.layout->tensors()) sum += 2 * (kOfATensor + 2 * tensor.key.size());
  return sum;
}

std::shared_ptr<const BlockLayout> LayoutTable::intern(const std::shared_ptr<const BlockLayout>& layout) {
  const std::string& text = layout->text();
  const std::lock_guard lock(mutex_);
  return layouts_.try_emplace(text, layout).first->second;
}

std::string entry_digest(const std::string& identity, const CacheKey& key, const Block& block) {
  return Sha256()
      .update(fmt::format("thaw.cache.entry {}\n{}\n{}\n{}\n", kShardSchema, identity, key_json(key).dump(),
                          block.layout->text()))
      .update(readable_bytes(block.bytes))
      .hex();
}

void check_utf8(const std::string& text, const std::string& where) {
  try {
    static_cast<void>(Json(text).dump());
  } catch (const Json::exception&) {
    throw UsageError(Problem{.where = where, .expected = "UTF-8", .found = "bytes that are none"});
  }
}

// ---- writing ----

namespace {

/// The forms of the tensors that are not kept exactly, by key.
Json forms_json(const BlockLayout& layout) {
  Json forms = Json::object();
  for (const StoredTensor& tensor : layout.tensors()) {
    if (tensor.storage == CacheStorage::exact) continue;
    forms[tensor.key] = {{"storage", cache_storage_name(tensor.storage)},
                         {"dtype", safetensors_dtype_name(tensor.dtype)}};
  }
  return forms;
}

Json entry_json(const PendingEntry& entry) {
  Json json = key_json(entry.key);
  json["sha256"] = entry.sha256;
  json["forms"] = forms_json(*entry.block.layout);
  return json;
}

std::map<std::string, std::string> metadata_of(const CacheIdentity& identity, std::span<const PendingEntry> entries) {
  Json list = Json::array();
  for (const PendingEntry& entry : entries) list.push_back(entry_json(entry));
  return {{kSchemaKey, std::string(kShardSchema)},
          {kIdentityKey, identity.digest()},
          {kFieldsKey, Json(identity.fields).dump()},
          {kEntriesKey, list.dump()}};
}

}  // namespace

void write_shard(const fs::path& path, const CacheIdentity& identity, std::span<const PendingEntry> entries) {
  std::vector<NamedTensor> tensors;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const Block& block = entries[i].block;
    for (const Piece& piece : block.layout->pieces()) {
      const std::string& key = block.layout->tensors()[piece.tensor].key;
      tensors.push_back({.name = piece_name(i, piece.scales, key), .tensor = view_of(block, piece)});
    }
  }
  write_safetensors(path, tensors, metadata_of(identity, entries));
}

// ---- reading ----

namespace {

/// Fails for what no shard of ours holds.
class ShardReader {
 public:
  ShardReader(const fs::path& path, const std::string& identity, LayoutTable& layouts)
      : file_(path), where_(path.string()), layouts_(layouts) {
    check_identity(identity);
    const auto& tensors = file_.entries();
    data_begin_ = InputFile(path).size() - (tensors.empty() ? 0 : tensors.back().end);
  }

  [[nodiscard]] std::vector<StoredEntry> entries() {
    const Json list = json_of(kEntriesKey);
    if (!list.is_array()) fail(kEntriesKey, "a list", list.type_name());
    const auto pieces = pieces_by_entry(list.size());
    std::vector<StoredEntry> entries;
    entries.reserve(list.size());
    for (std::size_t i = 0; i < list.size(); ++i) entries.push_back(entry_of(list[i], pieces[i]));
    return entries;
  }

 private:
  using PieceKey = std::pair<std::string_view, bool>;  // the key of a tensor, and whether these are its scales
  using Pieces = std::map<PieceKey, const SafetensorsEntry*>;

  [[noreturn]] void fail(std::string_view what, std::string expected, std::string found) const {
    throw FormatError(Problem{
        .where = fmt::format("{}, {}", where_, what), .expected = std::move(expected), .found = std::move(found)});
  }

  [[nodiscard]] const std::string& metadata(const char* key) const {
    const auto found = file_.metadata().find(key);
    if (found == file_.metadata().end()) fail("metadata", fmt::format("'{}'", key), "none");
    return found->second;
  }

  [[nodiscard]] Json json_of(const char* key) const {
    return parse_json(metadata(key), fmt::format("{}, metadata '{}'", where_, key),
                      {.max_bytes = SafetensorsLimits{}.max_header_bytes, .max_depth = 8});
  }

  void check_identity(const std::string& identity) const {
    if (metadata(kSchemaKey) != kShardSchema) fail(kSchemaKey, std::string(kShardSchema), metadata(kSchemaKey));
    CacheIdentity written;
    const Json fields = json_of(kFieldsKey);
    for (const auto& [name, value] : fields.items()) {
      if (!value.is_string()) fail(kFieldsKey, "texts", value.type_name());
      written.fields[name] = value.get<std::string>();
    }
    if (written.digest() == identity && metadata(kIdentityKey) == identity) return;
    throw MismatchError(Problem{
        .where = where_, .expected = "the identity " + identity, .found = fmt::format("{}", metadata(kIdentityKey))});
  }

  // "<number>/<key>" or "<number>#scale/<key>". A key is only ever a key of a map, whatever it looks like.
  [[nodiscard]] std::vector<Pieces> pieces_by_entry(std::size_t count) const {
    std::vector<Pieces> pieces(count);
    for (const SafetensorsEntry& tensor : file_.entries()) {
      const std::string_view name = tensor.name;
      const std::size_t slash = std::min(name.find('/'), name.size());
      std::string_view label = name.substr(0, slash);
      const bool scales = label.ends_with(kScalesMark);
      if (scales) label.remove_suffix(kScalesMark.size());
      std::size_t number = count;
      const auto [end, error] = std::from_chars(label.data(), label.data() + label.size(), number);
      const bool good = slash < name.size() && error == std::errc{} && end == label.data() + label.size();
      if (!good || number >= count) fail("tensor names", "the number of an entry and a key", tensor.name);
      if (!pieces[number].emplace(PieceKey{name.substr(slash + 1), scales}, &tensor).second) {
        fail("tensor names", "one tensor of a name", tensor.name);
      }
    }
    return pieces;
  }

  [[nodiscard]] StoredEntry entry_of(const Json& json, const Pieces& pieces) {
    const std::string where = fmt::format("{}, metadata '{}'", where_, kEntriesKey);
    if (pieces.empty()) fail(kEntriesKey, "tensors of every entry", "an entry without any");
    StoredEntry entry;
    entry.key = {.frame = json_field<std::int64_t>(json, "frame", where),
                 .text = json_field<std::string>(json, "text", where),
                 .view = json_field<std::int64_t>(json, "view", where)};
    entry.sha256 = json_field<std::string>(json, "sha256", where);
    entry.layout = layout_of(stored_tensors(pieces, json_field<Json>(json, "forms", where), where));
    entry.runs = runs_of(*entry.layout, pieces);
    return entry;
  }

  // Most entries are laid out as the one before, which is cheaper to see than to look up.
  [[nodiscard]] std::shared_ptr<const BlockLayout> layout_of(std::vector<StoredTensor> tensors) {
    if (last_layout_ == nullptr || last_layout_->tensors() != tensors) {
      last_layout_ = layouts_.intern(std::make_shared<BlockLayout>(std::move(tensors)));
    }
    return last_layout_;
  }

  [[nodiscard]] std::vector<StoredTensor> stored_tensors(const Pieces& pieces, const Json& forms,
                                                         const std::string& where) const {
    std::vector<StoredTensor> tensors;
    if (!forms.is_object()) fail("forms", "an object", forms.type_name());
    for (const auto& [key, piece] : pieces) {
      if (key.second) continue;
      StoredTensor tensor{.key = std::string(key.first), .dtype = piece->dtype, .shape = piece->shape};
      const auto form = forms.find(tensor.key);
      if (form != forms.end()) read_form(*form, where, tensor);
      const auto scales = pieces.find({key.first, true});
      check_scales(tensor, scales == pieces.end() ? nullptr : scales->second);
      tensors.push_back(std::move(tensor));
    }
    return tensors;
  }

  void read_form(const Json& form, const std::string& where, StoredTensor& tensor) const {
    const auto dtype = safetensors_dtype(json_field<std::string>(form, "dtype", where));
    const std::string storage = json_field<std::string>(form, "storage", where);
    if (!dtype || !c10::isFloatingType(*dtype) || c10::elementSize(*dtype) < 2) {
      fail(tensor.key, "a floating-point type of two bytes or more", form.dump());
    }
    tensor.dtype = *dtype;
    if (storage == cache_storage_name(CacheStorage::bf16)) {
      tensor.storage = CacheStorage::bf16;
    } else if (storage == cache_storage_name(CacheStorage::int8)) {
      tensor.storage = CacheStorage::int8;
    } else {
      fail(tensor.key, "a form of storage", storage);
    }
  }

  // Before a layout is made of them: the scales of an empty row would have a size nobody checked.
  void check_scales(const StoredTensor& tensor, const SafetensorsEntry* scales) const {
    const bool wanted = tensor.storage == CacheStorage::int8;
    if (wanted != (scales != nullptr)) fail(tensor.key, wanted ? "scales" : "no scales", wanted ? "none" : "some");
    if (!wanted) return;
    std::vector<std::int64_t> shape = tensor.shape;
    if (!shape.empty()) shape.back() = std::min<std::int64_t>(shape.back(), 1);
    if (scales->shape != shape || scales->dtype != at::kFloat || scales->begin == scales->end) {
      fail(tensor.key, fmt::format("float32 scales ({})", fmt::join(shape, ", ")),
           fmt::format("{} ({})", dtype_name(scales->dtype), fmt::join(scales->shape, ", ")));
    }
  }

  [[nodiscard]] std::vector<Run> runs_of(const BlockLayout& layout, const Pieces& pieces) const {
    std::vector<Run> runs;
    if (layout.pieces().size() != pieces.size()) fail("tensors", "no scales without values", "some");
    for (const Piece& piece : layout.pieces()) {
      const std::string& key = layout.tensors()[piece.tensor].key;
      const SafetensorsEntry& tensor = *pieces.at({key, piece.scales});
      if (tensor.dtype != piece.dtype || tensor.end - tensor.begin != piece.bytes) {
        fail(tensor.name, std::string(dtype_name(piece.dtype)), std::string(dtype_name(tensor.dtype)));
      }
      const std::uint64_t begin = data_begin_ + tensor.begin;
      if (!runs.empty() && runs.back().begin + runs.back().bytes == begin) {
        runs.back().bytes += piece.bytes;
      } else if (piece.bytes > 0) {
        runs.push_back({.begin = begin, .bytes = piece.bytes});
      }
    }
    return runs;
  }

  SafetensorsFile file_;
  std::string where_;
  std::uint64_t data_begin_ = 0;
  LayoutTable& layouts_;
  std::shared_ptr<const BlockLayout> last_layout_;
};

}  // namespace

std::vector<StoredEntry> read_shard(const fs::path& path, const std::string& identity, LayoutTable& layouts) {
  return ShardReader(path, identity, layouts).entries();
}

Block read_entry(const fs::path& path, const StoredEntry& entry, const std::string& identity) {
  const InputFile file(path);
  Block block{.layout = entry.layout, .bytes = {}};
  block.bytes = at::empty({block.size()}, at::kByte);
  auto rest = writable_bytes(block.bytes);
  for (const Run& run : entry.runs) {
    file.read_at(run.begin, rest.first(run.bytes));
    rest = rest.subspan(run.bytes);
  }
  const std::string found = entry_digest(identity, entry.key, block);
  if (found != entry.sha256) {
    throw FormatError(Problem{
        .where = fmt::format("{}, the entry of frame {}", path.string(), entry.key.frame),
        .expected = "the SHA-256 " + entry.sha256,
        .found = found,
    });
  }
  check_booleans(block);
  return block;
}

}  // namespace thaw::detail
