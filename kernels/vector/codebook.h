// A codebook of 256 words of four signed bytes: one code of 8 bits stands for four neighbouring numbers of a row, 2 bits a
// number.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace kvant::kernels {

/// Numbers of a row that one code stands for: a sub-vector.
inline constexpr std::size_t kVectorDims = 4;
inline constexpr std::size_t kVectorWords = 256;
/// The largest magnitude in a codebook: two products with bytes of queries or weights then fit 16 bits (bytes/expander-inl.h).
inline constexpr int kVectorLargest = 64;

struct VectorCodebook {
  float unit = 0.0f;  ///< codebook units per root mean square of a row
  /// Word w + 128 is the negative of word w: half of the look-ups are enough.
  bool odd = false;
  /// numbers[j][w]: number j of word w, |number| <= kVectorLargest.
  alignas(64) std::array<std::array<std::int8_t, kVectorWords>, kVectorDims> numbers{};
};

/// The words nearest to real ones, `words` [256][4] in units of a row's root mean square; the largest number becomes
/// kVectorLargest. Requires: finite words, not all zero.
[[nodiscard]] VectorCodebook RoundCodebook(const float* words) noexcept;

/// The codebook for rows whose numbers are independent and normal, in integers. Part of the stored format of the codecs that
/// use it. Odd.
[[nodiscard]] const VectorCodebook& GaussianCodebook() noexcept;

}  // namespace kvant::kernels
