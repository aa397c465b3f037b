#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <sstream>

#include "image_transforms_pixels_impl.h"
#include "thaw/core/error.h"

namespace thaw::images {
namespace {

/// One picture: three planes in, three planes out.
template <class Pixel>
struct Planes {
  const Pixel* in;
  Pixel* out;
  std::int64_t height;
  std::int64_t width;
  [[nodiscard]] std::int64_t size() const { return height * width; }
};

template <class Pixel>
constexpr bool kIsByte = std::is_same_v<Pixel, std::uint8_t>;
template <class Pixel>
constexpr float kWhite = kIsByte<Pixel> ? 255.0F : 1.0F;

/// Clamped, and cut off where pixels are integers.
template <class Pixel>
Pixel to_pixel(float value) {
  return static_cast<Pixel>(std::clamp(value, 0.0F, kWhite<Pixel>));
}

std::string form(const at::Tensor& picture) {
  std::ostringstream text;
  text << picture.scalar_type() << ' ' << picture.sizes();
  return text.str();
}

void check(const at::Tensor& picture) {
  const at::ScalarType dtype = picture.scalar_type();
  const bool is_picture = picture.dim() >= 3 && picture.size(-3) == 3 && (dtype == at::kByte || dtype == at::kFloat);
  if (is_picture) return;
  throw MismatchError(
      Problem{.where = "image transform", .expected = "(..., 3, H, W) uint8 or float32", .found = form(picture)});
}

template <class Pixel, class Change>
void run(const at::Tensor& in, at::Tensor& out, const Change& change) {
  Planes<Pixel> planes{.in = in.const_data_ptr<Pixel>(),
                       .out = out.mutable_data_ptr<Pixel>(),
                       .height = in.size(-2),
                       .width = in.size(-1)};
  if (planes.size() == 0) return;
  for (std::int64_t left = in.numel(); left > 0; left -= 3 * planes.size()) {
    change(planes);
    planes.in += 3 * planes.size();
    planes.out += 3 * planes.size();
  }
}

/// `change` fills the planes of one picture; it is called for each.
template <class Change>
at::Tensor changed(const at::Tensor& picture, const Change& change) {
  check(picture);
  const at::Tensor in = picture.contiguous();
  at::Tensor out = at::empty_like(in);
  in.scalar_type() == at::kByte ? run<std::uint8_t>(in, out, change) : run<float>(in, out, change);
  return out;
}

template <class Pixel>
float grey_at(const Planes<Pixel>& planes, std::int64_t at) {
  const auto value = [&](std::int64_t plane) { return static_cast<float>(planes.in[plane * planes.size() + at]); };
  const float grey = value(0) * 0.2989F + value(1) * 0.587F + value(2) * 0.114F;
  return kIsByte<Pixel> ? std::floor(grey) : grey;
}

template <class Pixel>
Pixel blend(Pixel pixel, float other, double ratio) {
  return to_pixel<Pixel>(static_cast<float>(pixel) * static_cast<float>(ratio) +
                         other * static_cast<float>(1.0 - ratio));
}

// --- hue ---

struct Rgb {
  float red, green, blue;
};

/// Hue in [0, 1), as a share of the circle.
float hue_of(const Rgb& colour, float most, float range) {
  const float divisor = range == 0.0F ? 1.0F : range;
  const float red = (most - colour.red) / divisor;
  const float green = (most - colour.green) / divisor;
  const float blue = (most - colour.blue) / divisor;
  float sixths = green + 4.0F - red;
  if (most == colour.red) {
    sixths = blue - green;
  } else if (most == colour.green) {
    sixths = red + 2.0F - blue;
  }
  const float turn = sixths * static_cast<float>(1.0 / 6.0) + 1.0F;  // in [5/6, 11/6]
  return turn >= 1.0F ? turn - 1.0F : turn;
}

Rgb turn_hue(const Rgb& colour, float shift) {
  const float most = std::max({colour.red, colour.green, colour.blue});
  const float range = most - std::min({colour.red, colour.green, colour.blue});
  const float saturation = range / (range == 0.0F ? 1.0F : most);
  float hue = hue_of(colour, most, range) + shift;  // in [-1/2, 3/2)
  if (hue < 0.0F) hue += 1.0F;
  if (hue >= 1.0F) hue -= 1.0F;
  const float sixths = hue * 6.0F;
  const int sector = static_cast<int>(sixths);
  const float part = saturation * (sixths - static_cast<float>(sector));
  const auto unit = [](float value) { return std::clamp(value, 0.0F, 1.0F); };
  const float rest = 1.0F - saturation;
  const float least = unit(rest * most);
  const float falling = unit((1.0F - part) * most);
  const float rising = unit((part + rest) * most);
  switch (sector % 6) {
    case 0:
      return {most, rising, least};
    case 1:
      return {falling, most, least};
    case 2:
      return {least, most, rising};
    case 3:
      return {least, falling, most};
    case 4:
      return {rising, least, most};
    default:
      return {most, least, falling};
  }
}

template <class Pixel>
float to_unit(Pixel pixel) {
  if constexpr (kIsByte<Pixel>) return static_cast<float>(pixel) * static_cast<float>(1.0 / 255.0);
  return static_cast<float>(pixel);
}

/// torchvision's to_dtype: 255.999 times the value, cut off.
template <class Pixel>
Pixel from_unit(float value) {
  if constexpr (kIsByte<Pixel>) return static_cast<Pixel>(value * 255.999F);
  return static_cast<Pixel>(value);
}

// --- sharpness ---

/// Mean of the nine pixels about `at` of one plane, the middle one counted five times.
template <class Pixel>
float blurred(const Pixel* at, std::int64_t width) {
  constexpr auto kSide = static_cast<float>(1.0 / 13.0);
  constexpr auto kMiddle = static_cast<float>(5.0 / 13.0);
  float sum = 0.0F;
  for (std::int64_t row = -1; row <= 1; ++row) {
    for (std::int64_t column = -1; column <= 1; ++column) {
      sum += static_cast<float>(at[row * width + column]) * (row == 0 && column == 0 ? kMiddle : kSide);
    }
  }
  return kIsByte<Pixel> ? std::nearbyint(sum) : sum;
}

template <class Pixel>
void sharpen_plane(const Pixel* in, Pixel* out, std::int64_t height, std::int64_t width, double factor) {
  const auto rest = static_cast<float>(1.0 - factor);
  std::transform(in, in + height * width, out, [](Pixel pixel) { return to_pixel<Pixel>(static_cast<float>(pixel)); });
  for (std::int64_t y = 1; y + 1 < height; ++y) {
    for (std::int64_t x = 1; x + 1 < width; ++x) {
      const std::int64_t at = y * width + x;
      const auto pixel = static_cast<float>(in[at]);
      out[at] = to_pixel<Pixel>(pixel + (blurred(in + at, width) - pixel) * rest);
    }
  }
}

// --- affine ---

/// Where a pixel of the result comes from: rows of the inverse map, for pixels counted from the centre.
using InverseMap = std::array<double, 6>;

double radians(double degrees) { return degrees * std::numbers::pi / 180.0; }

/// torchvision's _get_inverse_affine_matrix about the centre: the inverse of shift * rotation * scale * shear.
InverseMap inverse_of(const Affine& map) {
  const double turn = radians(map.angle);
  const double x = radians(map.shear_x);
  const double y = radians(map.shear_y);
  const double a = std::cos(turn - y) / std::cos(y);
  const double b = -std::cos(turn - y) * std::tan(x) / std::cos(y) - std::sin(turn);
  const double c = std::sin(turn - y) / std::cos(y);
  const double d = -std::sin(turn - y) * std::tan(x) / std::cos(y) + std::cos(turn);
  InverseMap inverse{d, -b, 0.0, -c, a, 0.0};
  for (double& value : inverse) value /= map.scale;
  inverse[2] = -inverse[0] * map.shift_x - inverse[1] * map.shift_y;
  inverse[5] = -inverse[3] * map.shift_x - inverse[4] * map.shift_y;
  return inverse;
}

/// Nearest pixel of a coordinate from -1 (the first pixel's outer edge) to 1 (the last one's), as grid_sample counts.
float nearest(float coordinate, std::int64_t size) {
  return std::nearbyint((coordinate + 1.0F) * (static_cast<float>(size) / 2.0F) - 0.5F);
}

template <class Pixel>
void map_planes(const Planes<Pixel>& planes, const InverseMap& inverse) {
  const auto width = static_cast<float>(planes.width);
  const auto height = static_cast<float>(planes.height);
  std::array<float, 6> map{};
  for (std::size_t i = 0; i < 6; ++i) map[i] = static_cast<float>(inverse[i]) / (0.5F * (i < 3 ? width : height));
  for (std::int64_t row = 0; row < planes.height; ++row) {
    const float y = static_cast<float>(row) - 0.5F * (height - 1.0F);
    for (std::int64_t column = 0; column < planes.width; ++column) {
      const float x = static_cast<float>(column) - 0.5F * (width - 1.0F);
      const float from_x = nearest(x * map[0] + y * map[1] + map[2], planes.width);
      const float from_y = nearest(x * map[3] + y * map[4] + map[5], planes.height);
      const bool inside = from_x >= 0.0F && from_x < width && from_y >= 0.0F && from_y < height;
      const std::int64_t to = row * planes.width + column;
      const std::int64_t from =
          inside ? static_cast<std::int64_t>(from_y) * planes.width + static_cast<std::int64_t>(from_x) : 0;
      for (std::int64_t plane = 0; plane < 3 * planes.size(); plane += planes.size()) {
        planes.out[plane + to] = inside ? planes.in[plane + from] : Pixel{0};
      }
    }
  }
}

}  // namespace

at::Tensor adjust_brightness(const at::Tensor& picture, double factor) {
  return changed(picture, [factor]<class Pixel>(const Planes<Pixel>& planes) {
    const auto by = static_cast<float>(factor);
    std::transform(planes.in, planes.in + 3 * planes.size(), planes.out,
                   [by](Pixel pixel) { return to_pixel<Pixel>(static_cast<float>(pixel) * by); });
  });
}

at::Tensor adjust_contrast(const at::Tensor& picture, double factor) {
  return changed(picture, [factor]<class Pixel>(const Planes<Pixel>& planes) {
    double sum = 0.0;
    for (std::int64_t at = 0; at < planes.size(); ++at) sum += static_cast<double>(grey_at(planes, at));
    const auto mean = static_cast<float>(sum / static_cast<double>(planes.size()));
    std::transform(planes.in, planes.in + 3 * planes.size(), planes.out,
                   [&](Pixel pixel) { return blend(pixel, mean, factor); });
  });
}

at::Tensor adjust_saturation(const at::Tensor& picture, double factor) {
  return changed(picture, [factor]<class Pixel>(const Planes<Pixel>& planes) {
    for (std::int64_t at = 0; at < planes.size(); ++at) {
      const float grey = grey_at(planes, at);
      for (std::int64_t pixel = at; pixel < 3 * planes.size(); pixel += planes.size()) {
        planes.out[pixel] = blend(planes.in[pixel], grey, factor);
      }
    }
  });
}

at::Tensor adjust_hue(const at::Tensor& picture, double shift) {
  return changed(picture, [shift]<class Pixel>(const Planes<Pixel>& planes) {
    const std::int64_t size = planes.size();
    for (std::int64_t at = 0; at < size; ++at) {
      const Rgb colour{.red = to_unit(planes.in[at]),
                       .green = to_unit(planes.in[size + at]),
                       .blue = to_unit(planes.in[2 * size + at])};
      const Rgb turned = turn_hue(colour, static_cast<float>(shift));
      planes.out[at] = from_unit<Pixel>(turned.red);
      planes.out[size + at] = from_unit<Pixel>(turned.green);
      planes.out[2 * size + at] = from_unit<Pixel>(turned.blue);
    }
  });
}

at::Tensor adjust_sharpness(const at::Tensor& picture, double factor) {
  return changed(picture, [factor]<class Pixel>(const Planes<Pixel>& planes) {
    if (planes.height <= 2 || planes.width <= 2) {
      std::copy_n(planes.in, 3 * planes.size(), planes.out);
      return;
    }
    for (std::int64_t plane = 0; plane < 3 * planes.size(); plane += planes.size()) {
      sharpen_plane(planes.in + plane, planes.out + plane, planes.height, planes.width, factor);
    }
  });
}

at::Tensor affine(const at::Tensor& picture, const Affine& map) {
  const InverseMap inverse = inverse_of(map);
  return changed(picture, [&inverse]<class Pixel>(const Planes<Pixel>& planes) { map_planes(planes, inverse); });
}

}  // namespace thaw::images
