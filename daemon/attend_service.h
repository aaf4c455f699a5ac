// Attention for clients that let the daemon compute: from sequences and checked places to quantizers::Attention.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <kvant/result.h>
#include <kvant/tensor.h>

#include "daemon/sequence.h"
#include "quantizers/attention.h"

namespace kvant::daemon {

/// One layer of one sequence. Every place has been checked against its arena's mapping; what lies there is the client's affair.
struct AttendCall {
  const Sequence* sequence = nullptr;
  std::uint32_t layer = 0;
  std::uint32_t new_tokens = 0;  ///< rows behind the sequence's length that the client has written
  ConstTensorView q;             ///< [tokens, q_heads, head_dim]
  TensorView out;
  float* lse = nullptr;                ///< room for [lse_floats]; null if not wanted
  std::uint64_t lse_floats = 0;
  const float* sink_logits = nullptr;  ///< [sink_floats]; null for none
  std::uint64_t sink_floats = 0;
  float scale = 0.0f;
  float softcap = 0.0f;
  std::uint32_t window = 0;
};

/// Runs on the loop thread, where the request was read: a hand-off would cost two wake-ups, more than a short call takes.
/// The executor's threads join in. Owned by the daemon.
class AttendService {
 public:
  explicit AttendService(quantizers::Executor& executor) : attention_(executor) {}

  /// Sets outcomes[i] for each of `calls`; those that fail their checks do not touch the others. Requires: every sequence settled,
  /// outcomes.size() == calls.size().
  void Run(std::span<const AttendCall> calls, std::span<Result<void>> outcomes);

 private:
  quantizers::Attention attention_;
  std::vector<CachedRows> caches_;             // kept for their capacity
  std::vector<quantizers::AttendItem> items_;
};

/// kNotFinite naming layer, side, KV head and position of the first of the `new_rows` rows behind length() that holds NaN or infinity.
Result<void> CheckNewRowsFinite(const Sequence& sequence, std::uint32_t layer, std::uint32_t new_rows);

}  // namespace kvant::daemon
