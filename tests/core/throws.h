/// The message of an exception of exactly the expected kind: `EXPECT_THAT(message_of<FormatError>([&] { … }),
/// HasSubstr("…"))`.
#pragma once

#include <exception>
#include <string>
#include <typeinfo>

namespace thaw::test {

template <class Kind, class Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const Kind& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("(an exception of another kind, ") + typeid(error).name() + ": " + error.what() + ")";
  }
  return "(nothing was thrown)";
}

}  // namespace thaw::test
