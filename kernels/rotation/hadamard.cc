#include "kernels/rotation/hadamard.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rotation/hadamard.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/rotation/hadamard-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {

void HadamardAll(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, float* columns) {
  HadamardColumns(shape, rounds, signs, columns);
}

void HadamardInverseAll(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, float* columns) {
  HadamardInverseColumns(shape, rounds, signs, columns);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(HadamardAll);
HWY_EXPORT(HadamardInverseAll);

HadamardShape HadamardShape::For(std::uint32_t dim) noexcept {
  const auto is_power = [](std::uint32_t n) { return n != 0 && (n & (n - 1)) == 0; };
  for (const std::uint32_t core : {1u, 12u, 20u}) {
    if (dim % core == 0 && is_power(dim / core)) return {dim, core, dim / core};
  }
  std::uint32_t power = 8;
  while (2 * power < dim) power *= 2;
  return {dim, 0, power};
}

double HadamardShape::gain(std::size_t rounds) const noexcept {
  double gain = 1.0;
  if (core == 0) return gain;
  // Products of correctly rounded roots: the same on every machine, which pow need not be.
  for (std::size_t i = 0; i < rounds; ++i) gain *= std::sqrt(static_cast<double>(dim));
  return gain;
}

void QuarterSigns(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, std::uint32_t* quarter) noexcept {
  const std::size_t columns = shape.dim / 4;
  for (std::size_t round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < shape.dim; ++i) *quarter++ = signs[round * shape.dim + i % 4 * columns + i / 4];
  }
}

void Hadamard(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, float* columns) noexcept {
  HWY_DYNAMIC_DISPATCH(HadamardAll)(shape, rounds, signs, columns);
}

void HadamardInverse(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, float* columns) noexcept {
  HWY_DYNAMIC_DISPATCH(HadamardInverseAll)(shape, rounds, signs, columns);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
