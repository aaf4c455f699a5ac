// Attention as an engine calls it layer by layer: each call reads another layer or another sequence, so that a large cache
// comes from memory, not from a processor cache that strangers share.
#pragma once

#include <cstddef>
#include <vector>

#include "quantizers/attention/attention.h"
#include "tools/bench/workload.h"

namespace kvant::tools {

/// What one call asks.
struct CallForm {
  std::size_t query_tokens = 1;      ///< new tokens of each sequence, the last of its tokens; more than 1: a prompt is read
  std::size_t batch = 1;             ///< sequences that share all their blocks and ask different queries
  quantizers::KeptTokens kept = {};  ///< which tokens they attend
};

/// Calls over a workload's sequences and layers in turn. One calling thread.
class AttendCalls {
 public:
  /// `workload` and `executor` outlive this. Requires: the workload's rows have batch * query_tokens query tokens.
  AttendCalls(const Workload& workload, quantizers::Executor& executor, const CallForm& form);

  /// The next call.
  void Run();

  /// Computes one call and compares it with plain attention over the decoded and over the original rows.
  [[nodiscard]] Result<Accuracy> Check();

  /// Multiply-accumulates of one call: two per number of every key-query pair that sees each other.
  [[nodiscard]] double macs() const;

 private:
  struct Call {
    std::vector<quantizers::AttendItem> items;
  };
  [[nodiscard]] quantizers::AttendItem Item(std::size_t sequence, std::size_t layer, std::size_t index);
  /// How often query `t` of an item sees each of the rows that the workload repeats.
  [[nodiscard]] std::vector<double> TimesSeen(std::size_t head, std::size_t t) const;
  /// Tokens that query `t` of an item sees, kept or not.
  [[nodiscard]] std::size_t Visible(std::size_t t) const { return workload_.form().tokens - form_.query_tokens + t + 1; }

  const Workload& workload_;
  CallForm form_;
  quantizers::Attention attention_;
  std::vector<float> out_;  ///< [batch, query_tokens, query heads, kHeadDim]
  std::vector<Call> calls_;
  std::size_t next_ = 0;
};

}  // namespace kvant::tools
