// The nearest direction on a uniform grid: the encoder of extended RaBitQ (Gao et al., arXiv 2409.09913, section 3.2).
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvant::quantizers {

/// What a scale and an error are computed from: of a row a and its odd numbers c.
struct GridFit {
  double dot = 0;     ///< <a, c>
  double square = 0;  ///< |c|^2
};

/// Scratch that BestGrid takes.
constexpr std::size_t BestGridScratchBytes(std::size_t dim, std::uint32_t top) noexcept {
  return dim * top * sizeof(std::uint64_t);
}

/// Rounds `dim` magnitudes a_i >= 0 to odd numbers c_i = 2 index_i + 1 with index_i = floor(t a_i), at most `top`, for the t
/// with the largest cosine between a and c. Every t is tried at which a code changes, k / a_i for k = 1..top, in ascending
/// order; of equal ones the lower dim first, of equal cosines the lower t. `scratch` is aligned to 8 bytes. dim <= 65536.
GridFit BestGrid(const float* magnitudes, std::size_t dim, std::uint32_t top, std::uint8_t* index, std::byte* scratch) noexcept;

}  // namespace kvant::quantizers
