#include "quantizers/best_grid.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace kvant::quantizers {

GridFit BestGrid(const float* magnitudes, std::size_t dim, std::uint32_t top, std::uint8_t* index,
                 std::byte* scratch) noexcept {
  auto* steps = reinterpret_cast<std::uint64_t*>(scratch);
  std::size_t count = 0;
  GridFit now{.dot = 0, .square = static_cast<double>(dim)};
  for (std::size_t i = 0; i < dim; ++i) {
    now.dot += static_cast<double>(magnitudes[i]);
    index[i] = 0;
    for (std::uint32_t k = 1; k <= top; ++k) {
      const float t = static_cast<float>(k) / magnitudes[i];
      // Positive floats ascend with their bits, so one integer orders by t, then by dim.
      if (t <= std::numeric_limits<float>::max()) steps[count++] = std::uint64_t{std::bit_cast<std::uint32_t>(t)} << 32 | i;
    }
  }
  std::sort(steps, steps + count);
  // Cosines are compared as dot^2 / square, over the same |a|.
  GridFit best = now;
  std::size_t taken = 0;
  for (std::size_t n = 0; n < count; ++n) {
    const std::size_t i = steps[n] & 0xFFFFu;
    const int c = 2 * index[i]++ + 1;
    now.dot += 2.0 * static_cast<double>(magnitudes[i]);
    now.square += 4.0 * (c + 1);  // (c + 2)^2 - c^2
    if (now.dot * now.dot * best.square > best.dot * best.dot * now.square) {
      best = now;
      taken = n + 1;
    }
  }
  for (std::size_t n = count; n > taken; --n) --index[steps[n - 1] & 0xFFFFu];
  return best;
}

}  // namespace kvant::quantizers
