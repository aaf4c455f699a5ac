// How well a key codec estimates inner products, over rotations: each block of rows is one under a model's name, and so a
// rotation, of its own.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {

struct Sample {
  double sum = 0.0, squares = 0.0;
  std::size_t n = 0;
  void Add(double x) { sum += x, squares += x * x, ++n; }
  [[nodiscard]] double mean() const { return sum / static_cast<double>(n); }
  [[nodiscard]] double variance() const { return squares / static_cast<double>(n) - mean() * mean(); }
  [[nodiscard]] double standard_error() const { return std::sqrt(variance() / static_cast<double>(n)); }
};

inline void Normalise(float* x, std::size_t dim) {
  const auto norm = static_cast<float>(std::sqrt(Dot(x, x, dim)));
  for (std::size_t i = 0; i < dim; ++i) x[i] /= norm;
}

/// Unit rows, and for each a unit query at cosine `rho`.
struct Pairs {
  std::vector<float> rows, queries;

  Pairs(std::size_t n, std::size_t dim, double rho, std::mt19937& random)
      : rows(NormalNumbers(n * dim, random)), queries(NormalNumbers(n * dim, random)) {
    for (std::size_t t = 0; t < n; ++t) {
      float* x = &rows[t * dim];
      float* q = &queries[t * dim];
      Normalise(x, dim);
      const double along = Dot(x, q, dim);
      for (std::size_t i = 0; i < dim; ++i) q[i] -= static_cast<float>(along) * x[i];
      Normalise(q, dim);
      for (std::size_t i = 0; i < dim; ++i) q[i] = static_cast<float>(rho * x[i] + std::sqrt(1.0 - rho * rho) * q[i]);
    }
  }
};

inline constexpr std::size_t kRowsOfBlock = 128;

/// Errors of the estimates of <q, k> for `blocks` blocks of Pairs.
inline Sample InnerProductErrors(const std::string& spec, std::uint32_t dim, double rho, int blocks, std::mt19937& random) {
  Sample errors;
  for (int b = 0; b < blocks; ++b) {
    const TurboQuant made{.spec = spec, .head_dim = dim, .model = "model " + std::to_string(b)};
    const auto keys = made.Keys();
    const Pairs pairs(kRowsOfBlock, dim, rho, random);
    AlignedBytes block(keys->block_bytes());
    EncodeBlock(*keys, 0, 0, RowsOf(pairs.rows, dim), block.data()).value();
    for (std::size_t first = 0; first < kRowsOfBlock; first += kMaxQueries) {
      const auto at = pairs.queries.begin() + static_cast<std::ptrdiff_t>(first * dim);
      const std::vector<float> queries(at, at + static_cast<std::ptrdiff_t>(kMaxQueries * dim));
      const auto logits = ScoreBlock(*keys, 0, queries, kMaxQueries, block.data(), kRowsOfBlock);
      for (std::size_t i = 0; i < kMaxQueries; ++i) errors.Add(logits[i * kRowsOfBlock + first + i] - rho);
    }
  }
  return errors;
}

/// The mean cosine between rows of N(0, 1) and what is read back of them.
inline double MeanCosine(const std::string& spec, std::uint32_t dim, int blocks, std::mt19937& random) {
  Sample cosines;
  for (int b = 0; b < blocks; ++b) {
    const TurboQuant made{.spec = spec, .head_dim = dim, .model = "model " + std::to_string(b)};
    const auto rows = NormalNumbers(kRowsOfBlock * dim, random);
    const auto back = RoundTrip(*made.Keys(), 0, rows, dim);
    for (std::size_t t = 0; t < kRowsOfBlock; ++t) {
      const float *x = &rows[t * dim], *y = &back[t * dim];
      cosines.Add(Dot(x, y, dim) / std::sqrt(Dot(x, x, dim) * Dot(y, y, dim)));
    }
  }
  return cosines.mean();
}

}  // namespace kvant::quantizers
