#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <tuple>
#include <utility>

#include "block_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/tensor/dtype.h"

namespace thaw::detail {
namespace {

constexpr float kLargestInt8 = 127.0F;

std::size_t bytes_of(at::ScalarType dtype, const std::vector<std::int64_t>& shape) {
  const auto elements = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  return static_cast<std::size_t>(elements) * c10::elementSize(dtype);
}

std::vector<std::int64_t> scales_shape(std::vector<std::int64_t> shape) {
  if (!shape.empty()) shape.back() = 1;
  return shape;
}

at::ScalarType stored_dtype(const StoredTensor& tensor) {
  switch (tensor.storage) {
    case CacheStorage::bf16:
      return at::kBFloat16;
    case CacheStorage::int8:
      return at::kChar;
    case CacheStorage::exact:
      break;
  }
  return tensor.dtype;
}

std::string text_of(const std::vector<StoredTensor>& tensors) {
  Json list = Json::array();
  for (const StoredTensor& tensor : tensors) {
    list.push_back(
        {tensor.key, safetensors_dtype_name(tensor.dtype), cache_storage_name(tensor.storage), tensor.shape});
  }
  return list.dump();
}

}  // namespace

BlockLayout::BlockLayout(std::vector<StoredTensor> tensors) : tensors_(std::move(tensors)), text_(text_of(tensors_)) {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const StoredTensor& tensor = tensors_[i];
    pieces_.push_back({.tensor = i, .scales = false, .dtype = stored_dtype(tensor), .shape = tensor.shape});
    if (tensor.storage == CacheStorage::int8) {
      pieces_.push_back({.tensor = i, .scales = true, .dtype = at::kFloat, .shape = scales_shape(tensor.shape)});
    }
  }
  const auto rank = [this](const Piece& piece) {
    return std::tuple(-static_cast<std::int64_t>(c10::elementSize(piece.dtype)), piece.dtype, !piece.scales,
                      std::string_view(tensors_[piece.tensor].key));
  };
  std::sort(pieces_.begin(), pieces_.end(), [&](const Piece& a, const Piece& b) { return rank(a) < rank(b); });
  for (Piece& piece : pieces_) {
    piece.begin = bytes_;
    piece.bytes = bytes_of(piece.dtype, piece.shape);
    bytes_ += piece.bytes;
  }
}

std::span<std::byte> writable_bytes(const at::Tensor& packed) {
  return {static_cast<std::byte*>(packed.mutable_data_ptr()), packed.nbytes()};
}

std::span<const std::byte> readable_bytes(const at::Tensor& packed) {
  return {static_cast<const std::byte*>(packed.const_data_ptr()), packed.nbytes()};
}

at::Tensor view_of(const Block& block, const Piece& piece) {
  return block.bytes.narrow(0, static_cast<std::int64_t>(piece.begin), static_cast<std::int64_t>(piece.bytes))
      .view(piece.dtype)
      .view(piece.shape);
}

// ---- packing ----

namespace {

/// A tensor of an entry in the form it is kept in.
struct Packed {
  StoredTensor description;
  at::Tensor values;
  at::Tensor scales;  ///< undefined but for int8
};

Packed keep(const std::string& key, const at::Tensor& tensor) {
  return {.description = {.key = key,
                          .dtype = tensor.scalar_type(),
                          .storage = CacheStorage::exact,
                          .shape = tensor.sizes().vec()},
          .values = tensor,
          .scales = {}};
}

/// Whether no finite number becomes an infinity.
bool fits_bf16(const at::Tensor& tensor, const at::Tensor& rounded) {
  constexpr double kLargest = 0x1.fep127;
  const auto [least, most] = at::aminmax(tensor);
  if (least.item<double>() >= -kLargest && most.item<double>() <= kLargest) return true;
  return at::equal(rounded.isfinite(), tensor.isfinite());
}

Packed as_bf16(const std::string& key, const at::Tensor& tensor) {
  Packed packed = keep(key, tensor);
  const bool wider = tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble;
  if (!wider || tensor.numel() == 0) return packed;
  at::Tensor rounded = tensor.to(at::kBFloat16);
  if (!fits_bf16(tensor, rounded)) return packed;
  packed.description.storage = CacheStorage::bf16;
  packed.values = std::move(rounded);
  return packed;
}

Packed as_int8(const std::string& key, const at::Tensor& tensor) {
  Packed packed = keep(key, tensor);
  const at::ScalarType dtype = tensor.scalar_type();
  const bool wider = dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16;
  if (!wider || tensor.numel() == 0) return packed;
  const at::Tensor wide = tensor.to(at::kFloat);
  const at::Tensor largest = wide.abs().amax(-1, /*keepdim=*/true);  // NaN where the row has one
  if (!largest.isfinite().all().item<bool>()) return packed;
  packed.scales = largest / kLargestInt8;
  const at::Tensor divisors = packed.scales.masked_fill(packed.scales == 0.0, 1.0);
  packed.values = (wide / divisors).round().clamp(-kLargestInt8, kLargestInt8).to(at::kChar);
  packed.description.storage = CacheStorage::int8;
  return packed;
}

Packed pack_tensor(const std::string& key, const at::Tensor& tensor, CacheStorage storage) {
  const at::Tensor plain = tensor.detach().to(at::kCPU).contiguous();
  switch (storage) {
    case CacheStorage::bf16:
      return as_bf16(key, plain);
    case CacheStorage::int8:
      return as_int8(key, plain);
    case CacheStorage::exact:
      break;
  }
  return keep(key, plain);
}

}  // namespace

