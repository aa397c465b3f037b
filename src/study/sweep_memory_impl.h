// The most memory that this process held, from /proc (Linux; nullopt elsewhere).
#pragma once

#include <cstdint>
#include <optional>

namespace thaw {

/// Lets the peak begin again at what is held now, where the system lets a process do that (proc(5), clear_refs).
void forget_peak_resident();
/// Bytes.
[[nodiscard]] std::optional<std::int64_t> peak_resident_bytes();

}  // namespace thaw
