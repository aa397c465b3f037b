/// What a fuzzer calls: any bytes as a safetensors file. Either they are refused with a FormatError, or what the header
/// says fits the bytes that are there. Anything else ends the process.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "thaw/core/error.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::fuzz {

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise of the parser: %s\n", what);
  std::abort();
}

inline void check_promises(const SafetensorsHeader& header, std::uint64_t data_bytes) {
  std::uint64_t end = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    require(entry.begin == end && entry.end >= entry.begin, "ranges follow one another");
    require(entry.shape.size() <= SafetensorsLimits{}.max_rank, "rank within the limit");
    require(entry.name.size() <= SafetensorsLimits{}.max_name_bytes, "name within the limit");
    std::uint64_t bytes = c10::elementSize(entry.dtype);
    for (const std::int64_t dimension : entry.shape) {
      require(dimension >= 0, "no negative dimension");
      bytes *= static_cast<std::uint64_t>(dimension);
    }
    require(bytes == entry.end - entry.begin, "the shape gives the bytes");
    end = entry.end;
  }
  require(end == data_bytes, "the tensors cover the data");
}

/// `input` is a file: eight bytes of length, the header, the data. @returns whether it was taken
inline bool parse_as_safetensors(std::string_view input) {
  constexpr std::size_t kLengthBytes = 8;
  if (input.size() < kLengthBytes) return false;
  std::uint64_t length = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) length = length << 8 | static_cast<unsigned char>(input[i]);
  // Past the length, the reader hands over the header and the size of the rest. A wrong length would end most runs
  // here, so it is taken as far as the bytes go.
  const std::string_view rest = input.substr(kLengthBytes);
  const std::string_view header = rest.substr(0, length);
  const std::uint64_t data_bytes = rest.size() - header.size();
  try {
    check_promises(parse_safetensors_header(header, data_bytes, "fuzz"), data_bytes);
    return true;
  } catch (const FormatError&) {
    return false;
  }
}

}  // namespace thaw::fuzz
