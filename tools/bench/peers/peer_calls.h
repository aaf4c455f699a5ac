// A peer's attention over the same rows, called as AttendCalls calls kvant's.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "tools/bench/peers/peer_attention.h"
#include "tools/bench/reference.h"
#include "tools/bench/rows.h"

namespace kvant::tools {

/// Fills memory with as many layers of `tokens` tokens as fit; each call reads the next. One calling thread.
class PeerCalls {
 public:
  /// `rows`, `executor` and `memory` outlive this. Throws std::invalid_argument if not even one layer fits.
  PeerCalls(const PeerFormat& format, const SampleRows& rows, std::size_t tokens, quantizers::Executor& executor,
            std::span<std::byte> memory);
  void Run();
  [[nodiscard]] Result<Accuracy> Check();
  /// Bytes that one call reads.
  [[nodiscard]] std::size_t bytes() const noexcept { return PeerCacheBytes(format_, kKvHeads, tokens_); }

 private:
  /// Which of the rows' tokens stands at `token`.
  [[nodiscard]] std::size_t Content(std::size_t token) const noexcept {
    return (rows_.tokens - tokens_ % rows_.tokens + token) % rows_.tokens;
  }

  const PeerFormat& format_;
  const SampleRows& rows_;
  std::size_t tokens_;
  PeerAttention attention_;
  std::vector<const std::byte*> layers_;
  std::vector<float> out_;
  std::size_t next_ = 0;
};

}  // namespace kvant::tools
