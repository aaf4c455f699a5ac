// The answers that measured results are held against: plain loops in double.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <kvant/result.h>

namespace kvant::tools {

/// Rows of one KV head; token t occurs times[t] times in the cache.
struct RepeatedRows {
  const float* keys = nullptr;    ///< [times.size(), dim]
  const float* values = nullptr;  ///< likewise
  std::span<const double> times;
  std::size_t dim = 0;
};

/// out[i] = softmax(scale q_i K^T) V for `n` queries [n, dim].
void PlainAttention(const RepeatedRows& rows, const float* queries, std::size_t n, double scale, double* out);

/// sqrt(sum (a-b)^2 / sum b^2).
double RelativeRms(std::span<const float> a, std::span<const double> b);
double RelativeRms(std::span<const double> a, std::span<const double> b);

/// How far a result is from the truth, and how much of that is the codec's doing.
struct Accuracy {
  double error = 0.0;         ///< of the result against attention over the original rows
  double codec_error = 0.0;   ///< of attention over the decoded rows against the same
  double hidden_error = 0.0;  ///< of the result against attention over the decoded rows: rounding of queries and weights
  /// hidden_error^2 / codec_error^2: the share that computing on codes adds to the squared error.
  [[nodiscard]] double hidden_loss() const { return hidden_error * hidden_error / (codec_error * codec_error); }
};

/// Requires: as many numbers in each.
Accuracy Compare(std::span<const float> result, std::span<const double> decoded, std::span<const double> exact);

/// An error naming `what` if the hidden loss is above 5 % and not explained by floating point (1e-4), or anything is NaN.
Result<void> Judge(const Accuracy& accuracy, const std::string& what);

/// The most that a part of attention (scores, sums) may differ from decoding first, as RelativeRms, for a codec that declares
/// `expected_error` on the rows in use.
double HiddenLossBound(double expected_error);

}  // namespace kvant::tools
