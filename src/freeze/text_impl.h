/// Numbers as tables for people show them.
#pragma once

#include <cstdint>
#include <string>

namespace thaw {

/// 99880992 -> "99,880,992"
[[nodiscard]] std::string grouped(std::int64_t number);

/// "512 B", "381.0 MiB"
[[nodiscard]] std::string byte_size(double bytes);

}  // namespace thaw
