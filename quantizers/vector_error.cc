#include "quantizers/vector_error.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <vector>

#include <kvant/tensor.h>

#include "kernels/vector/encode.h"

namespace kvant::quantizers {
namespace {

using kernels::kVectorDims;

/// Memory aligned as kernels want it.
struct alignas(64) Line {
  std::byte bytes[64];
};

/// The i-th of a sequence of normal vectors that fills the space evenly: an additive recurrence (Roberts 2018, on the root of
/// x^5 = x + 1), made normal by Box and Muller.
void NormalVector(std::size_t i, float* z) {
  constexpr double kRoot = 1.1673039782614187;
  double u[kVectorDims];
  double step = 1.0;
  for (double& each : u) {
    step /= kRoot;
    each = std::fmod(0.5 + static_cast<double>(i) * step, 1.0);
  }
  for (std::size_t pair = 0; pair < kVectorDims; pair += 2) {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - u[pair]));
    z[pair] = static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * u[pair + 1]));
    z[pair + 1] = static_cast<float>(radius * std::sin(2.0 * std::numbers::pi * u[pair + 1]));
  }
}

}  // namespace

WordsFit FitToNormal(const kernels::VectorCodebook& codebook) {
  // As the encoder finds them, in rows so long that their norms hardly differ.
  constexpr std::size_t kDim = kernels::kMaxHeadDim, kRows = kernels::kVectorBlockMultiple;
  std::vector<float> rows(kRows * kDim);
  for (std::size_t i = 0; i < rows.size() / kVectorDims; ++i) NormalVector(i + 1, &rows[i * kVectorDims]);
  const kernels::VectorEncoding how{.codebook = &codebook,
                                    .map = {.shape = kernels::HadamardShape::For(kDim), .rounds = 0},
                                    .layout = kernels::LloydLayout::kKeys,
                                    .scale = kernels::LloydScale::kLeastSquares};
  std::vector<Line> block(kernels::VectorBlockBytes(kDim, kRows) / sizeof(Line) + 1);
  std::vector<Line> scratch(kernels::VectorEncodeScratchBytes(kDim) / sizeof(Line));
  auto* codes = reinterpret_cast<std::uint8_t*>(block.data());
  if (kernels::VectorEncode(how, {rows.data(), ElementType::kF32, kRows, kDim, kDim}, codes,
                            reinterpret_cast<std::byte*>(scratch.data())) != kRows) {
    return {};
  }
  double dots = 0.0, norms = 0.0, squares = 0.0;
  for (std::size_t t = 0; t < kRows; ++t) {
    double square = 0.0, dot = 0.0;
    for (std::size_t i = 0; i < kDim; ++i) {
      const double number = rows[t * kDim + i];
      const double word = codebook.numbers[i % kVectorDims][codes[kernels::VectorCodeAt(how.layout, kDim, t, i / kVectorDims)]];
      square += number * number;
      dot += number * word;
      norms += word * word;
    }
    dots += dot * static_cast<double>(codebook.unit) / std::sqrt(square / kDim);
    squares += kDim * static_cast<double>(codebook.unit) * static_cast<double>(codebook.unit);
  }
  if (norms == 0.0) return {};
  return {.error = 1.0 - dots * dots / (norms * squares), .scale = dots / norms};
}

}  // namespace kvant::quantizers
