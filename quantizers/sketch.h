// Random projections of rows, S k, of which codes keep the signs (QJL: Zandieh et al., arXiv 2406.03482).
//
// <q, k> is estimated by constant * |k| * sum over i of (S q)_i sign((S k)_i), without bias over S. The rows of S are
//   orthogonal: those of random rotations stacked on each other, each of its own stream, the last perhaps in part. Within a
//     rotation they are orthonormal, so signs repeat less: of head_dim projections the error is 0.57 of k's square, not 1.57.
//     constant = sqrt(pi) Gamma((d + 1) / 2) / (m Gamma(d / 2)), the inverse of what a number of a random unit vector has in
//     size.
//   Gaussian: independent normal numbers (random_numbers.h) of the splitmix64 sequence of the seed, row by row, as in the
//   paper.
//     constant = sqrt(pi / 2) / m. Takes 4 m head_dim bytes for each head.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "quantizers/rotation.h"

namespace kvant::quantizers {

enum class SketchKind : std::uint8_t { kOrthogonal, kGaussian };
inline constexpr std::string_view kSketchNames[] = {"orthogonal", "gaussian"};

inline constexpr std::uint32_t kMaxProjections = 1024;

class Sketch {
 public:
  /// `key` names the head; its codec and stream are those of the codec that makes the sketch. Requires: head_dim is a multiple
  /// of 8 in 8..1024, projections one in 8..kMaxProjections.
  Sketch(SketchKind kind, std::uint32_t head_dim, std::uint32_t projections, RotationKey key);

  [[nodiscard]] std::size_t projections() const noexcept { return projections_; }
  [[nodiscard]] double constant() const noexcept { return constant_; }
  /// E|k - k'|^2 / |k|^2 over S, k' = constant |k| S' sign(S k).
  [[nodiscard]] double expected_error() const;
  /// Beside the object itself.
  [[nodiscard]] std::size_t memory_bytes() const noexcept;
  /// The most of it, the object included.
  static std::size_t MostBytes(SketchKind kind, std::uint32_t head_dim, std::uint32_t projections) noexcept;

  /// Rows of columns that Columns writes: whole rotations.
  static constexpr std::size_t ColumnRows(std::size_t head_dim, std::size_t projections) noexcept {
    return (projections + head_dim - 1) / head_dim * head_dim;
  }
  /// The first `projections` of out [ColumnRows][16] = factor * S columns, columns [head_dim][16], both 64-byte aligned.
  void Columns(const float* columns, float factor, float* out) const;

  /// rows[t] += S' signs[t], [count][head_dim] and [count][projections], at most kLanes. Scratch: TransposeScratchBytes,
  /// 64-byte aligned.
  void AddTransposed(const float* signs, std::size_t count, float* rows, std::byte* scratch) const;
  static constexpr std::size_t TransposeScratchBytes(std::size_t head_dim) noexcept {
    return kernels::RotationScratchBytes(head_dim) + 2 * kernels::kLanes * head_dim * sizeof(float);
  }

 private:
  SketchKind kind_;
  std::uint32_t dim_;
  std::uint32_t projections_;
  double constant_;
  std::vector<Rotation> rotations_;  ///< orthogonal
  std::vector<float> matrix_;        ///< Gaussian: [projections, head_dim]
};

}  // namespace kvant::quantizers
