#include "thaw/data/image_transforms.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "image_transforms_pixels_impl.h"
#include "thaw/data/dataset.h"
#include "thaw/tensor/random.h"

namespace thaw {
namespace {

constexpr std::uint64_t kFirstViews = (std::uint64_t{1} << 44) - 1;  // no view has this number: of each frame's first
constexpr std::size_t kMostNumbers = 8;                              // that one transform draws

/// The uniform numbers of one picture, one after the other.
class Draws {
 public:
  explicit Draws(std::span<const double> numbers) : numbers_(numbers) {}

  double next() { return numbers_[used_++]; }
  double in(const std::array<double, 2>& range) { return range[0] + next() * (range[1] - range[0]); }
  /// 0 where the transform has no such kwarg.
  double in(const ImageTransform& transform, const char* kwarg, double otherwise = 0.0) {
    const auto found = transform.kwargs.find(kwarg);
    return found == transform.kwargs.end() ? otherwise : in(found->second);
  }

 private:
  std::span<const double> numbers_;
  std::size_t used_ = 0;
};

/// `count` of the choices, each at most once, as drawn: the next with a chance of its weight among those left.
std::vector<std::size_t> choose(const std::vector<ImageTransform>& choices, std::size_t count, Draws& draws) {
  std::vector<std::size_t> left(choices.size());
  std::iota(left.begin(), left.end(), std::size_t{0});
  std::vector<std::size_t> chosen;
  while (chosen.size() < count) {
    double sum = 0.0;
    for (const std::size_t choice : left) sum += choices[choice].weight;
    double rest = draws.next() * sum;
    auto place = left.begin();
    while (place + 1 != left.end() && rest >= choices[*place].weight) rest -= choices[*place++].weight;
    chosen.push_back(*place);
    left.erase(place);
  }
  return chosen;
}

// --- the three types ---

/// What is not given, or given as just what changes nothing, is left out (as torchvision's ColorJitter does).
at::Tensor jitter_colour(at::Tensor picture, const ImageTransform& transform, Draws& draws) {
  using Function = at::Tensor (*)(const at::Tensor&, double);
  struct Part {
    const char* name;
    Function function;
    double neutral;
  };
  constexpr std::array<Part, 4> kParts = {{{"brightness", images::adjust_brightness, 1.0},
                                           {"contrast", images::adjust_contrast, 1.0},
                                           {"saturation", images::adjust_saturation, 1.0},
                                           {"hue", images::adjust_hue, 0.0}}};
  std::array<double, kParts.size()> turn{};
  for (double& number : turn) number = draws.next();
  std::array<std::size_t, kParts.size()> order{0, 1, 2, 3};
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return turn[a] < turn[b]; });
  std::array<double, kParts.size()> strength{};
  for (std::size_t i = 0; i < kParts.size(); ++i) strength[i] = draws.in(transform, kParts[i].name, kParts[i].neutral);
  for (const std::size_t part : order) {
    if (strength[part] != kParts[part].neutral) picture = kParts[part].function(picture, strength[part]);
  }
  return picture;
}

at::Tensor jitter_affine(const at::Tensor& picture, const ImageTransform& transform, Draws& draws) {
  images::Affine map{.angle = draws.in(transform, "degrees")};
  if (const auto most = transform.kwargs.find("translate"); most != transform.kwargs.end()) {
    const double right = most->second[0] * static_cast<double>(picture.size(-1));
    const double down = most->second[1] * static_cast<double>(picture.size(-2));
    map.shift_x = std::nearbyint(draws.in({-right, right}));
    map.shift_y = std::nearbyint(draws.in({-down, down}));
  }
  map.scale = draws.in(transform, "scale", 1.0);
  map.shear_x = draws.in(transform, "shear");
  return images::affine(picture, map);
}

at::Tensor change(const at::Tensor& picture, const ImageTransform& transform, Draws& draws) {
  switch (transform.type) {
    case ImageTransformType::color_jitter:
      return jitter_colour(picture, transform, draws);
    case ImageTransformType::sharpness_jitter:
      return images::adjust_sharpness(picture, draws.in(transform, "sharpness", 1.0));
    case ImageTransformType::random_affine:
      break;
  }
  return jitter_affine(picture, transform, draws);
}

}  // namespace

std::vector<AugmentedCamera> augmented_cameras(const LeRobotDataset& dataset) {
  std::vector<AugmentedCamera> cameras;
  for (const Feature& feature : dataset.features()) {
    if (feature.type != FeatureType::visual) continue;
    cameras.push_back({.key = feature.name, .as_float = !dataset.is_video(feature.name)});
  }
  return cameras;
}

ImageTransforms::ImageTransforms(ImageTransformsOptions options, std::uint64_t seed,
                                 std::vector<AugmentedCamera> cameras)
    : options_(std::move(options)), seed_(seed), cameras_(std::move(cameras)) {
  options_.validate();
  std::copy_if(options_.transforms.begin(), options_.transforms.end(), std::back_inserter(choices_),
               [](const ImageTransform& transform) { return transform.weight > 0.0; });
}

std::int64_t ImageTransforms::view_at(const FrameVisit& visit) const {
  if (options_.views == 0) return visit.epoch;
  const RandomKey key{.seed = seed_,
                      .stream = RandomStream::augmentation,
                      .step = kFirstViews,
                      .sample = static_cast<std::uint64_t>(visit.frame)};
  const double share = random_uniform(key, 1).item<double>();
  const auto first = static_cast<std::int64_t>(share * static_cast<double>(options_.views));
  return (first + visit.epoch) % options_.views;
}

void ImageTransforms::apply(Sample& sample, std::int64_t view) const {
  for (std::size_t camera = 0; camera < cameras_.size(); ++camera) {
    const auto found = sample.tensors.find(cameras_[camera].key);
    if (found == sample.tensors.end()) continue;
    at::Tensor& picture = found->second;
    if (cameras_[camera].as_float && picture.scalar_type() == at::kByte) picture = picture.to(at::kFloat) / 255.0;
    picture = transformed(picture, {.frame = sample.index, .camera = static_cast<std::int64_t>(camera), .view = view});
  }
}

at::Tensor ImageTransforms::transformed(const at::Tensor& picture, const PictureKey& key) const {
  const std::size_t count = std::min(choices_.size(), static_cast<std::size_t>(options_.max_num_transforms));
  const std::size_t needed = count * (1 + kMostNumbers);  // of one picture
  const std::size_t before = static_cast<std::size_t>(key.camera) * needed;
  const at::Tensor numbers = random_uniform({.seed = seed_,
                                             .stream = RandomStream::augmentation,
                                             .step = static_cast<std::uint64_t>(key.view),
                                             .sample = static_cast<std::uint64_t>(key.frame)},
                                            static_cast<std::int64_t>(before + needed));
  Draws draws({numbers.const_data_ptr<double>() + before, needed});
  std::vector<std::size_t> chosen = choose(choices_, count, draws);
  if (!options_.random_order) std::sort(chosen.begin(), chosen.end());
  at::Tensor result = picture;
  for (const std::size_t choice : chosen) result = change(result, choices_[choice], draws);
  return result;
}

std::string ImageTransforms::identity() const { return fmt::format("{} seed {}", options_.to_json().dump(), seed_); }

}  // namespace thaw
