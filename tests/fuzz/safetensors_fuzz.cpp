// libFuzzer entry: build with clang and -DTHAW_FUZZ=ON, run build/…/safetensors_fuzz CORPUS_FOLDER.
#include "fuzz/safetensors_target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);  // called by libFuzzer's main

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static_cast<void>(thaw::fuzz::parse_as_safetensors({reinterpret_cast<const char*>(data), size}));
  return 0;
}
