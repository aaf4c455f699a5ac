// Paley's Hadamard matrices of order 12 and 20 as sums of signed groups of four: row i is the sum over k of
// +-x[4k] +-x[4k+1] +-x[4k+2] +-x[4k+3]. Only 8 sums of four numbers exist up to sign, so they are shared by all rows.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace kvant::kernels {

/// patterns[i][k]: bit j is set where row i has -1 in column 4k + j. Normalised: first row and column are all +1.
template <std::size_t kOrder>
struct PaleyPatterns {
  std::array<std::array<std::uint8_t, kOrder / 4>, kOrder> forward{};
  std::array<std::array<std::uint8_t, kOrder / 4>, kOrder> transposed{};
};

template <std::size_t kOrder>
constexpr PaleyPatterns<kOrder> MakePaleyPatterns() {
  constexpr std::size_t kField = kOrder - 1;  // a prime, 3 mod 4
  std::array<bool, kField> square{};
  for (std::size_t i = 1; i < kField; ++i) square[i * i % kField] = true;
  // Type I: I + S with S skew, S = [[0, 1], [-1, chi(i - j)]]; all rows but the first negated.
  const auto negative = [&](std::size_t row, std::size_t column) {
    if (row == 0 || column == 0) return false;
    if (row == column) return true;
    return static_cast<bool>(square[(row + kField - column) % kField]);
  };
  PaleyPatterns<kOrder> patterns;
  for (std::size_t i = 0; i < kOrder; ++i) {
    for (std::size_t j = 0; j < kOrder; ++j) {
      const auto bit = static_cast<std::uint8_t>(1u << (j % 4));
      if (negative(i, j)) patterns.forward[i][j / 4] = static_cast<std::uint8_t>(patterns.forward[i][j / 4] | bit);
      if (negative(j, i)) patterns.transposed[i][j / 4] = static_cast<std::uint8_t>(patterns.transposed[i][j / 4] | bit);
    }
  }
  return patterns;
}

inline constexpr PaleyPatterns<12> kPaley12 = MakePaleyPatterns<12>();
inline constexpr PaleyPatterns<20> kPaley20 = MakePaleyPatterns<20>();

}  // namespace kvant::kernels
