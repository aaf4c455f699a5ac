// A block's own gauge: the mean row of its keys, which is subtracted from each of them, and a gain for each dim, by which what
// remains is divided before it becomes codes. Queries meet it the other way round: <q, k> = <q, mean> + <q * gain, (k - mean) /
// gain>.
//
// Stored: means as f16, gains as bytes: 0x80 + 8 * e + m stands for 2^e * (1 + m / 8), so a byte is the upper part of a float.
// Every function gives the same bits on every target: each dim is a lane of its own, sums over tokens go in their order, sums
// over dims are sixteen running sums.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace kvant::kernels {

/// The gain that a byte stands for: 2^-16 to 2^15 * 1.875. Exact.
constexpr float GainOf(std::uint8_t byte) noexcept {
  return std::bit_cast<float>((static_cast<std::uint32_t>(byte) << 20) + (111u << 23));
}

/// The byte whose gain is nearest to a positive finite number (in the float's own scale, ties upwards), the least or the
/// largest for one beyond.
constexpr std::uint8_t GainByte(float gain) noexcept {
  const auto rounded = static_cast<std::int64_t>((std::bit_cast<std::uint32_t>(gain) + (1u << 19)) >> 20) - (111 << 3);
  return static_cast<std::uint8_t>(rounded < 0 ? 0 : rounded > 255 ? 255 : rounded);
}

/// A block's gauge where it lies.
struct BlockGauge {
  const std::uint16_t* mean = nullptr;  ///< [dim] f16, aligned to 2 bytes
  const std::uint8_t* gains = nullptr;  ///< [dim], or null: all 1
};

/// mean[d]: the mean of n rows, [n, dim] adjacent, n > 0. dim is a multiple of 8, here and below.
void MeanOfRows(const float* rows, std::size_t n, std::size_t dim, float* mean) noexcept;

/// squares[d]: the mean square of n rows around the gauge's means.
void SpreadOfRows(const float* rows, std::size_t n, std::size_t dim, const std::uint16_t* mean, float* squares) noexcept;

/// rows <- (rows - mean) / gain, in place.
void ApplyGauge(const BlockGauge& gauge, std::size_t dim, std::size_t n, float* rows) noexcept;

/// rows <- rows * gain + mean: n rows, row i at rows + i * stride.
void RemoveGauge(const BlockGauge& gauge, std::size_t dim, std::size_t n, float* rows, std::size_t stride) noexcept;

/// dots[i] = <query i, mean>: n queries, query i at queries + i * stride.
void DotsWithMean(const BlockGauge& gauge, std::size_t dim, const float* queries, std::size_t stride, std::size_t n,
                  float* dots) noexcept;

/// scaled[i * dim + d] = query i's number * gain.
void ScaleQueries(const BlockGauge& gauge, std::size_t dim, const float* queries, std::size_t stride, std::size_t n,
                  float* scaled) noexcept;

/// rows[i * stride + t] += numbers[i], t < width.
void AddToRows(float* rows, std::size_t stride, std::size_t n, std::size_t width, const float* numbers) noexcept;

}  // namespace kvant::kernels
