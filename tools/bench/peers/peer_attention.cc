#include "tools/bench/peers/peer_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/softmax.h"

namespace kvant::tools {
namespace {

/// Most tokens of one task. Shorter than a head's share of a long context, so that a thread that loses its core holds up
/// little.
constexpr std::size_t kRunTokens = 4096;

}  // namespace

PeerAttention::PeerAttention(const PeerFormat& format, quantizers::Executor& executor)
    : format_(format), executor_(executor), scratch_(executor.threads()) {}

void PeerAttention::Run(const PeerCache& cache, const float* q, float scale, float* out) {
  runs_ = (cache.tokens + kRunTokens - 1) / kRunTokens;
  parts_.resize(cache.kv_heads * runs_);
  scaled_.resize(cache.kv_heads * kPeerGroup * kPeerDim);
  for (std::size_t i = 0; i < scaled_.size(); ++i) scaled_[i] = q[i] * scale;
  struct Call {
    PeerAttention& attention;
    const PeerCache& cache;
  } call{*this, cache};
  executor_.ForEach(
      parts_.size(),
      [](void* context, std::size_t i, std::size_t thread) {
        auto& c = *static_cast<Call*>(context);
        c.attention.RunPart(c.cache, c.attention.scaled_.data(), i, c.attention.scratch_[thread]);
      },
      &call);
  for (std::size_t head = 0; head < cache.kv_heads; ++head) Merge(head, out + head * kPeerGroup * kPeerDim);
}

void PeerAttention::RunPart(const PeerCache& cache, const float* q, std::size_t part, Scratch& scratch) {
  const std::size_t head = part / runs_;
  const std::size_t begin = part % runs_ * kRunTokens;
  const std::size_t end = std::min(begin + kRunTokens, cache.tokens);
  const std::byte* keys = cache.data + 2 * head * cache.tokens * format_.row_bytes;
  const std::byte* values = keys + cache.tokens * format_.row_bytes;
  Partial& p = parts_[part];
  std::fill_n(p.max, kPeerGroup, -std::numeric_limits<float>::infinity());
  std::fill_n(p.sum, kPeerGroup, 0.0f);
  std::fill_n(p.acc, kPeerGroup * kPeerDim, 0.0f);
  format_.prepare(q + head * kPeerGroup * kPeerDim, scratch.prepared);
  for (std::size_t t = begin; t < end; t += kPeerChunk) {
    const std::size_t n = std::min(kPeerChunk, end - t);
    // Values come in while keys are scored, the next chunk's keys while values are summed.
    const std::byte* next_keys = t + n < end ? keys + (t + n) * format_.row_bytes : nullptr;
    const std::byte* chunk_values = values + t * format_.row_bytes;
    format_.score(scratch.prepared, keys + t * format_.row_bytes, n, scratch.logits, chunk_values);
    for (std::size_t i = 0; i < kPeerGroup; ++i) {
      float* logits = scratch.logits + i * kPeerChunk;
      const float max = std::max(p.max[i], kernels::MaxOf(logits, n));
      const float shrink = std::exp(p.max[i] - max);
      if (shrink != 1.0f) {
        for (std::size_t d = 0; d < kPeerDim; ++d) p.acc[i * kPeerDim + d] *= shrink;
      }
      p.sum[i] = p.sum[i] * shrink + kernels::ExpShifted(logits, n, max);
      p.max[i] = max;
    }
    format_.accumulate(scratch.logits, chunk_values, n, p.acc, next_keys);
  }
}

void PeerAttention::Merge(std::size_t head, float* out) const {
  const Partial* parts = parts_.data() + head * runs_;
  for (std::size_t i = 0; i < kPeerGroup; ++i) {
    float max = parts[0].max[i];
    for (std::size_t r = 1; r < runs_; ++r) max = std::max(max, parts[r].max[i]);
    float sum = 0.0f;
    float* row = out + i * kPeerDim;
    std::fill_n(row, kPeerDim, 0.0f);
    for (std::size_t r = 0; r < runs_; ++r) {
      const float shrink = std::exp(parts[r].max[i] - max);
      sum += parts[r].sum[i] * shrink;
      for (std::size_t d = 0; d < kPeerDim; ++d) row[d] += parts[r].acc[i * kPeerDim + d] * shrink;
    }
    for (std::size_t d = 0; d < kPeerDim; ++d) row[d] /= sum;
  }
}

}  // namespace kvant::tools
