#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "thaw/core/error.h"
#include "thaw/core/names.h"
#include "thaw/data/image_transforms.h"

namespace thaw {
namespace {

constexpr std::int64_t kMostViews = 1024;
constexpr double kUnbounded = 1e6;

/// What a kwarg may be.
struct Kwarg {
  const char* name;
  double least;
  double most;
  ImageTransformType type;
  bool is_range = true;  ///< low to high, else one number for each direction
};

constexpr Kwarg kKwargs[] = {
    {"brightness", 0.0, kUnbounded, ImageTransformType::color_jitter},
    {"contrast", 0.0, kUnbounded, ImageTransformType::color_jitter},
    {"saturation", 0.0, kUnbounded, ImageTransformType::color_jitter},
    {"hue", -0.5, 0.5, ImageTransformType::color_jitter},
    {"sharpness", 0.0, kUnbounded, ImageTransformType::sharpness_jitter},
    {"degrees", -360.0, 360.0, ImageTransformType::random_affine},
    {"translate", 0.0, 1.0, ImageTransformType::random_affine, false},
    {"scale", 1e-3, kUnbounded, ImageTransformType::random_affine},
    {"shear", -89.0, 89.0, ImageTransformType::random_affine},
};

const char* type_name(ImageTransformType type) {
  switch (type) {
    case ImageTransformType::color_jitter:
      return "ColorJitter";
    case ImageTransformType::sharpness_jitter:
      return "SharpnessJitter";
    case ImageTransformType::random_affine:
      break;
  }
  return "RandomAffine";
}

std::vector<std::string> kwargs_of(ImageTransformType type) {
  std::vector<std::string> names;
  for (const Kwarg& kwarg : kKwargs) {
    if (kwarg.type == type) names.emplace_back(kwarg.name);
  }
  return names;
}

const Kwarg* find_kwarg(ImageTransformType type, const std::string& name) {
  const auto* found = std::find_if(std::begin(kKwargs), std::end(kKwargs),
                                   [&](const Kwarg& kwarg) { return kwarg.type == type && kwarg.name == name; });
  return found == std::end(kKwargs) ? nullptr : found;
}

[[noreturn]] void refuse(const std::string& where, const std::string& expected, const std::string& found,
                         const std::string& fix = {}) {
  throw UsageError(Problem{.where = where, .expected = expected, .found = found, .fix = fix});
}

const Kwarg& known_kwarg(const ImageTransform& transform, const std::string& name, const std::string& where) {
  if (const Kwarg* kwarg = find_kwarg(transform.type, name)) return *kwarg;
  const std::vector<std::string> known = kwargs_of(transform.type);
  refuse(where, fmt::format("of a {}: {}", type_name(transform.type), fmt::join(known, ", ")),
         fmt::format("'{}'", name), suggest(name, known));
}

bool within(const Kwarg& kwarg, const std::array<double, 2>& value) {
  const auto inside = [&](double number) { return number >= kwarg.least && number <= kwarg.most; };  // no NaN is
  return inside(value[0]) && inside(value[1]) && (!kwarg.is_range || value[0] <= value[1]);
}

void check_kwargs(const ImageTransform& transform) {
  const std::string where = "image transform '" + transform.name + "'";
  for (const auto& [name, value] : transform.kwargs) {
    const Kwarg& kwarg = known_kwarg(transform, name, where);
    if (within(kwarg, value)) continue;
    refuse(
        fmt::format("{}, {}", where, name),
        fmt::format("{} from {} to {}", kwarg.is_range ? "low:high, rising," : "two numbers", kwarg.least, kwarg.most),
        fmt::format("{}:{}", value[0], value[1]));
  }
  if (transform.kwargs.empty()) refuse(where, "at least one range", "none");
}

void check_transforms(const std::vector<ImageTransform>& transforms) {
  std::set<std::string> seen;
  double sum = 0.0;
  for (const ImageTransform& transform : transforms) {
    if (transform.name.empty() || !seen.insert(transform.name).second) {
      refuse("image transforms", "names, each once", fmt::format("'{}'", transform.name));
    }
    if (!(transform.weight >= 0.0 && transform.weight <= kUnbounded)) {
      refuse("image transform '" + transform.name + "', weight", fmt::format("0 to {}", kUnbounded),
             fmt::format("{}", transform.weight));
    }
    check_kwargs(transform);
    sum += transform.weight;
  }
  if (sum > 0.0) return;
  refuse("image transforms", "at least one of a weight above 0", "none");
}

double parse_real(std::string_view text, const std::string& where) {
  double number = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc{} && end == text.data() + text.size()) return number;
  refuse(where, "a number", fmt::format("'{}'", text));
}

std::array<double, 2> parse_two(const std::string& text, const std::string& where) {
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) refuse(where, "two numbers, as in 0.8:1.2", "'" + text + "'");
  const std::string_view view = text;
  return {parse_real(view.substr(0, colon), where), parse_real(view.substr(colon + 1), where)};
}

