#include "support/paths.h"

// The one file of the tests that is compiled with paths of this machine: a compiler cache finds all others again from
// another clone.

namespace thaw::test {

const char* source_dir() { return THAW_SOURCE_DIR; }

const char* thaw_command() { return THAW_COMMAND; }

}  // namespace thaw::test
