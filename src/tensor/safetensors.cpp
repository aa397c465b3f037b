#include "thaw/tensor/safetensors.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "bytes_impl.h"
#include "other_formats_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/names.h"
#include "thaw/tensor/dtype.h"

namespace thaw {
namespace {

constexpr std::uint64_t kLengthBytes = 8;

std::uint64_t read_length(const InputFile& file) {
  std::uint64_t length = 0;
  file.read_at(0, std::as_writable_bytes(std::span(&length, 1)));
  return length;
}

// Only asked once the file turned out to be no safetensors file: the first bytes of a good one may be any.
std::string what_it_is(const InputFile& file) {
  constexpr std::uint64_t kEnough = 512;
  std::string start(std::min(file.size(), kEnough), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(start)));
  return detail::recognise_other_format(start);
}

[[noreturn]] void fail_file(const InputFile& file, std::string found) {
  const std::string other = what_it_is(file);
  throw FormatError(Problem{.where = file.path().string(),
                            .expected = "a safetensors file",
                            .found = other.empty() ? std::move(found) : other,
                            .fix = other.empty() ? "The file is damaged or cut off: fetch it again."
                                                 : detail::advice_for_other_format(other)});
}

std::string read_header_text(const InputFile& file, const SafetensorsLimits& limits) {
  if (file.size() < kLengthBytes) fail_file(file, fmt::format("only {} bytes", file.size()));
  const std::uint64_t length = read_length(file);
  if (length > limits.max_header_bytes) {
    fail_file(file, fmt::format("a header too large ({} bytes; the limit is {})", length, limits.max_header_bytes));
  }
  if (length > file.size() - kLengthBytes) {
    fail_file(file, fmt::format("a header of {} bytes that runs past the end of the file", length));
  }
  std::string text(length, '\0');
  file.read_at(kLengthBytes, std::as_writable_bytes(std::span(text)));
  if (!text.starts_with('{')) fail_file(file, "a header that does not start with '{'");
  return text;
}

}  // namespace

// ---- reading ----

struct SafetensorsFile::Impl {
  InputFile file;
  SafetensorsHeader header;
  std::uint64_t data_begin = 0;
  std::unordered_map<std::string_view, std::size_t> index;  // views into header.entries

  Impl(const std::filesystem::path& path, const SafetensorsLimits& limits) : file(path) {
    const std::string text = read_header_text(file, limits);
    data_begin = kLengthBytes + text.size();
    header = parse_safetensors_header(text, file.size() - data_begin, path.string(), limits);
    index.reserve(header.entries.size());
    for (std::size_t i = 0; i < header.entries.size(); ++i) index.emplace(header.entries[i].name, i);
  }
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path, SafetensorsLimits limits)
    : impl_(std::make_unique<Impl>(path, limits)) {}
SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

const std::filesystem::path& SafetensorsFile::path() const noexcept { return impl_->file.path(); }
const std::vector<SafetensorsEntry>& SafetensorsFile::entries() const noexcept { return impl_->header.entries; }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const noexcept { return impl_->header.metadata; }
bool SafetensorsFile::contains(std::string_view name) const { return impl_->index.contains(name); }

const SafetensorsEntry& SafetensorsFile::entry(std::string_view name) const {
  const auto found = impl_->index.find(name);
  if (found != impl_->index.end()) return entries()[found->second];
  std::vector<std::string> names;
  names.reserve(entries().size());
  for (const SafetensorsEntry& known : entries()) names.push_back(known.name);
  throw FormatError(Problem{.where = path().string(),
                            .expected = fmt::format("a tensor named '{}'", name),
                            .found = "none",
                            .fix = suggest(name, names)});
}

at::Tensor SafetensorsFile::read(std::string_view name) const {
  const SafetensorsEntry& wanted = entry(name);
  at::Tensor tensor = at::empty(wanted.shape, wanted.dtype);
  const std::span<std::byte> bytes(static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes());
  impl_->file.read_at(impl_->data_begin + wanted.begin, bytes);
  if (wanted.dtype != at::kBool) return tensor;
  // Any other byte in a C++ bool is undefined behaviour.
  const auto odd = std::find_if(bytes.begin(), bytes.end(), [](std::byte byte) { return byte > std::byte{1}; });
  if (odd != bytes.end()) {
    throw FormatError(Problem{.where = fmt::format("{}, tensor '{}'", path().string(), name),
                              .expected = "BOOL bytes of 0 or 1",
                              .found = std::to_string(std::to_integer<int>(*odd))});
  }
  return tensor;
}

