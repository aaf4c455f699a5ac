#include "tools/bench/reference.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

namespace kvant::tools {
namespace {

constexpr double kMostHidden = 0.05;
constexpr double kFloatingPoint = 1e-4;

template <typename A>
double Distance(std::span<const A> a, std::span<const double> b) {
  double difference = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    difference += d * d;
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

/// Four running sums: one alone would wait for its own last addition.
double Dot(const float* a, const float* b, std::size_t n) {
  double sums[4] = {};
  for (std::size_t i = 0; i < n; ++i) sums[i % 4] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace

void PlainAttention(const RepeatedRows& rows, const float* queries, std::size_t n, double scale, double* out) {
  const std::size_t tokens = rows.times.size();
  std::vector<double> logits(tokens);
  for (std::size_t q = 0; q < n; ++q) {
    double max = -std::numeric_limits<double>::infinity();
    for (std::size_t t = 0; t < tokens; ++t) {
      logits[t] = scale * Dot(queries + q * rows.dim, rows.keys + t * rows.dim, rows.dim);
      if (rows.times[t] > 0) max = std::max(max, logits[t]);
    }
    double sum = 0.0;
    double* to = out + q * rows.dim;
    std::fill_n(to, rows.dim, 0.0);
    for (std::size_t t = 0; t < tokens; ++t) {
      if (rows.times[t] == 0) continue;
      const double weight = rows.times[t] * std::exp(logits[t] - max);
      sum += weight;
      for (std::size_t i = 0; i < rows.dim; ++i) to[i] += weight * static_cast<double>(rows.values[t * rows.dim + i]);
    }
    for (std::size_t i = 0; i < rows.dim; ++i) to[i] /= sum;
  }
}

double RelativeRms(std::span<const float> a, std::span<const double> b) { return Distance(a, b); }
double RelativeRms(std::span<const double> a, std::span<const double> b) { return Distance(a, b); }

Accuracy Compare(std::span<const float> result, std::span<const double> decoded, std::span<const double> exact) {
  return {RelativeRms(result, exact), RelativeRms(decoded, exact), RelativeRms(result, decoded)};
}

Result<void> Judge(const Accuracy& accuracy, const std::string& what) {
  const double bound = std::sqrt(kMostHidden) * accuracy.codec_error + kFloatingPoint;
  if (accuracy.hidden_error <= bound) return {};  // not so for NaN
  char text[160];
  std::snprintf(text, sizeof(text), ": the result differs from attention over the decoded rows by %.3g, more than %.3g",
                accuracy.hidden_error, bound);
  return Error{ErrorCode::kInternal, what + text};
}

double HiddenLossBound(double expected_error) { return std::sqrt(kMostHidden * expected_error) + kFloatingPoint; }

}  // namespace kvant::tools