ImageTransform& named(ImageTransformsOptions& options, const std::string& name, const std::string& where) {
  std::vector<std::string> known;
  for (ImageTransform& transform : options.transforms) {
    if (transform.name == name) return transform;
    known.push_back(transform.name);
  }
  refuse(where, fmt::format("a transform: {}", fmt::join(known, ", ")), "'" + name + "'", suggest(name, known));
}

}  // namespace

std::vector<ImageTransform> default_image_transforms() {
  using Type = ImageTransformType;
  const auto jitter = [](const char* name, double low, double high) {
    return ImageTransform{.name = name, .type = Type::color_jitter, .kwargs = {{name, {low, high}}}};
  };
  return {jitter("brightness", 0.8, 1.2),
          jitter("contrast", 0.8, 1.2),
          jitter("saturation", 0.5, 1.5),
          jitter("hue", -0.05, 0.05),
          {.name = "sharpness", .type = Type::sharpness_jitter, .kwargs = {{"sharpness", {0.5, 1.5}}}},
          {.name = "affine",
           .type = Type::random_affine,
           .kwargs = {{"degrees", {-5.0, 5.0}}, {"translate", {0.05, 0.05}}}}};
}

void ImageTransformsOptions::validate() const {
  if (views < 0 || views > kMostViews) {
    refuse("image_transforms.views", fmt::format("0 to {}", kMostViews), std::to_string(views));
  }
  if (views > 0 && !enable) {
    refuse("image_transforms.views", "image transforms, which make views differ", fmt::format("{} views alone", views),
           "Ask for them with --image-transforms.");
  }
  if (max_num_transforms < 1) {
    refuse("image_transforms.max_num_transforms", "at least 1", std::to_string(max_num_transforms));
  }
  check_transforms(transforms);
}

Json ImageTransformsOptions::to_json() const {
  Json choices = Json::object();
  for (const ImageTransform& transform : transforms) {
    Json& choice = choices[transform.name];
    choice = Json{{"weight", transform.weight}, {"type", type_name(transform.type)}, {"kwargs", Json::object()}};
    for (const auto& [name, value] : transform.kwargs) choice["kwargs"][name] = value;
  }
  return {{"max_num_transforms", max_num_transforms}, {"random_order", random_order}, {"tfs", choices}};
}

std::string ImageTransformsOptions::text() const {
  if (!enable) return "none";
  return (views > 0 ? fmt::format("{} views of ", views) : std::string()) + to_json().dump();
}

void set_image_transform(ImageTransformsOptions& options, const std::string& key, const std::string& value,
                         const std::string& where) {
  const std::size_t dot = key.find('.');
  ImageTransform& transform = named(options, key.substr(0, dot), where);
  const std::string what = dot == std::string::npos ? transform.name : key.substr(dot + 1);
  const std::string here = where + " " + key;
  if (what == "weight") {
    transform.weight = parse_real(value, here);
    return;
  }
  static_cast<void>(known_kwarg(transform, what, here));
  transform.kwargs[what] = parse_two(value, here);
}

}  // namespace thaw
