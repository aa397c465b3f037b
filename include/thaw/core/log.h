/// Messages for the person at the terminal: stderr, one line each, levels as in spdlog.
#pragma once

#include <string_view>

namespace thaw {

void log_info(std::string_view message);
void log_warning(std::string_view message);

/// Silences log_info (warnings stay). Used by --json and --quiet.
void set_quiet(bool quiet);

}  // namespace thaw
