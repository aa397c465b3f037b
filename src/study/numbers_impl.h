/// Numbers as measures and results write them: what could not be measured is NaN, and null in JSON.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "thaw/core/json.h"

namespace thaw {

constexpr double kNoNumber = std::numeric_limits<double>::quiet_NaN();

[[nodiscard]] inline Json number_json(double value) { return std::isfinite(value) ? Json(value) : Json(); }

[[nodiscard]] inline Json numbers_json(const std::vector<double>& values) {
  Json json = Json::array();
  for (const double value : values) json.push_back(number_json(value));
  return json;
}

}  // namespace thaw
