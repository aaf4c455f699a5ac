// Attention over the formats that other engines keep their caches in, as fast as we know how to write it: yardsticks in the
// same process for kvant's own. What is compared is the format: the shape, the threads and the way of cutting are those of
// kvant.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "quantizers/attention/attention.h"

namespace kvant::tools {

/// Peers serve one head size and groups of four query heads.
inline constexpr std::size_t kPeerDim = 128;
inline constexpr std::size_t kPeerGroup = 4;
/// Tokens that are scored, exponentiated and accumulated at a time: logits stay in the first-level cache, codes in the second.
inline constexpr std::size_t kPeerChunk = 512;

/// How rows are stored, and the two passes over them for one KV head and its four queries. Rows of a side lie one after the
/// other. `next` is memory the caller will want soon (may be null): with every few tokens the kernels prefetch as much of it
/// as they read.
struct PeerFormat {
  std::string_view name;
  std::size_t row_bytes;
  std::size_t prepared_bytes;  ///< of four queries
  void (*encode)(const float* rows, std::size_t n, std::byte* to);
  void (*decode)(const std::byte* rows, std::size_t n, float* to);
  /// queries: [kPeerGroup, kPeerDim], already multiplied by the softmax scale. `prepared` is 64-byte aligned.
  void (*prepare)(const float* queries, std::byte* prepared);
  /// logits[q * kPeerChunk + t] for n <= kPeerChunk tokens, n a multiple of 4.
  void (*score)(const std::byte* prepared, const std::byte* keys, std::size_t n, float* logits, const std::byte* next);
  /// acc[q * kPeerDim + i] += sum of weights[q * kPeerChunk + t] * value t. n as above.
  void (*accumulate)(const float* weights, const std::byte* values, std::size_t n, float* acc, const std::byte* next);
};

/// Rows as f16, converted on the fly, products and sums in f32.
extern const PeerFormat kF16Peer;
/// Blocks of 32 with one f16 scale and 4-bit codes, as ggml's q4_0 (layout as publicly documented). Queries are rounded to
/// bytes per block and multiplied as integers; values become f32 in registers.
extern const PeerFormat kQ40Peer;

/// One layer's rows: for every KV head the keys of all tokens, then the values.
struct PeerCache {
  const std::byte* data = nullptr;
  std::size_t kv_heads = 0;
  std::size_t tokens = 0;  ///< a multiple of 4
};

constexpr std::size_t PeerCacheBytes(const PeerFormat& format, std::size_t kv_heads, std::size_t tokens) {
  return 2 * kv_heads * tokens * format.row_bytes;
}

/// One token's attention over such rows. Owns its buffers; one per calling thread.
class PeerAttention {
 public:
  /// `executor` outlives this.
  PeerAttention(const PeerFormat& format, quantizers::Executor& executor);
  /// out = softmax(scale q K^T) V; q and out are [kv_heads * kPeerGroup, kPeerDim].
  void Run(const PeerCache& cache, const float* q, float scale, float* out);

 private:
  /// What one task leaves: an unfinished softmax over a run of one head's tokens.
  struct Partial {
    float max[kPeerGroup];
    float sum[kPeerGroup];
    float acc[kPeerGroup * kPeerDim];
  };
  /// Buffers of one thread.
  struct alignas(64) Scratch {
    std::byte prepared[4096];
    float logits[kPeerGroup * kPeerChunk];
  };
  void RunPart(const PeerCache& cache, const float* q, std::size_t part, Scratch& scratch);
  void Merge(std::size_t head, float* out) const;

  const PeerFormat& format_;
  quantizers::Executor& executor_;
  std::vector<Scratch> scratch_;  ///< per thread
  std::vector<Partial> parts_;    ///< [kv_heads, runs_]
  std::vector<float> scaled_;     ///< queries times the softmax scale
  std::size_t runs_ = 0;          ///< tasks per head
};

}  // namespace kvant::tools
