// How scoring walks a block of keys: 64 tokens at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/bytes/attend.h"
#include "kernels/lloyd/layout.h"

namespace kvant::kernels {

inline const std::uint8_t* BlockOf(const ByteScoreArgs& args) noexcept {
  return reinterpret_cast<const std::uint8_t*>(args.block);
}

/// Four subtiles of 16 tokens (fewer at the end of a block).
struct KeyStep {
  const std::uint8_t* codes = nullptr;  ///< first vector of the (first) supertile
  const std::uint8_t* more = nullptr;   ///< 3 bits: of the top bits; otherwise unused
  std::size_t tile_bytes = 0;           ///< from one supertile to the next
  std::size_t first_token = 0;
  bool odd = false;  ///< 1 and 3 bits: the upper four of eight fields
};

/// The step of the tokens from `token` on, a multiple of 64 (4 and 8 bits: of 16 * 8 / kBits).
template <std::uint32_t kBits>
constexpr KeyStep KeyStepAt(const std::uint8_t* block, std::size_t dim, std::size_t tokens, std::size_t token) noexcept {
  const std::size_t row = 16 * dim;
  if constexpr (kBits == 1) return {block + token / 128 * row, block, row, token, token % 128 != 0};
  if constexpr (kBits == 3) {
    return {block + token / 64 * row, block + LloydPlaneBytes(2, dim, tokens) + token / 128 * row, row, token,
            token % 128 != 0};
  }
  return {block + token * dim * kBits / 8, block, row, token, false};
}

}  // namespace kvant::kernels
