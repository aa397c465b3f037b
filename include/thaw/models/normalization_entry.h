/// How a feature type is normalised, as LeRobot's config.json words it.
#pragma once

#include <string>

namespace thaw {

struct NormalizationEntry {
  std::string type;  ///< "VISUAL", "STATE", "ACTION"
  std::string mode;  ///< "IDENTITY", "MEAN_STD", …
};

}  // namespace thaw
