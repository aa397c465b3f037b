#include <array>
#include <cctype>

#include "other_formats_impl.h"

namespace thaw::detail {
namespace {

struct Signature {
  std::string_view start;
  std::string_view name;
};

constexpr std::string_view kPickle = "a Python pickle";
constexpr std::string_view kZip = "a zip archive (as torch.save writes)";
constexpr std::string_view kLfsPointer = "a Git LFS pointer";
constexpr std::string_view kHtml = "an HTML page";

constexpr std::array kSignatures{
    Signature{"\x80\x02", kPickle},          Signature{"\x80\x03", kPickle},
    Signature{"\x80\x04", kPickle},          Signature{"\x80\x05", kPickle},
    Signature{"PK\x03\x04", kZip},           Signature{"version https://git-lfs", kLfsPointer},
    Signature{"\x1f\x8b", "a gzip archive"}, Signature{"GGUF", "a GGUF file"},
    Signature{"\x89HDF", "an HDF5 file"},
};

bool starts_like_html(std::string_view start) {
  std::string lower;
  for (const char character : start.substr(0, 64)) {
    if (!lower.empty() || std::isspace(static_cast<unsigned char>(character)) == 0) {
      lower += static_cast<char>(std::tolower(static_cast<unsigned char>(character)));
    }
  }
  return lower.starts_with("<!doctype html") || lower.starts_with("<html");
}

}  // namespace

std::string recognise_other_format(std::string_view start) {
  for (const auto& [signature, name] : kSignatures) {
    if (start.starts_with(signature)) return std::string(name);
  }
  return starts_like_html(start) ? std::string(kHtml) : "";
}

std::string advice_for_other_format(std::string_view format) {
  if (format == kPickle || format == kZip) {
    return "Loading one can run code, so thaw never does: convert it where it is trusted, with "
           "safetensors.torch.save_file in Python.";
  }
  if (format == kLfsPointer) return "The file itself was never fetched: run `git lfs pull` in its repository.";
  if (format == kHtml)
    return "A server's page was saved in its place: check the address and your access, and fetch it again.";
  return "Convert it to safetensors.";
}

}  // namespace thaw::detail
