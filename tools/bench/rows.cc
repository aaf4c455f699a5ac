#include "tools/bench/rows.h"

#include <cmath>
#include <numbers>

namespace kvant::tools {

SampleRows NormalSample(std::size_t tokens, std::size_t query_tokens) {
  SampleRows rows;
  rows.name = "random";
  rows.tokens = tokens;
  rows.query_tokens = query_tokens;
  rows.keys = NormalRows(SampleRows::kLanes * tokens * kHeadDim, 2);
  rows.values = NormalRows(SampleRows::kLanes * tokens * kHeadDim, 3);
  rows.queries = NormalRows(query_tokens * SampleRows::kLanes * kGroup * kHeadDim, 1);
  return rows;
}

std::vector<float> NormalRows(std::size_t count, std::uint64_t seed) {
  // splitmix64 and Box-Muller: the standard library's distributions differ from one implementation to the next.
  std::uint64_t state = seed * 0x9E3779B97F4A7C15ULL;
  const auto uniform = [&state] {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return (static_cast<double>((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
  };
  std::vector<float> rows(count);
  for (std::size_t i = 0; i < count; i += 2) {
    const double radius = std::sqrt(-2.0 * std::log(uniform()));
    const double angle = 2.0 * std::numbers::pi * uniform();
    rows[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < count) rows[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
  return rows;
}

}  // namespace kvant::tools
