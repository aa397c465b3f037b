/// Random changes to the pictures that a policy trains on: brightness, contrast, saturation, hue, sharpness, and small
/// turns and shifts. Which are chosen and how strong they are is a pure function of (seed, frame, camera, view), so
/// that neither loader threads nor resuming can change them. Reference: LeRobot's ImageTransforms
/// (transforms/transforms.py) over torchvision.transforms.v2; the random numbers are thaw's own (tensor/random.h).
///
/// Legend: T time steps of a delta list, C/H/W image channels, height, width.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/policy/batch.h"

namespace thaw {

class LeRobotDataset;

/// What a transform is, under LeRobot's names.
enum class ImageTransformType {
  color_jitter,      ///< torchvision's ColorJitter; kwargs brightness, contrast, saturation, hue
  sharpness_jitter,  ///< LeRobot's SharpnessJitter; kwarg sharpness
  random_affine,     ///< torchvision's RandomAffine, nearest pixel, black beyond the edge; kwargs degrees, translate,
                     ///< scale, shear
};

/// One of the transforms to choose from.
struct ImageTransform {
  std::string name;
  double weight = 1.0;  ///< chances of being chosen, relative to the others'; 0: never
  ImageTransformType type = ImageTransformType::color_jitter;
  /// Low and high, drawn uniformly; but translate: the largest shift as a share of width and of height.
  std::map<std::string, std::array<double, 2>> kwargs;
};

/// LeRobot's six, with its ranges.
[[nodiscard]] std::vector<ImageTransform> default_image_transforms();

struct ImageTransformsOptions {
  bool enable = false;
  std::int64_t views = 0;  ///< fixed views of every frame, taken in turn; 0: each visit to a frame shows a new one
  std::int64_t max_num_transforms = 3;  ///< chosen for every picture (fewer where there are fewer)
  bool random_order = false;            ///< apply them as they were drawn, not as they are listed
  std::vector<ImageTransform> transforms = default_image_transforms();

  /// @throws UsageError naming the field, its value and its range; for views without `enable`
  void validate() const;
  /// With LeRobot's names; `enable` and `views` left out: they do not change what a view of a frame looks like.
  [[nodiscard]] Json to_json() const;
  /// All of it in one line, to tell options apart: "none" when they are not enabled.
  [[nodiscard]] std::string text() const;
};

/// Sets one thing of one transform: ("brightness", "0.7:1.3") or ("brightness.brightness", "0.7:1.3") its range,
/// ("affine.translate", "0.1:0.1"), ("hue.weight", "0"). `where` names the source in errors.
/// @throws UsageError with the names there are
void set_image_transform(ImageTransformsOptions& options, const std::string& key, const std::string& value,
                         const std::string& where);

/// A camera whose pictures change.
struct AugmentedCamera {
  std::string key;
  /// Whether its pictures become float32 first: LeRobot's transforms meet stored images so, and videos as uint8.
  bool as_float = false;
};

/// All cameras of a dataset, in its order.
[[nodiscard]] std::vector<AugmentedCamera> augmented_cameras(const LeRobotDataset& dataset);

/// A frame that comes up in a pass over the data.
struct FrameVisit {
  std::int64_t frame = 0;  ///< global frame number in the dataset
  std::int64_t epoch = 0;
};

struct PictureKey {
  std::int64_t frame = 0;
  std::int64_t camera = 0;  ///< its place among the cameras
  std::int64_t view = 0;
};

class ImageTransforms {
 public:
  /// @throws UsageError (options.validate())
  ImageTransforms(ImageTransformsOptions options, std::uint64_t seed, std::vector<AugmentedCamera> cameras);

  /// The view that a visit shows: of K fixed views one in [0, K), each once in K epochs that follow each other, and
  /// another one to begin with from frame to frame; else the epoch.
  [[nodiscard]] std::int64_t view_at(const FrameVisit& visit) const;

  /// Turns the pictures of the sample into those of `view`. Thread-safe, and the same on any thread.
  /// @throws MismatchError for a picture that is not (3, H, W) or (T, 3, H, W), uint8 or float32
  void apply(Sample& sample, std::int64_t view) const;

  /// One picture, or T pictures changed alike; shape and dtype stay.
  [[nodiscard]] at::Tensor transformed(const at::Tensor& picture, const PictureKey& key) const;

  [[nodiscard]] const ImageTransformsOptions& options() const noexcept { return options_; }
  /// All that decides what a view of a frame looks like, as text.
  [[nodiscard]] std::string identity() const;

 private:
  ImageTransformsOptions options_;
  std::uint64_t seed_;
  std::vector<AugmentedCamera> cameras_;
  std::vector<ImageTransform> choices_;  ///< of a weight above 0
};

}  // namespace thaw
