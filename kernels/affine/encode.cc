#include "kernels/affine/encode.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/affine/float16.h"
#include "kernels/ufloat16.h"

namespace kvant::kernels {
namespace {

/// A group's side data, and what its codes are made with.
struct Grid {
  std::uint16_t step_bits = 0;
  std::uint16_t zero_bits = 0;
  float zero = 0.0f;
  float inverse = 0.0f;  ///< of the step; 0 where the step is 0
};

Grid GridOf(float minimum, float maximum, std::uint32_t bits) noexcept {
  const auto levels = static_cast<float>((1u << bits) - 1u);
  Grid grid;
  grid.zero_bits = FloatToF16Down(minimum);
  grid.zero = F16ToFloat(grid.zero_bits);
  const float range = maximum - grid.zero;
  grid.step_bits = FloatToUfloat16(range / levels);
  // Rounding leaves the largest number at most 255 / 2048 of a step out, but below 2^-30, where steps lose their digits.
  while ((levels + 0.5f) * Ufloat16ToFloat(grid.step_bits) < range) ++grid.step_bits;
  const float step = Ufloat16ToFloat(grid.step_bits);
  grid.inverse = step > 0.0f ? 1.0f / step : 0.0f;
  return grid;
}

/// Adding this to 0 <= x < 2^22 rounds x to an integer, ties to even, and leaves it in the low bits.
constexpr float kRoundToBits = 12582912.0f;  // 1.5 * 2^23

inline std::uint8_t CodeOf(float x, float zero, float inverse, float levels) noexcept {
  const float level = (x - zero) * inverse;
  const float within = level < levels ? level : levels;
  return static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(within + kRoundToBits));
}

void StoreSide(std::byte* at, std::size_t line, std::uint16_t bits) noexcept {
  std::memcpy(at + line * sizeof(bits), &bits, sizeof(bits));
}

/// ORs codes of four tokens' dims, or of four dims of tokens, into the planes: word i of a tile gets byte j from codes[j](i).
template <typename WordAt>
void AddCodes(const AffineShape& shape, std::size_t token, std::size_t words, std::size_t stride, WordAt word_at,
              std::byte* block) noexcept {
  std::uint32_t shift = 0;
  for (const std::uint32_t plane : AffinePlanes(shape.bits)) {
    if (plane == 0) break;
    const LloydField at = LloydFieldOf(shape.layout, plane, shape.dim, token, 0);
    const std::uint32_t mask = ((1u << plane) - 1u) * 0x01010101u;
    std::byte* to = block + at.byte;
    for (std::size_t i = 0; i < words; ++i) {
      std::uint32_t word;
      std::memcpy(&word, to + i * stride, sizeof(word));
      word |= (word_at(i) >> shift & mask) << at.shift;
      std::memcpy(to + i * stride, &word, sizeof(word));
    }
    block += LloydPlaneBytes(plane, shape.dim, shape.tokens);
    shift += plane;
  }
}

void EncodeKeys(const AffineShape& shape, const float* rows, std::size_t first, std::byte* block, std::byte* scratch) noexcept {
  const std::size_t dim = shape.dim, g = first / shape.group;
  auto* low = reinterpret_cast<float*>(scratch);  // the minimum, then the zero
  float* high = low + dim;                        // the maximum, then the step's inverse
  auto* codes = reinterpret_cast<std::uint8_t*>(high + dim);
  std::copy_n(rows, dim, low);
  std::copy_n(rows, dim, high);
  for (std::size_t t = 1; t < shape.group; ++t) {
    const float* row = rows + t * dim;
    for (std::size_t d = 0; d < dim; ++d) {
      low[d] = row[d] < low[d] ? row[d] : low[d];
      high[d] = row[d] > high[d] ? row[d] : high[d];
    }
  }
  for (std::size_t d = 0; d < dim; ++d) {
    const Grid grid = GridOf(low[d], high[d], shape.bits);
    StoreSide(block + shape.steps_at(g), d, grid.step_bits);
    StoreSide(block + shape.zeros_at(g), d, grid.zero_bits);
    low[d] = grid.zero;
    high[d] = grid.inverse;
  }
  const auto levels = static_cast<float>((1u << shape.bits) - 1u);
  for (std::size_t t = 0; t < shape.group; ++t) {
    const float* row = rows + t * dim;
    for (std::size_t d = 0; d < dim; ++d) codes[d] = CodeOf(row[d], low[d], high[d], levels);
    const auto word_at = [&](std::size_t i) {
      std::uint32_t word;
      std::memcpy(&word, codes + 4 * i, sizeof(word));
      return word;
    };
    AddCodes(shape, first + t, dim / 4, 64, word_at, block);
  }
}

void EncodeValues(const AffineShape& shape, const float* rows, std::size_t first, std::byte* block,
                  std::byte* scratch) noexcept {
  const std::size_t dim = shape.dim;
  auto* codes = reinterpret_cast<std::uint8_t*>(scratch);  // [4, dim]
  const auto levels = static_cast<float>((1u << shape.bits) - 1u);
  for (std::size_t j = 0; j < 4; ++j) {
    for (std::size_t g = 0; g < shape.groups(); ++g) {
      const std::size_t begin = g * shape.group, end = std::min(dim, begin + shape.group);
      const float* row = rows + j * dim;
      float low[8], high[8];  // groups are whole eights
      for (std::size_t i = 0; i < 8; ++i) low[i] = high[i] = row[begin + i];
      for (std::size_t d = begin + 8; d < end; d += 8) {
        for (std::size_t i = 0; i < 8; ++i) {
          low[i] = row[d + i] < low[i] ? row[d + i] : low[i];
          high[i] = row[d + i] > high[i] ? row[d + i] : high[i];
        }
      }
      const Grid grid = GridOf(*std::min_element(low, low + 8), *std::max_element(high, high + 8), shape.bits);
      StoreSide(block + shape.steps_at(g), first + j, grid.step_bits);
      StoreSide(block + shape.zeros_at(g), first + j, grid.zero_bits);
      for (std::size_t d = begin; d < end; ++d) codes[j * dim + d] = CodeOf(row[d], grid.zero, grid.inverse, levels);
    }
  }
  const auto word_at = [&](std::size_t d) {
    return codes[d] | std::uint32_t{codes[dim + d]} << 8 | std::uint32_t{codes[2 * dim + d]} << 16 |
           std::uint32_t{codes[3 * dim + d]} << 24;
  };
  AddCodes(shape, first, dim, 4, word_at, block);
}

}  // namespace

void ClearAffineCodes(const AffineShape& shape, std::byte* block) noexcept {
  std::fill_n(block, shape.codes_bytes(), std::byte{});
}

void EncodeAffine(const AffineShape& shape, const float* rows, std::size_t first, std::byte* block,
                  std::byte* scratch) noexcept {
  if (shape.layout == LloydLayout::kKeys) {
    EncodeKeys(shape, rows, first, block, scratch);
  } else {
    EncodeValues(shape, rows, first, block, scratch);
  }
}

}  // namespace kvant::kernels
