#include "kernels/rope.h"

#include <cmath>

#include "kernels/rope_frequencies.h"

namespace kvant::kernels {
namespace {

// cos and sin are advanced by one complex multiplication per token and computed afresh every kRun tokens, which keeps the drift
// below kRun * 2^-52.
constexpr std::size_t kRun = 64;

}  // namespace

Rope::Rope(const RopeSpec& spec, std::size_t head_dim)
    : pairing_(spec.pairing),
      head_dim_(head_dim),
      frequencies_(ComputeRopeFrequencies(spec, static_cast<std::uint32_t>(head_dim)).value()) {}

void Rope::Rotate(float* rows, std::size_t count, std::uint64_t first_position) const {
  const std::size_t pairs = frequencies_.radians_per_token.size();
  const bool adjacent = pairing_ == RopePairing::kAdjacent;
  for (std::size_t p = 0; p < pairs; ++p) {
    const std::size_t a = adjacent ? 2 * p : p;
    const std::size_t b = adjacent ? 2 * p + 1 : p + pairs;
    const double radians = frequencies_.radians_per_token[p];
    const double step_cos = std::cos(radians);
    const double step_sin = std::sin(radians);
    double c = 1.0;
    double s = 0.0;
    for (std::size_t i = 0; i < count; ++i) {
      if (i % kRun == 0) {
        const double angle = static_cast<double>(first_position + i) * radians;
        c = frequencies_.attention_factor * std::cos(angle);
        s = frequencies_.attention_factor * std::sin(angle);
      }
      float* row = rows + i * head_dim_;
      const double x = row[a];
      const double y = row[b];
      row[a] = static_cast<float>(x * c - y * s);
      row[b] = static_cast<float>(x * s + y * c);
      const double next = c * step_cos - s * step_sin;
      s = s * step_cos + c * step_sin;
      c = next;
    }
  }
}

}  // namespace kvant::kernels
