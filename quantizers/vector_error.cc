#include "quantizers/vector_error.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

namespace kvant::quantizers {
namespace {

using kernels::kVectorDims;
using kernels::kVectorWords;

/// Words as floats, so that compilers turn the search into vectors.
struct FloatWords {
  float numbers[kVectorDims][kVectorWords];
  float half_squares[kVectorWords];

  explicit FloatWords(const kernels::VectorCodebook& codebook) {
    for (std::size_t w = 0; w < kVectorWords; ++w) {
      half_squares[w] = 0.0F;
      for (std::size_t j = 0; j < kVectorDims; ++j) {
        numbers[j][w] = codebook.numbers[j][w];
        half_squares[w] += numbers[j][w] * numbers[j][w] / 2;
      }
    }
  }
};

/// The i-th of a sequence of normal vectors that fills the space evenly: an additive recurrence (Roberts 2018, on the root of
/// x^5 = x + 1), made normal by Box and Muller.
void NormalVector(int i, double unit, float (&z)[kVectorDims]) {
  constexpr double kRoot = 1.1673039782614187;
  double u[kVectorDims];
  double step = 1.0;
  for (double& each : u) {
    step /= kRoot;
    each = std::fmod(0.5 + i * step, 1.0);
  }
  for (std::size_t pair = 0; pair < kVectorDims; pair += 2) {
    const double radius = unit * std::sqrt(-2.0 * std::log(1.0 - u[pair]));
    z[pair] = static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * u[pair + 1]));
    z[pair + 1] = static_cast<float>(radius * std::sin(2.0 * std::numbers::pi * u[pair + 1]));
  }
}

}  // namespace

WordsFit FitToNormal(const kernels::VectorCodebook& codebook) {
  constexpr int kSamples = 4096;
  const FloatWords words(codebook);
  double dots = 0.0, norms = 0.0, squares = 0.0;
  for (int i = 1; i <= kSamples; ++i) {
    float z[kVectorDims];
    NormalVector(i, codebook.unit, z);
    float scores[kVectorWords];
    for (std::size_t w = 0; w < kVectorWords; ++w) {
      scores[w] = z[0] * words.numbers[0][w] + z[1] * words.numbers[1][w] + z[2] * words.numbers[2][w] +
                  z[3] * words.numbers[3][w] - words.half_squares[w];
    }
    const auto nearest = static_cast<std::size_t>(std::max_element(scores, scores + kVectorWords) - scores);
    const double half = words.half_squares[nearest];
    dots += scores[nearest] + half;
    norms += 2.0 * half;
    for (const float number : z) squares += static_cast<double>(number) * number;
  }
  if (norms == 0.0) return {};
  return {.error = 1.0 - dots * dots / (norms * squares), .scale = dots / norms};
}

}  // namespace kvant::quantizers
