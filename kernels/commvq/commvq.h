// Additive codes of rows as complex pairs: sums of codewords, one stage after the other (Li et al., CommVQ, arXiv 2506.18879).
//
// A row of 2 * pairs numbers is planar here: the real parts of all pairs, then the imaginary ones. Each stage has 64 codewords
// of such rows, and a code of 12 bits, (a, b), stands for C[a] + i C[b]. The turn of a pair by RoPE is a multiplication by a
// complex number, too, so codes may be turned after they are added up.
//
// Block: for each stage, codes of `tokens` tokens, two of them in three bytes: a of the even token in the lowest six bits, then
// its b, then a and b of the odd one. Behind all stages a ufloat16 scale per token. A change needs a new codec version.
#pragma once

#include <cstddef>
#include <cstdint>

#include <kvant/tensor.h>

namespace kvant::kernels {

inline constexpr std::size_t kCommVqWords = 64;
inline constexpr std::size_t kCommVqTile = 16;  ///< tokens that are encoded together
inline constexpr std::size_t kCommVqMaxDim = 256;
/// Two bits per number of the largest row.
inline constexpr std::size_t kCommVqMaxStages = (2 * kCommVqMaxDim + 11) / 12;

/// Borrowed. words: [stages][kCommVqWords][2][pairs]; at most kCommVqMaxStages.
struct CommVqCodebook {
  const float* words = nullptr;
  std::size_t stages = 0;
  std::size_t pairs = 0;  ///< a multiple of 4

  [[nodiscard]] constexpr std::size_t dim() const noexcept { return 2 * pairs; }
  [[nodiscard]] const float* word(std::size_t stage, std::size_t code) const noexcept {
    return words + (stage * kCommVqWords + code) * dim();
  }
};

constexpr std::size_t CommVqStageBytes(std::size_t tokens) noexcept { return tokens / 2 * 3; }
constexpr std::size_t CommVqBlockBytes(std::size_t stages, std::size_t tokens) noexcept {
  return stages * CommVqStageBytes(tokens) + tokens * sizeof(std::uint16_t);
}

struct CommVqCode {
  std::uint32_t a, b;  ///< below kCommVqWords, whatever the bytes
};
constexpr CommVqCode CommVqCodeAt(const std::uint8_t* block, std::size_t tokens, std::size_t stage,
                                  std::size_t token) noexcept {
  const std::uint8_t* three = block + stage * CommVqStageBytes(tokens) + token / 2 * 3;
  const std::uint32_t both = three[0] | static_cast<std::uint32_t>(three[1]) << 8 | static_cast<std::uint32_t>(three[2]) << 16;
  const std::uint32_t code = both >> (token % 2 * 12);
  return {code & 63U, code >> 6 & 63U};
}

/// Scratch of CommVqEncode: planar rows twice, a stage's codewords turned, their products, and a tile's.
constexpr std::size_t CommVqEncodeScratchBytes(std::size_t dim, std::size_t tokens) noexcept {
  return (2 * tokens * dim + kCommVqWords * dim + kCommVqWords * kCommVqWords + 2 * kCommVqWords * kCommVqTile) * sizeof(float);
}

/// Encodes all rows (rows.count a multiple of kCommVqTile): each is divided by its norm, and stage after stage takes the code
/// that leaves the least, ties to the lower a, then b. The scale is |x|^2 / <x, x'>, at most twice the norm, so that the row's
/// own product is exact. place[i]: where planar number i lies in a row. Every token's arithmetic is its own and in one order:
/// the same bytes on every target. Returns rows.count, or the index of the first row with a NaN, an infinity or a norm beyond
/// ufloat16 / 2. `scratch` is 64-byte aligned.
[[nodiscard]] std::size_t CommVqEncode(const CommVqCodebook& codebook, const std::uint16_t* place, const RowsView& rows,
                                       std::uint8_t* block, std::byte* scratch) noexcept;

/// planar[i * dim ..]: the row of token first + i, for i < count, in the order of the stages: the same bits on every target.
void CommVqDecode(const CommVqCodebook& codebook, const std::uint8_t* block, std::size_t tokens, std::size_t first,
                  std::size_t count, float* planar) noexcept;

}  // namespace kvant::kernels
