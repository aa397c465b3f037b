/// A first look at an MP4 file: its top-level boxes. Finds what a demuxer would call "invalid data" and says why.
#pragma once

#include <string>

#include "thaw/core/files.h"

namespace thaw::lerobot {

struct Mp4Boxes {
  bool fragmented = false;  ///< has moof boxes: sample tables are spread over the file
};

/// @throws FormatError: no MP4 at all (naming what it is), cut off, or without moov (the recording was not finished)
[[nodiscard]] Mp4Boxes check_mp4_boxes(const InputFile& file, const std::string& label);

}  // namespace thaw::lerobot