Block pack(const CacheEntry& entry, CacheStorage storage) {
  const at::NoGradGuard no_grad;
  std::vector<Packed> packed;
  std::vector<StoredTensor> tensors;
  for (const auto& [key, tensor] : entry.tensors) {
    packed.push_back(pack_tensor(key, tensor, storage));
    tensors.push_back(packed.back().description);
  }
  Block block{.layout = std::make_shared<BlockLayout>(std::move(tensors)), .bytes = {}};
  block.bytes = at::empty({block.size()}, at::kByte);
  for (const Piece& piece : block.layout->pieces()) {
    const Packed& source = packed[piece.tensor];
    const auto bytes = readable_bytes(piece.scales ? source.scales : source.values);
    std::copy(bytes.begin(), bytes.end(), writable_bytes(block.bytes).subspan(piece.begin, piece.bytes).begin());
  }
  return block;
}

// ---- unpacking ----

void check_booleans(const Block& block) {
  for (const Piece& piece : block.layout->pieces()) {
    if (piece.dtype != at::kBool) continue;
    const auto bytes = readable_bytes(block.bytes).subspan(piece.begin, piece.bytes);
    const auto odd = std::find_if(bytes.begin(), bytes.end(), [](std::byte byte) { return byte > std::byte{1}; });
    if (odd == bytes.end()) continue;
    throw FormatError(Problem{.where = fmt::format("tensor '{}'", block.layout->tensors()[piece.tensor].key),
                              .expected = "booleans of 0 or 1",
                              .found = std::to_string(std::to_integer<int>(*odd))});
  }
}

namespace {

// Loops of our own: ATen's conversions would start a team of threads in every thread of a loader.
template <class To>
void widen(std::span<const c10::BFloat16> values, To* out) {
  for (const c10::BFloat16 value : values) *out++ = static_cast<To>(static_cast<float>(value));
}

template <class To>
void widen(std::span<const std::int8_t> values, std::span<const float> scales, To* out) {
  if (scales.empty()) return;
  const std::size_t width = values.size() / scales.size();
  for (std::size_t row = 0; row < scales.size(); ++row) {
    const float scale = scales[row];
    for (const std::int8_t value : values.subspan(row * width, width)) {
      *out++ = static_cast<To>(static_cast<float>(value) * scale);
    }
  }
}

template <class Element>
std::span<const Element> elements(const Block& block, const Piece& piece) {
  const auto bytes = readable_bytes(block.bytes).subspan(piece.begin, piece.bytes);
  return {reinterpret_cast<const Element*>(bytes.data()), bytes.size() / sizeof(Element)};
}

template <class To>
void widen_into(const Block& block, const Piece& values, const Piece* scales, To* out) {
  if (scales == nullptr) {
    widen(elements<c10::BFloat16>(block, values), out);
  } else {
    widen(elements<std::int8_t>(block, values), elements<float>(block, *scales), out);
  }
}

at::Tensor widened(const Block& block, const Piece& values, const Piece* scales, at::ScalarType dtype) {
  at::Tensor out = at::empty(values.shape, dtype);
  void* data = out.mutable_data_ptr();
  switch (dtype) {
    case at::kDouble:
      widen_into(block, values, scales, static_cast<double*>(data));
      break;
    case at::kHalf:
      widen_into(block, values, scales, static_cast<c10::Half*>(data));
      break;
    case at::kBFloat16:
      widen_into(block, values, scales, static_cast<c10::BFloat16*>(data));
      break;
    default:
      widen_into(block, values, scales, static_cast<float*>(data));
  }
  return out;
}

at::Tensor kept_exactly(const Block& block, const Piece& piece, Sharing sharing) {
  if (sharing == Sharing::none) return view_of(block, piece);
  at::Tensor copy = at::empty(piece.shape, piece.dtype);
  const auto bytes = readable_bytes(block.bytes).subspan(piece.begin, piece.bytes);
  if (!bytes.empty()) std::memcpy(copy.mutable_data_ptr(), bytes.data(), bytes.size());
  return copy;
}

}  // namespace

CacheEntry unpack(const Block& block, Sharing sharing) {
  const at::NoGradGuard no_grad;
  const BlockLayout& layout = *block.layout;
  std::vector<const Piece*> scales(layout.tensors().size(), nullptr);
  for (const Piece& piece : layout.pieces()) {
    if (piece.scales) scales[piece.tensor] = &piece;
  }
  CacheEntry entry;
  for (const Piece& piece : layout.pieces()) {
    if (piece.scales) continue;
    const StoredTensor& tensor = layout.tensors()[piece.tensor];
    entry.tensors[tensor.key] = tensor.storage == CacheStorage::exact
                                    ? kept_exactly(block, piece, sharing)
                                    : widened(block, piece, scales[piece.tensor], tensor.dtype);
  }
  return entry;
}

}  // namespace thaw::detail
