// Scores or weighted sums of a peer's rows, as CodecSweep goes over a codec's blocks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "tools/bench/peers/peer_attention.h"
#include "tools/bench/rows.h"
#include "tools/codec_calls.h"

namespace kvant::tools {

/// Calls over one chunk of rows after another, around and around. One calling thread.
class PeerSweep {
 public:
  /// Fills `memory` (64-byte aligned, outlives this) with encoded rows. `format` outlives this.
  PeerSweep(const PeerFormat& format, bool keys, std::span<std::byte> memory, std::size_t run_bytes)
      : format_(format),
        keys_(keys),
        memory_(memory),
        chunk_bytes_(kPeerChunk * format.row_bytes),
        chunks_(memory.size() / chunk_bytes_),
        run_chunks_(std::clamp<std::size_t>(run_bytes / chunk_bytes_, 1, chunks_)),
        prepared_(format.prepared_bytes),
        logits_(kPeerGroup * kPeerChunk, 0.5F),
        acc_(kPeerGroup * kPeerDim) {
    const std::vector<float> rows = NormalRows(kPeerChunk * kPeerDim, 10);
    format.encode(rows.data(), kPeerChunk, memory.data());
    for (std::size_t i = 1; i < chunks_; ++i) std::memcpy(memory.data() + i * chunk_bytes_, memory.data(), chunk_bytes_);
    format.prepare(NormalRows(kPeerGroup * kPeerDim, 2).data(), prepared_.data());
  }

  void Run() {
    for (std::size_t i = 0; i < run_chunks_; ++i, next_ = (next_ + 1) % chunks_) Attend(next_, (next_ + 1) % chunks_);
  }
  /// As many chunks, but the same one: from a cache.
  void RunCached() {
    for (std::size_t i = 0; i < run_chunks_; ++i) Attend(0, 0);
  }

  /// Of one run.
  [[nodiscard]] std::size_t bytes() const noexcept { return run_chunks_ * chunk_bytes_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return run_chunks_ * kPeerChunk; }

 private:
  void Attend(std::size_t chunk, std::size_t next) {
    const std::byte *rows = memory_.data() + chunk * chunk_bytes_, *ahead = memory_.data() + next * chunk_bytes_;
    if (keys_) {
      format_.score(prepared_.data(), rows, kPeerChunk, logits_.data(), ahead);
    } else {
      format_.accumulate(logits_.data(), rows, kPeerChunk, acc_.data(), ahead);
    }
  }

  const PeerFormat& format_;
  bool keys_;
  std::span<std::byte> memory_;
  std::size_t chunk_bytes_;
  std::size_t chunks_;
  std::size_t run_chunks_;
  std::size_t next_ = 0;
  AlignedBytes prepared_;
  std::vector<float> logits_;
  std::vector<float> acc_;
};

}  // namespace kvant::tools
