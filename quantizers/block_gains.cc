#include "quantizers/block_gains.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "kernels/gauge/gauge.h"

namespace kvant::quantizers {
namespace {

/// Gains end at 2^14 even where most channels are constant.
constexpr float kLeastShare = 0x1p-56f;

/// What ratios are taken to: the median channel's mean square, `times` as much.
float Base(std::span<const float> squares, std::span<float> scratch, float times) {
  std::ranges::copy(squares, scratch.begin());
  const auto middle = scratch.begin() + static_cast<std::ptrdiff_t>((scratch.size() - 1) / 2);
  std::nth_element(scratch.begin(), middle, scratch.end());
  const float median = *middle, largest = *std::max_element(middle, scratch.end());
  return std::max(times * median, largest * kLeastShare);
}

}  // namespace

void ChooseGainsOfLoud(std::span<const float> squares, std::span<float> scratch, std::uint8_t* gains) {
  const float base = Base(squares, scratch, 4);
  for (std::size_t i = 0; i < squares.size(); ++i) {
    // log2 of the gain is a quarter of log2(ratio), rounded: the exponent of the ratio decides.
    const float ratio = squares[i] > base ? squares[i] / base : 1.0f;
    const int power = (std::ilogb(ratio) + 2) / 4;
    gains[i] = kernels::GainByte(std::ldexp(1.0f, power));
  }
}

void ChooseGainsOfAll(std::span<const float> squares, std::span<float> scratch, std::uint8_t* gains) {
  const float base = Base(squares, scratch, 0x1p-16f);
  for (std::size_t i = 0; i < squares.size(); ++i) {
    const float ratio = squares[i] > base ? squares[i] / base : 1.0f;
    gains[i] = kernels::GainByte(std::sqrt(std::sqrt(ratio)));
  }
}

}  // namespace kvant::quantizers
