// What the bytes of an encoded block are, as plain data: for inspection, for documentation, and for a kernel elsewhere (a GPU)
// that reads the same bytes without calling the codec.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace kvant::quantizers {

/// What a code stands for.
enum class CodeFamily : std::uint8_t {
  kOpaque,   ///< nothing that this struct can say: only the codec itself reads it
  kRaw,      ///< numbers of a floating-point type
  kScalar,   ///< one index into a list of levels per number
  kVector,   ///< one index into a codebook per group of numbers
  kSigns,    ///< one bit per number, compared by counting bits
  kTrellis,  ///< one code per number, which with codes before it picks among twice as many levels (kernels/trellis/code.h)
};

/// In which order the codes of a block lie.
enum class CodeOrder : std::uint8_t {
  kOpaque,
  kRows,        ///< row after row, numbers adjacent
  kKeyTiles,    ///< LloydLayout::kKeys of kernels/lloyd/layout.h: 16 tokens by 4 numbers
  kValueTiles,  ///< LloydLayout::kValues there: 4 tokens by all numbers
};

enum class ScaleFormat : std::uint8_t { kNone, kUfloat16, kF16, kF32 };

/// For listings: "scalar", "key_tiles", "ufloat16".
[[nodiscard]] std::string_view CodeFamilyName(CodeFamily family) noexcept;
[[nodiscard]] std::string_view CodeOrderName(CodeOrder order) noexcept;
[[nodiscard]] std::string_view ScaleFormatName(ScaleFormat format) noexcept;

/// A number reads back as level(code) * scale(token) / level_unit, in row space or, if `rotated`, in the rotated one.
struct CodeForm {
  CodeFamily family = CodeFamily::kOpaque;
  CodeOrder order = CodeOrder::kOpaque;
  std::uint8_t bits = 0;  ///< of one code
  /// Not null: levels are symmetric and ascend with the code. Code half + i stands for magnitudes[i], code half - 1 - i for its
  /// negative, half = 2^(bits - 1). Of trellis codes, the same of level numbers, half = 2^bits. Lives as long as the codec.
  const std::int16_t* magnitudes = nullptr;
  std::int32_t first_level = 0;  ///< without magnitudes: the level of code i is i + first_level
  float level_unit = 1.0F;
  ScaleFormat scale_format = ScaleFormat::kNone;
  std::size_t scale_offset = 0;  ///< bytes from the start of the first part to the scales, one per token, adjacent
  bool rotated = false;          ///< codes are of the rotated row (quantizers/rotation.h)
  bool centered = false;         ///< codes are of the row without a mean, the calibrated one or the block's
  /// Not 0: bytes from the start of the first part to the block's own mean, head_dim f16, and to its gains, head_dim bytes, by
  /// which rows were divided (kernels/gauge/gauge.h).
  std::size_t mean_offset = 0;
  std::size_t gain_offset = 0;
};

}  // namespace kvant::quantizers
