/// An entry as it lies in memory and in a shard: one block of bytes, piece after piece. A piece is one tensor of a
/// safetensors file: the values of a tensor of the entry, or the scales of one that is kept as int8.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "thaw/cache/prefix_cache.h"

namespace thaw::detail {

/// A tensor of an entry and the form it is kept in.
struct StoredTensor {
  std::string key;
  at::ScalarType dtype{};  ///< in the entry
  CacheStorage storage = CacheStorage::exact;
  std::vector<std::int64_t> shape;

  friend bool operator==(const StoredTensor&, const StoredTensor&) = default;
};

struct Piece {
  std::size_t tensor = 0;  ///< index in BlockLayout::tensors()
  bool scales = false;
  at::ScalarType dtype{};  ///< in the block
  std::vector<std::int64_t> shape;
  std::size_t begin = 0;  ///< in the block
  std::size_t bytes = 0;
};

/// Where everything lies in the block of an entry. Entries of one cut mostly share theirs.
class BlockLayout {
 public:
  explicit BlockLayout(std::vector<StoredTensor> tensors);

  [[nodiscard]] const std::vector<StoredTensor>& tensors() const noexcept { return tensors_; }
  /// By falling width of element, so that each is aligned to its own; of one dtype, scales first, then by key.
  [[nodiscard]] const std::vector<Piece>& pieces() const noexcept { return pieces_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  /// Everything above as one line of JSON: equal layouts, equal text.
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  std::vector<StoredTensor> tensors_;
  std::vector<Piece> pieces_;
  std::size_t bytes_ = 0;
  std::string text_;
};

struct Block {
  std::shared_ptr<const BlockLayout> layout;
  at::Tensor bytes;  ///< (layout->bytes()) uint8

  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(layout->bytes()); }
};

[[nodiscard]] std::span<std::byte> writable_bytes(const at::Tensor& packed);
[[nodiscard]] std::span<const std::byte> readable_bytes(const at::Tensor& packed);

/// A piece as a tensor that shares the block's memory.
[[nodiscard]] at::Tensor view_of(const Block& block, const Piece& piece);

/// Packs an entry. A tensor that the form cannot hold is kept exactly: infinities and NaN as int8, finite numbers
/// beyond the range of bfloat16, and types of 16 bits as bf16.
[[nodiscard]] Block pack(const CacheEntry& entry, CacheStorage storage);

/// @throws FormatError for a boolean other than 0 and 1: in C++ it would be undefined behaviour to read it
void check_booleans(const Block& block);

/// Who else uses the block that is unpacked.
enum class Sharing { none, with_cache };

/// The entry in its own dtypes. Tensors kept exactly share the block's memory, or are copied out of one that is shared.
[[nodiscard]] CacheEntry unpack(const Block& block, Sharing sharing);

}  // namespace thaw::detail
