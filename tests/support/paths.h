// Where the tests find what they read and run.
#pragma once

namespace thaw::test {

/// The checkout, without a slash behind it.
const char* source_dir();

/// The thaw command of this build.
const char* thaw_command();

}  // namespace thaw::test
