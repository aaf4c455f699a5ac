#include "kernels/polar/decode.h"

#include "kernels/polar/table.h"
#include "kernels/ufloat16.h"

namespace kvant::kernels {

void PolarDecodeRow(const PolarForm& form, const std::uint8_t* block, std::size_t tokens, std::size_t token,
                    float* row) noexcept {
  const std::uint8_t* tile = block + token / kPolarTile * form.tile_bytes();
  std::size_t position = 0;
  const auto take = [&](std::uint32_t bits) {
    const std::uint32_t code = PolarCodeAt(form, tile, token % kPolarTile, position, bits);
    position += bits;
    return code;
  };
  for (std::size_t pair = 0; pair < form.pairs(); ++pair) {
    const PolarAngles& circle = PolarCircle(form.first);
    const std::uint32_t angle = take(form.first);
    row[2 * pair] = circle.cosines[angle];
    row[2 * pair + 1] = circle.sines[angle];
    for (std::uint32_t level = 2; level < 2 + PolarFolds(form, pair); ++level) {
      const PolarAngles& quarter = PolarQuarter(level, form.others);
      const std::uint32_t code = take(form.others);
      const std::size_t half = std::size_t{1} << (level - 1), begin = 2 * (pair + 1) - 2 * half;
      for (std::size_t i = 0; i < half; ++i) row[begin + i] *= quarter.cosines[code];
      for (std::size_t i = half; i < 2 * half; ++i) row[begin + i] *= quarter.sines[code];
    }
  }
  const std::size_t group = form.dim / form.radii();
  const std::uint8_t* radii = block + form.codes_bytes(tokens);
  for (std::size_t i = 0; i < form.dim; ++i) {
    std::uint16_t radius;
    std::memcpy(&radius, radii + (i / group * tokens + token) * sizeof(radius), sizeof(radius));
    row[i] *= Ufloat16ToFloat(radius);
  }
}

}  // namespace kvant::kernels
