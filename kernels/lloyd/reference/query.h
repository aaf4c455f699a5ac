// Scalar twin of lloyd/query.h, in a plainer form: one query at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "kernels/lloyd/query.h"
#include "kernels/lloyd/reference/encode.h"
#include "kernels/reference/sixteen_sums.h"
#include "kernels/rotation/reference/hadamard.h"

namespace kvant::kernels::reference {

struct LloydQuery {
  float scale = 0;
  float bias = 0;
  std::vector<std::int32_t> numbers;  ///< [dim]
};

/// (a * b + 2^14) / 2^15, rounded down.
constexpr std::int32_t FixedPointProduct(std::int32_t a, std::int32_t b) noexcept { return (a * b + 0x4000) >> 15; }

/// The query in 16-bit integers, step by step: brought to norm `limit`; then rounds of signs and sums of
/// all numbers, with products between them; then bytes.
inline void RotateToIntegers(const LloydQueryConfig& config, const std::vector<float>& x, LloydQuery& out) {
  const std::size_t dim = x.size();
  const QueryRotation& rotation = QueryRotation::Of(dim);
  out.numbers.assign(dim, 0);
  const auto square_sum = [&](float factor) {
    return SixteenSums(dim, [&](std::size_t i) { return x[i] * factor * (x[i] * factor); });
  };
  float norm = std::sqrt(square_sum(1.0f));
  if (!IsPlainSquare(square_sum(1.0f))) {
    float magnitude = 0;
    for (const float v : x) magnitude = std::max(magnitude, std::fabs(v));
    if (magnitude < kLeastQuery) return;
    const float power = QueryPower(magnitude);
    norm = std::sqrt(square_sum(1.0f / power)) * power;
  }
  std::vector<std::int32_t>& numbers = out.numbers;
  for (std::size_t round = 0; round < config.map.rounds; ++round) {
    for (std::size_t i = 0; i < dim; ++i) {
      const bool turn = config.map.signs[round * dim + i] != 0;
      if (round == 0) {
        const float y = x[i] * (rotation.limit / norm);
        numbers[i] = static_cast<std::int32_t>(std::nearbyint(turn ? -y : y));
      } else {
        numbers[i] = FixedPointProduct(numbers[i], turn ? -rotation.turn : rotation.turn);
      }
    }
    for (std::size_t h = 1; h < dim; h *= 2) {
      for (std::size_t i = 0; i < dim; ++i) {
        if ((i & h) != 0) continue;
        const std::int32_t a = numbers[i], b = numbers[i + h];
        numbers[i] = a + b;
        numbers[i + h] = a - b;
      }
    }
  }
  std::int32_t largest = 0;
  for (const std::int32_t v : numbers) largest = std::max(largest, std::abs(v));
  const std::int16_t factor = QueryFactor(static_cast<std::int16_t>(largest));
  for (std::int32_t& v : numbers) v = FixedPointProduct(v, factor);
  out.scale = QueryToLogit(config) * norm / factor;
}

inline LloydQuery PrepareLloydQuery(const LloydQueryConfig& config, const float* query) {
  const std::size_t dim = config.map.shape.dim;
  std::vector<float> x(query, query + dim);
  LloydQuery out;
  if (config.mean != nullptr) {
    FourSums sums;
    for (std::size_t i = 0; i < dim; ++i) sums.Add(i, x[i] * config.mean[i]);
    out.bias = sums.Total();
  }
  if (PreparesInIntegers(config)) {
    RotateToIntegers(config, x, out);
    return out;
  }
  reference::Hadamard(config.map.shape, config.map.rounds, config.map.signs, x.data());
  float largest = 0;
  for (const float v : x) largest = std::max(largest, std::fabs(v));
  const std::int32_t limit = LloydQueryMax(config.table->bits, dim);
  const double to_logit =
      1.0 / (limit * config.map.shape.gain(config.map.rounds) * config.table->unit * std::sqrt(static_cast<double>(dim)));
  const bool none = largest < 1e-30f;
  const float factor = none ? 0.0f : static_cast<float>(limit) / largest;
  out.scale = none ? 0.0f : largest * static_cast<float>(to_logit);
  for (const float v : x) {
    out.numbers.push_back(std::clamp(static_cast<std::int32_t>(std::nearbyint(v * factor)), -limit, limit));
  }
  return out;
}

}  // namespace kvant::kernels::reference
