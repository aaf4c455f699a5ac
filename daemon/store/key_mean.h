// How much of a store's keys is one common mean. Some models add a large bias to every key. Softmax does not see it: it adds
// the same number to all logits of a query. A codec that does not subtract it sees little else: its error is a share of the
// whole row. What tokens differ by then drowns in it, and nothing else would say so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <kvant/tensor.h>

#include "quantizers/plan.h"

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

/// What is known of the keys of one KV head of a store.
struct KeyHead {
  std::uint32_t layer = 0;
  std::uint32_t kv_head = 0;
  double mean_share = 0.0;
  double effective_error = 0.0;
  bool unfit = false;
};

/// The key means of a store, fed by its sealed blocks. Owned by the store; loop thread.
class KeyMeans {
 public:
  explicit KeyMeans(std::shared_ptr<const quantizers::Plan> plan) : plan_(std::move(plan)) {}

  /// `block` has one entry per layer and KV head, as SealJob leaves them. Asks at most one codec for its error, which takes
  /// milliseconds: where many layers have a large mean, some blocks pass until all of them are judged.
  void Add(std::span<const KeyMean> block);

  /// KV heads whose keys the plan's codec cannot serve for their common mean. Codecs that subtract a calibrated mean, or that
  /// declare no error, are never among them.
  [[nodiscard]] std::uint64_t unfit_heads() const noexcept { return unfit_heads_; }

  /// Of the judged heads whose mean holds at least half of the energy, the `most` with the largest effective errors, worst
  /// first.
  [[nodiscard]] std::vector<KeyHead> Worst(std::size_t most) const;

  /// What to tell people when heads are unfit: how many, the worst with its figures, and what helps.
  [[nodiscard]] std::string Warning() const;

 private:
  [[nodiscard]] const quantizers::BlockCodec& CodecOf(std::size_t head) const;

  const std::shared_ptr<const quantizers::Plan> plan_;
  std::vector<KeyMean> heads_;  // [layer][kv_head]; empty before the first block
  std::uint64_t unfit_heads_ = 0;
  std::map<const quantizers::BlockCodec*, double> expected_errors_;  // 0: not to be judged
};

}  // namespace kvant::daemon
