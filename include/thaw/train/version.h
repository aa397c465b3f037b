/// The version that files are stamped with.
#pragma once

#include <string_view>

namespace thaw {

inline constexpr std::string_view kThawVersion = "0.1.0";

}  // namespace thaw
