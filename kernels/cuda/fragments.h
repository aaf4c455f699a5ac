// How stored Lloyd codes (kernels/lloyd/layout.h) meet the tensor cores: a word of codes is a word of their left operand.
//
// Keys: four dims of one token are one stored word, so rows of a product are tokens and it sums over dims. Values: four tokens
// of one dim are one stored word: rows are dims, and it sums over tokens. Either way nothing is moved between lanes; the fields
// of a byte are tokens, which a look-up leaves in pairs side by side: the products part them (keys) or the weights are put in
// that order (values).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/lanes.h"

namespace kvant::kernels::cuda {

/// Centroids as look-up tables of four bytes each (kernels/lloyd/table.h).
inline constexpr std::uint32_t kLevelsOfTwoBits = 0x0A03FDF6u;  // -10, -3, 3, 10
inline constexpr std::uint32_t kLevelsOfFourBits[4] = {0xD0C2B198u, 0xFBF1E7DCu, 0x24190F05u, 0x684F3E30u};

/// What a block of keys or values of `kBits` bits and `kDim` dims looks like to a warp that takes `kTokens` of its tokens.
template <int kBits, int kDim, int kTokens>
struct CodeShape {
  static_assert((kBits == 2 || kBits == 4) && kDim % 32 == 0);
  static constexpr int kFields = 8 / kBits;
  static constexpr int kKeyTiles = kTokens / (16 * kFields);    ///< supertiles of keys
  static constexpr int kValueTiles = kTokens / (16 * kFields);  ///< fours of supertiles of values: one for each t
  static_assert(kTokens % (16 * kFields) == 0 && (kKeyTiles == 1 || kKeyTiles == 2));
  static constexpr int kCodesBytes = kTokens * kDim * kBits / 8;
  /// Adjacent tokens of a field that a lane has of keys.
  static constexpr int kTokensOfLane = 2 * kKeyTiles;
  static constexpr int kKeyLoads = kDim / 16;
  static constexpr int kValueLoads = kValueTiles * (kDim / 32);
};

inline namespace KVANT_LANES {
/// Bytes to centroids: each word becomes two per pair of fields, (byte 0's two fields, byte 1's), (byte 2's, byte 3's). 2
/// bits: words 0, 1 of fields 0 and 2, words 2, 3 of fields 1 and 3. 4 bits: words 0, 1 of fields 0 and 1.
template <int kBits>
KVANT_WARP void Expand(Lanes<std::uint32_t> codes, Lanes<std::uint32_t> (&levels)[8 / kBits]) {
  if constexpr (kBits == 2) {
    const Lanes<std::uint32_t> table = kLevelsOfTwoBits;
    const Lanes<std::uint32_t> even = codes & 0x33333333u, odd = (codes >> 2) & 0x33333333u;
    levels[0] = Permute(table, table, even);
    levels[1] = Permute(table, table, even >> 16);
    levels[2] = Permute(table, table, odd);
    levels[3] = Permute(table, table, odd >> 16);
  } else {
    constexpr std::uint32_t low[2] = {kLevelsOfFourBits[0], kLevelsOfFourBits[1]};
    constexpr std::uint32_t high[2] = {kLevelsOfFourBits[2], kLevelsOfFourBits[3]};
    const Lanes<std::uint32_t> index = codes & 0x77777777u;
    const Lanes<std::uint32_t> upper =
        ((codes >> 1) & 0x44444444u) | 0x32103210u;  // of the two look-ups, high where bit 3 is set
    levels[0] = Permute(Permute(low[0], low[1], index), Permute(high[0], high[1], index), upper);
    levels[1] = Permute(Permute(low[0], low[1], index >> 16), Permute(high[0], high[1], index >> 16), upper >> 16);
  }
}

/// Which fields the `part`th level of pair `pair` stands for.
template <int kBits>
constexpr KVANT_WARP int FieldOf(int pair, int part) {
  return kBits == 2 ? pair + 2 * part : part;
}

/// Where a lane's load `i` of keys begins: dims 16 i + 4 t.. of its tokens.
template <class Shape, int kDim>
KVANT_WARP Lanes<int> KeyOffset(Lanes<int> lane) {
  const Lanes<int> g = lane >> 2, t = lane & 3;
  if constexpr (Shape::kKeyTiles == 2) return (g >> 2) * (16 * kDim) + t * 64 + (g & 3) * 16;
  return t * 64 + g * 8;
}
inline constexpr int kKeyLoadStride = 256;

/// The first of a lane's tokens of field 0; those of field s are 16 s later.
template <class Shape>
KVANT_WARP Lanes<int> FirstToken(Lanes<int> lane) {
  const Lanes<int> g = lane >> 2;
  if constexpr (Shape::kKeyTiles == 2) return (g >> 2) * (16 * Shape::kFields) + (g & 3) * 4;
  return g * 2;
}

/// Where a lane's load of values begins: dims 32 c + 4 g.. of supertile 4 i + t.
template <int kDim>
KVANT_WARP Lanes<int> ValueOffset(Lanes<int> lane) {
  return (lane & 3) * (4 * kDim) + (lane >> 2) * 16;
}
template <int kDim>
constexpr KVANT_WARP int ValueLoadOffset(int i, int c) {
  return i * (16 * kDim) + c * 128;
}

/// Codes of a lane's tokens, 16 or 8 bytes.
template <class Shape>
KVANT_WARP Quad LoadKeys(const std::uint8_t* base, Lanes<int> offset) {
  if constexpr (Shape::kKeyTiles == 2) return Load16(base, offset);
  const Pair half = Load8(base, offset);
  return {{half.word[0], half.word[1], half.word[0], half.word[1]}};
}

/// Scales (ufloat16) of a lane's tokens of one field: two in a word.
template <class Shape>
KVANT_WARP Pair ScalesOf(const std::uint8_t* base, Lanes<int> offset) {
  if constexpr (Shape::kKeyTiles == 2) return Load8(base, offset);
  const Lanes<std::uint32_t> word = Load4(base, offset);
  return {{word, word}};
}
/// The `k`th of them, times 2^-96.
KVANT_WARP Lanes<float> ScaleOf(const Pair& scales, int k) {
  const Lanes<std::uint32_t> word = scales.word[k / 2];
  return AsFloat((k % 2 == 0 ? word << 13 : word >> 3) & 0x1FFFE000u);
}

/// Integer sums begin here: 1.5 * 2^23, whose bits as an integer grow by one as the float does. What is below 2^22 is exact.
inline constexpr float kSumBase = 12582912.0f;
inline constexpr std::int32_t kSumBaseBits = 0x4B400000;

KVANT_WARP void BeginSums(Sums& sums) {
  KVANT_UNROLL
  for (auto& sum : sums) sum = kSumBaseBits;
}
KVANT_WARP Lanes<float> SumOf(Lanes<std::int32_t> sum) { return AsFloat(Convert<std::uint32_t>(sum)) - kSumBase; }

}  // namespace KVANT_LANES
}  // namespace kvant::kernels::cuda
