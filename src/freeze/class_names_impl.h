/// Words for parameter classes, as plan.json writes them.
#pragma once

#include <string_view>

#include "thaw/freeze/plan.h"

namespace thaw {

[[nodiscard]] std::string_view class_name(ParameterClass parameter_class);

}  // namespace thaw
