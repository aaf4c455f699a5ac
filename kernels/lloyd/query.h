// Queries -> what lloyd/score.h reads: rotated, rounded to integers, 16 queries to a batch.
// |q| <= 127, from 5 bits on 2047 (less for dims beyond 256, so that sums fit 32 bits). Batches are those of bytes/queries.h.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/bytes/attend.h"
#include "kernels/bytes/queries.h"
#include "kernels/lloyd/integer.h"
#include "kernels/lloyd/table.h"
#include "kernels/rotation/hadamard.h"

namespace kvant::kernels {

constexpr std::size_t LloydQueryWordsPerGroup(std::uint32_t bits) noexcept { return LloydHasWords(bits) ? 2 : 1; }

/// Words of one query's row.
constexpr std::size_t LloydQueryWords(std::uint32_t bits, std::size_t dim) noexcept {
  return dim / 4 * LloydQueryWordsPerGroup(bits);
}

constexpr std::size_t LloydQueryBatchBytes(std::uint32_t bits, std::size_t dim) noexcept {
  return QueryBatchBytes(LloydQueryWords(bits, dim));
}

/// The largest integer a query's number becomes.
constexpr std::int32_t LloydQueryMax(std::uint32_t bits, std::size_t dim) noexcept {
  if (!LloydHasWords(bits)) return kByteQueryMax;
  const auto fits = static_cast<std::int32_t>(INT32_MAX / (2047 * static_cast<std::int64_t>(dim)));
  return fits < 2047 ? fits : 2047;
}

struct LloydQueryConfig {
  const LloydTable* table = nullptr;
  HadamardMap map;
  const float* mean = nullptr;  ///< [dim] or null
};

/// queries: [n, dim], adjacent. prepared: ceil(n / 16) batches, 64-byte aligned. Finite queries give the same bytes on every
/// target; others give some bytes. scratch: RotationScratchBytes(dim), 64-byte aligned.
void LloydPrepareQueries(const LloydQueryConfig& config, const float* queries, std::size_t n, std::byte* prepared,
                         std::byte* scratch) noexcept;

/// The part of LloydPrepareQueries that rotates in integers: up to 4 bits, 64, 128 and 256 dims, two to four rounds, a map that
/// has turns. Biases are not written. Requires: PreparesInIntegers.
void LloydPrepareInIntegers(const LloydQueryConfig& config, const float* queries, std::size_t n, std::byte* prepared) noexcept;

[[nodiscard]] constexpr bool PreparesInIntegers(const LloydQueryConfig& config) noexcept {
  return config.map.query_turns != nullptr && RotatesInIntegers(*config.table, config.map.shape, config.map.rounds);
}

/// Lanes that one query takes in the integer rotation.
inline constexpr std::size_t kQueryLanes = 8;

/// Whether a map of this shape has a form for queries in integers, and so `query_turns`.
constexpr bool HasQueryTurns(const HadamardShape& shape, std::size_t rounds) noexcept {
  return shape.core == 1 && shape.dim >= 64 && shape.dim <= kMaxIntegerDim && rounds >= 2 && rounds <= 4;
}

/// turns [rounds - 1][dim]: the factor / 2^15 of each number before each round but the first, with its sign, in the order in
/// which the rotation meets them: after the first and third round lane u of column 8 h + s holds number 8 (8 h + u) + s.
/// Requires HasQueryTurns.
void QueryTurns(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, std::int16_t* turns) noexcept;

/// Queries with no number of at least this magnitude count as 0.
inline constexpr float kLeastQuery = 1e-30f;

/// Whether a norm is the root of that sum of squares as it is: none of the squares that matter was too small or too large.
[[nodiscard]] constexpr bool IsPlainSquare(float sum) noexcept { return sum >= 0x1p-80f && sum <= 0x1p100f; }

/// What other queries are divided by before their norm is taken, by their largest magnitude: a power of two, so exact, and
/// neither it nor its inverse is denormal.
[[nodiscard]] constexpr float QueryPower(float magnitude) noexcept {
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(magnitude) >> 23;
  return std::bit_cast<float>((exponent < 252 ? exponent : 252u) << 23);
}

/// Integers of a query's rotation (the steps of lloyd/integer.h): it starts with norm `limit`, and between rounds numbers are
/// multiplied by turn / 2^15, so that no number ever leaves 16 bits.
struct QueryRotation {
  float limit = 0;
  std::int16_t turn = 0;

  /// What is left of the norm is divided by all of this: 2^15 over the product of limit, all turns / 2^15 and the transform's
  /// own gain, by rounds.
  double restore[5] = {};

  /// Of 64, 128 or 256 dims.
  static const QueryRotation& Of(std::size_t dim) noexcept;
};

/// A rotated query's largest number is at least this.
inline constexpr std::int16_t kLeastRotated = 128;

/// The factor / 2^15 that turns rotated numbers into bytes: the largest becomes kByteQueryMax. Requires: largest >=
/// kLeastRotated.
[[nodiscard]] constexpr std::int16_t QueryFactor(std::int16_t largest) noexcept {
  return static_cast<std::int16_t>((kByteQueryMax * 32768 + 16383) / largest);
}

/// A query's scale is this times its norm / factor.
[[nodiscard]] inline float QueryToLogit(const LloydQueryConfig& config) noexcept {
  return static_cast<float>(QueryRotation::Of(config.map.shape.dim).restore[config.map.rounds] / double{config.table->unit});
}

}  // namespace kvant::kernels
