// How much of a store's keys is one common mean. Some models add a large bias to every key. Softmax does not see it: it adds
// the same number to all logits of a query. A codec that does not subtract it sees little else: its error is a share of the
// whole row. What tokens differ by then drowns in it, and nothing else would say so.
#pragma once

#include <cstddef>
#include <cstdint>

#include <kvant/tensor.h>

namespace kvant::daemon {

/// Sums over pairs of keys of one KV head that stand half a block apart. For independent tokens E<k, k'> = |E k|^2, so two
/// scalars tell the mean's share of the energy without the mean itself. Plain value.
struct KeyMean {
  double common = 0.0;  ///< sum of <k, k'>
  double energy = 0.0;  ///< sum of (|k|^2 + |k'|^2) / 2
  std::uint64_t pairs = 0;

  /// Adds a few pairs of `rows` ([tokens, head_dim], sealed just now). They may lie in memory that another process is writing;
  /// what is not finite is left out.
  void Sample(const RowsView& rows);
  void Add(const KeyMean& other) noexcept;

  /// |mean key|^2 over mean |key|^2, in 0..1; 0 before anything was sampled.
  [[nodiscard]] double share() const noexcept;
};

/// The codec's error relative to what tokens differ by. It is D of a row's energy, of which only 1 - share differs between
/// tokens: D / (1 - share).
[[nodiscard]] double EffectiveError(double expected_error, double share) noexcept;

/// Whether the mean makes the codec unfit for these keys: it holds at least half of their energy, so that subtracting it would
/// halve the error or better, and the effective error exceeds that of three bits per number on normal rows without a mean
/// (0.0345, Lloyd and Max), which is where the quality table begins to lose. Says no before 16 pairs, when the share is known
/// to a fraction of 1 / sqrt(16 head_dim).
[[nodiscard]] bool MeanSpoilsCodes(const KeyMean& mean, double expected_error) noexcept;

}  // namespace kvant::daemon