std::map<std::string, at::Tensor> read_safetensors(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  std::map<std::string, at::Tensor> tensors;
  for (const SafetensorsEntry& entry : file.entries()) tensors.emplace(entry.name, file.read(entry.name));
  return tensors;
}

// ---- writing ----

namespace {

// The reference orders by its list of types, the widest first, then by name. Source: the order of enum Dtype in
// tensor.rs.
int rank_of(at::ScalarType dtype) {
  constexpr std::array kFirstToLast{at::kUInt64,        at::kLong,        at::kDouble, at::kFloat,  at::kUInt32,
                                    at::kInt,           at::kBFloat16,    at::kHalf,   at::kUInt16, at::kShort,
                                    at::kFloat8_e4m3fn, at::kFloat8_e5m2, at::kChar,   at::kByte,   at::kBool};
  return static_cast<int>(std::find(kFirstToLast.begin(), kFirstToLast.end(), dtype) - kFirstToLast.begin());
}

std::vector<const NamedTensor*> laid_out(std::span<const NamedTensor> tensors) {
  std::vector<const NamedTensor*> order;
  order.reserve(tensors.size());
  for (const NamedTensor& one : tensors) order.push_back(&one);
  std::sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    return std::pair(rank_of(a->tensor.scalar_type()), std::string_view(a->name)) <
           std::pair(rank_of(b->tensor.scalar_type()), std::string_view(b->name));
  });
  return order;
}

// What is written must be readable: the limits of the reader hold for the writer.
void check_writable(const std::filesystem::path& path, std::span<const NamedTensor> tensors) {
  const SafetensorsLimits limits;
  const auto refuse = [&](const std::string& name, std::string expected, std::string found) {
    throw UsageError(Problem{.where = fmt::format("{}, tensor '{}'", path.string(), name),
                             .expected = std::move(expected),
                             .found = std::move(found)});
  };
  std::vector<std::string_view> names;
  names.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const bool dense = tensor.defined() && tensor.layout() == at::kStrided && !tensor.is_quantized();
    if (!dense) refuse(name, "a dense tensor", tensor.defined() ? tensor.toString() : "an undefined one");
    if (name == "__metadata__") refuse(name, "another name", "the one reserved for metadata");
    if (name.size() > limits.max_name_bytes)
      refuse(name, fmt::format("at most {} bytes of name", limits.max_name_bytes), std::to_string(name.size()));
    if (tensor.sizes().size() > limits.max_rank)
      refuse(name, fmt::format("at most {} dimensions", limits.max_rank), std::to_string(tensor.dim()));
    static_cast<void>(safetensors_dtype_name(tensor.scalar_type()));
    names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) refuse(std::string(*twice), "unique names", "this one twice");
}

std::string json_string(std::string_view text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw UsageError("safetensors: names and metadata must be UTF-8");
  }
}

std::string header_of(std::span<const NamedTensor* const> order, const std::map<std::string, std::string>& metadata) {
  std::string members;
  const auto append = [&members](const std::string& member) { members += (members.empty() ? "" : ",") + member; };
  if (!metadata.empty()) {
    std::string pairs;
    for (const auto& [key, value] : metadata) {
      pairs += fmt::format("{}{}:{}", pairs.empty() ? "" : ",", json_string(key), json_string(value));
    }
    append(fmt::format("\"__metadata__\":{{{}}}", pairs));
  }
  std::uint64_t begin = 0;
  for (const NamedTensor* one : order) {
    const std::uint64_t end = begin + one->tensor.nbytes();
    append(fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", json_string(one->name),
                       safetensors_dtype_name(one->tensor.scalar_type()), fmt::join(one->tensor.sizes(), ","), begin,
                       end));
    begin = end;
  }
  std::string header = "{" + members + "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');  // so that the data section is aligned
  return header;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  check_writable(path, tensors);
  const auto order = laid_out(tensors);
  const std::string header = header_of(order, metadata);
  const std::uint64_t length = header.size();
  if (length > SafetensorsLimits{}.max_header_bytes) {
    throw UsageError(
        fmt::format("{}: names and metadata make a header of {} bytes, more than readers take", path.string(), length));
  }

  AtomicFile file(path);
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(header);
  for (const NamedTensor* one : order) file.write(detail::bytes_of(detail::packed_on_cpu(one->tensor)));
  file.commit();
}

}  // namespace thaw
