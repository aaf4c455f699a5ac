// Attention for clients that let the daemon compute: from sequences and checked places to quantizers::Attention.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <kvant/result.h>
#include <kvant/tensor.h>

#include "daemon/store/sequence.h"
#include "quantizers/attention/attention.h"
#include "quantizers/sequence/view.h"

namespace kvant::daemon {

/// A list of kept tokens as a message names it: `words` of all KV heads together.
struct KeptWords {
  quantizers::KeptTokens tokens;
  std::uint64_t words = 0;
};

/// One layer of one sequence. Every place has been checked against its arena's mapping; what lies there is the client's affair.
struct AttendCall {
  const Sequence* sequence = nullptr;
  std::uint32_t layer = 0;
  std::uint32_t unnamed = 0;     ///< rows behind the sequence's length that count as its own; at most its free rows
  std::uint32_t new_tokens = 0;  ///< rows behind those that the client has written
  ConstTensorView q;             ///< [tokens, q_heads, head_dim]
  TensorView out;
  float* lse = nullptr;  ///< room for [lse_floats]; null if not wanted
  std::uint64_t lse_floats = 0;
  const float* sink_logits = nullptr;  ///< [sink_floats]; null for none
  std::uint64_t sink_floats = 0;
  float scale = 0.0f;
  float softcap = 0.0f;
  std::uint32_t window = 0;
  KeptWords kept = {};
  std::uint32_t from_end = 0;  ///< as AttendRequest
  float* votes = nullptr;      ///< room for [votes_floats]; null if not wanted
  std::uint64_t votes_floats = 0;
  Result<void>* outcome = nullptr;  ///< set by AttendService::Run
};

/// What the call asks of its layer, for quantizers::MakeItem, which makes the other checks. kInvalidArgument if the room for
/// lse or sink logits has another size than the queries need, or that for votes or kept tokens is no multiple of the KV heads.
[[nodiscard]] Result<quantizers::AttendRequest> RequestOf(const AttendCall& call);

/// One request's attention. `outcomes` has one per item of the request, `calls` those that are to run.
struct AttendBatch {
  std::vector<AttendCall> calls;
  std::vector<Result<void>> outcomes;
};

/// Short calls, and these alone. They run on the loop thread, where the request was read: a hand-off would cost two wake-ups,
/// more than a short call takes. The executor's threads join in. Long ones go to LongAttention. Owned by the daemon.
class AttendService {
 public:
  explicit AttendService(quantizers::Executor& executor) : attention_(executor) {}

  /// An empty batch for a request of `items` items, all of them successes so far. There is one, so that a steady state
  /// allocates nothing: whoever begins a batch is done with it before the loop turns.
  AttendBatch& Begin(std::size_t items);

  /// True if the calls together would keep the loop for more than some milliseconds.
  [[nodiscard]] static bool Long(std::span<const AttendCall> calls) noexcept;

  /// Sets the outcome of each call; those that fail their checks do not touch the others. Requires: every sequence settled.
  void Run(std::span<const AttendCall> calls);

 private:
  quantizers::Attention attention_;
  AttendBatch batch_;  // these are kept for their capacity
  std::vector<quantizers::LayerView> views_;
  std::vector<quantizers::AttendItem> items_;
};

}  // namespace kvant::daemon
