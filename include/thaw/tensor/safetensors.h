/// safetensors files: a strict reader (everything is checked before any payload is touched) and a deterministic, atomic
/// writer. Format: u64 little-endian header length, JSON header, packed little-endian data.
/// Reference: huggingface/safetensors, safetensors/src/tensor.rs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thaw {

struct SafetensorsLimits {
  std::uint64_t max_header_bytes = 100'000'000;  ///< the reference's cap
  std::size_t max_tensors = 1'000'000;
  std::size_t max_rank = 8;
  std::size_t max_name_bytes = 1024;
};

/// One entry of the header.
struct SafetensorsEntry {
  std::string name;
  at::ScalarType dtype{};
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  ///< offsets in the data section
  std::uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  ///< in the order of the data section
  std::map<std::string, std::string> metadata;
};

/// The JSON header alone, checked against a data section of `data_bytes`: one object that starts with '{', known types,
/// unsigned whole numbers, no name or field twice, shapes that give the bytes of their offsets, and ranges that cover
/// the data section without hole or overlap. `where` names the source in errors. @throws FormatError
[[nodiscard]] SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t data_bytes,
                                                         const std::string& where,
                                                         const SafetensorsLimits& limits = {});

class SafetensorsFile {
 public:
  /// Reads and checks the header. @throws IoError; FormatError naming the file, the tensor and the fault. A pickle, a
  /// zip, an HTML page or a Git LFS pointer is named as what it is.
  explicit SafetensorsFile(const std::filesystem::path& path, SafetensorsLimits limits = {});
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

  [[nodiscard]] const std::filesystem::path& path() const noexcept;
  [[nodiscard]] const std::vector<SafetensorsEntry>& entries() const noexcept;  ///< in the order of the data section
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept;
  [[nodiscard]] bool contains(std::string_view name) const;
  /// @throws FormatError with the nearest names
  [[nodiscard]] const SafetensorsEntry& entry(std::string_view name) const;
  /// A CPU tensor that owns its memory. @throws FormatError for an unknown name, or a BOOL byte other than 0 and 1;
  /// IoError
  [[nodiscard]] at::Tensor read(std::string_view name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct NamedTensor {
  std::string name;
  at::Tensor tensor;  ///< any device, any strides: written contiguous
};

/// Writes atomically; tensors are laid out by falling width of type and then name, as the reference does, so equal
/// content gives equal bytes. @throws UsageError for a duplicate name or a type without a name; IoError
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});

/// Every tensor of the file, by name.
[[nodiscard]] std::map<std::string, at::Tensor> read_safetensors(const std::filesystem::path& path);

}  // namespace thaw
