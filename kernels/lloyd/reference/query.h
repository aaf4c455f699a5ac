// Scalar twin of lloyd/query.h, in a plainer form: one query at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/lloyd/query.h"
#include "kernels/lloyd/reference/encode.h"
#include "kernels/rotation/reference/hadamard.h"

namespace kvant::kernels::reference {

struct LloydQuery {
  float scale = 0;
  float bias = 0;
  std::vector<std::int32_t> numbers;  ///< [dim]
};

inline LloydQuery PrepareLloydQuery(const LloydQueryConfig& config, const float* query) {
  const std::size_t dim = config.map.shape.dim;
  std::vector<float> x(query, query + dim);
  LloydQuery out;
  if (config.mean != nullptr) {
    FourSums sums;
    for (std::size_t i = 0; i < dim; ++i) sums.Add(i, x[i] * config.mean[i]);
    out.bias = sums.Total();
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
