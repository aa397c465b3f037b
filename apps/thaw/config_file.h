// --config-file FILE.toml: flags of a subcommand, written down. What stands on the command line wins.
#pragma once

#include <string>
#include <vector>

namespace thaw::cli {

/// Replaces `--config-file F` in `arguments` by the flags of F that are not given on the command line. `--resume RUN`
/// brings the flags of RUN/config.toml in the same way, and RUN as --output. In F a key is a flag's name without dashes
/// ("batch-size" or "batch_size"); true stands for a switch, an array for a comma-separated list; `freeze` may also be
/// a table as in a --freeze-file. @throws IoError, FormatError (with line), UsageError
[[nodiscard]] std::vector<std::string> with_config_file(std::vector<std::string> arguments);

}  // namespace thaw::cli
