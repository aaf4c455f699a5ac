// Random rotations from Hadamard matrices: rounds of (random signs, orthonormal mixing of all dims), on 16 rows at a time.
//
// Rows stand in columns: `columns` is [dim][16], number i of row r at columns[i * 16 + r]. Every lane is computed alone and in
// one order with plain additions, subtractions and multiplications, so results are the same on every SIMD target.
//
// Mixing one round, by the dim:
//  - 2^k, 12 * 2^k, 20 * 2^k: the Kronecker product of Sylvester's matrix of order 2^k and Paley's matrix of order 12 or 20
//    (Paley 1933; type I over GF(11) and GF(19)), without the factor 1/sqrt(dim): see HadamardGain.
//  - other multiples of 8: no Hadamard matrix is used; a round is twice {signs, orthonormal Sylvester mixing of 2^k dims,
//    (a, b) -> ((a + b), (a - b)) / sqrt(2) for each a = x[i], b = x[i + dim/2]}, 2^k the largest power of two below dim, first
//    on the first 2^k dims, then on the last 2^k.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvant::kernels {

/// Rows that are worked on at once; numbers of one dim of these rows are adjacent (64 bytes).
inline constexpr std::size_t kLanes = 16;
inline constexpr std::size_t kMaxHeadDim = 1024;

/// Bytes of the columns of kLanes rows: the scratch of what rotates rows (64-byte aligned).
constexpr std::size_t RotationScratchBytes(std::size_t dim) noexcept { return dim * kLanes * sizeof(float); }

struct HadamardShape {
  std::uint32_t dim = 0;
  std::uint32_t core = 0;   ///< order of the Paley factor: 1 (none), 12 or 20; 0: the overlapping scheme
  std::uint32_t power = 0;  ///< the Sylvester factor's order (overlapping: 2^k)

  /// Requires: dim is a multiple of 8 in [8, kMaxHeadDim].
  static HadamardShape For(std::uint32_t dim) noexcept;

  /// Sign words that `rounds` rounds take, each 0 or 0x80000000.
  [[nodiscard]] std::size_t sign_words(std::size_t rounds) const noexcept { return rounds * dim * (core == 0 ? 2 : 1); }
  /// What the transforms multiply norms with.
  [[nodiscard]] double gain(std::size_t rounds) const noexcept;
};

/// Whether a map of this shape has a form for few rows, and so `quarter_signs`: powers of two from 32 on.
constexpr bool HasQuarters(const HadamardShape& shape) noexcept { return shape.core == 1 && shape.dim >= 32; }

/// quarter[(round * dim / 4 + c) * 4 + s] = signs[round * dim + s * dim / 4 + c]. Requires HasQuarters.
void QuarterSigns(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, std::uint32_t* quarter) noexcept;

/// An orthogonal map of rows, Q; everything is borrowed.
struct HadamardMap {
  HadamardShape shape;
  std::size_t rounds = 0;
  const std::uint32_t* signs = nullptr;          ///< shape.sign_words(rounds)
  const std::uint32_t* quarter_signs = nullptr;  ///< QuarterSigns of them, or null: then few rows cost as much as 16
  const std::int16_t* query_turns = nullptr;     ///< QueryTurns (lloyd/query.h) of them, or null
};

/// columns <- gain * Q columns, Q orthogonal. `columns` is 64-byte aligned.
void Hadamard(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, float* columns) noexcept;

/// columns <- gain * transpose(Q) columns.
void HadamardInverse(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, float* columns) noexcept;

}  // namespace kvant::kernels
