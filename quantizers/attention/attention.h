// out = softmax(scale * q K^T + mask) V over sealed blocks and raw rows, for grouped query heads. The same code runs in the
// daemon (service placement) and in the engine's process (local placement) and gives the same bits in both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <kvant/tensor.h>

#include "quantizers/attention/kept.h"
#include "quantizers/plan.h"

namespace kvant::quantizers {

/// Raw rows of all KV heads: tokens [first_position, first_position + count). Sinks and tails; may lie in another process's
/// arena (each element is read once; garbage gives garbage numbers, never an access outside the rows).
struct RawRows {
  const void* keys = nullptr;  ///< head h, row i: element h * head_stride + i * row_stride
  const void* values = nullptr;
  ElementType type = ElementType::kF32;
  std::size_t head_stride = 0;
  std::size_t row_stride = 0;
  std::uint64_t first_position = 0;
  std::size_t count = 0;
};

/// What is cached of one layer of one sequence. Positions covered by `raw` are taken from there even where a block holds
/// them too (sinks). Every position in [0, query end) is covered by exactly one of the two.
struct CachedLayer {
  const Plan* plan = nullptr;
  std::size_t layer = 0;
  std::span<const std::byte* const> blocks;  ///< slot payloads; block i holds tokens [i * block_tokens, (i + 1) * block_tokens)
  std::span<const RawRows> raw;              ///< in position order, disjoint
  /// Sections (Plan::sections) that block i's payload still has, at least 1; empty: every block has all.
  std::span<const std::uint8_t> sections = {};
  KeptTokens kept = {};  ///< which of all these take part
};

/// The queries of `tokens` new tokens at positions [first_position, first_position + tokens).
/// Query t sees keys at positions <= first_position + t, and > first_position + t - window if window is not 0.
struct Query {
  ConstTensorView
      q;           ///< [tokens, q_heads, head_dim]; q_heads a multiple of kv_heads; head h uses KV head h * kv_heads / q_heads
  TensorView out;  ///< same shape, any element type
  float* lse = nullptr;  ///< [tokens, q_heads] adjacent: natural log of the softmax denominator; null if not wanted
  const float* sink_logits = nullptr;  ///< [q_heads] learned sinks: one more logit per head with no value; null for none
  std::uint64_t first_position = 0;
  float scale = 0.0f;        ///< multiplies q.k
  float softcap = 0.0f;      ///< 0: off; else logit = softcap * tanh(logit / softcap), before masking and sinks
  std::uint32_t window = 0;  ///< 0: unlimited
  /// KV head h, position p: votes[h * votes_stride + p] grows by the weights that the group's queries give that token, summed;
  /// null if not wanted. Needs lse. A query whose lse is not finite gives none.
  float* votes = nullptr;
  std::size_t votes_stride = 0;  ///< at least the position behind the last query's
  /// Set to 1 if a number of `out` or `lse` is not finite: a query that holds NaN, a product beyond f32, a value beyond out's
  /// type. Null: nobody asks. One per item; written by whichever thread finishes such a row.
  std::uint8_t* not_finite = nullptr;
};

/// Runs functions on the calling thread and on helper threads that join in. Implementations: WorkerTeam, tests.
class Executor {
 public:
  virtual ~Executor() = default;
  /// Calls task(context, i) once for every i in [0, n), from any thread; returns when all have returned.
  virtual void ForEach(std::size_t n, void (*task)(void* context, std::size_t i, std::size_t thread), void* context) = 0;
  /// Number of distinct `thread` values, the caller's (0) included.
  [[nodiscard]] virtual std::size_t threads() const noexcept = 0;
};

/// Buffers that attention reuses from call to call, so that a steady state allocates nothing. One per calling thread.
class AttentionScratch;

/// One layer of one sequence's attention; part of a batch.
struct AttendItem {
  CachedLayer cache;
  Query query;
};

/// Owns the scratch; runs batches. Not thread-safe: one per calling thread.
class Attention {
 public:
  /// Partial results that are in memory at a time take about so many bytes.
  static constexpr std::size_t kPartialBytes = std::size_t{64} << 20;

  /// `executor` must outlive this. `partial_bytes` does not change a result.
  explicit Attention(Executor& executor, std::size_t partial_bytes = kPartialBytes);
  ~Attention();
  Attention(const Attention&) = delete;
  Attention& operator=(const Attention&) = delete;

  /// Computes every item. Shapes must have been checked (CheckItem). Work is split over items, KV heads and runs of tokens in a
  /// way that depends on the shapes alone, so the result does not depend on the number of threads.
  void Run(std::span<const AttendItem> items);

  /// The same in pieces: Begin, then Continue until it says that all is computed. `items` stay where they are until then.
  void Begin(std::span<const AttendItem> items);
  /// Computes until all is done (true) or `pause` says true (false), which every thread asks between two units of work. A unit
  /// takes some milliseconds at most; where the work is cut does not change the result.
  [[nodiscard]] bool Continue(const std::function<bool()>& pause);

 private:
  bool Work(const std::function<bool()>* pause);

  Executor& executor_;
  const std::size_t partial_bytes_;
  std::unique_ptr<AttentionScratch> scratch_;
};

/// kInvalidArgument or kOutOfRange, naming the field and the value, if the item's shapes do not fit the plan.
[[nodiscard]] Result<void> CheckItem(const AttendItem& item);

}  // namespace kvant::quantizers
