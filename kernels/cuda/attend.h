// Decode attention on an NVIDIA GPU, straight from stored blocks: out = softmax(scale * q K^T + mask) V over the codes of a
// batch of sequences, for grouped query heads, with the log-sum-exp that merging with other tokens' attention takes.
//
// The bytes are those of the processor's codecs (turboquant_mse of 2 and 4 bits; keys as they are, around their block's mean,
// or with its gains too), the logits have the processor's bits (before a soft-cap), outputs agree to what rounding weights to 8
// bits costs: kernels/cuda/README.md.
#pragma once

#include <cstddef>
#include <cstdint>

#include <kvant/result.h>
#include <kvant/tensor.h>

struct CUstream_st;

namespace kvant::kernels::cuda {

/// What taking a block's gauge off its keys left beside their codes (kernels/gauge/gauge.h).
enum class Gauge : std::uint8_t { kNone, kMean, kGains };

/// Queries or outputs: [sequences, tokens, heads, dim], dims adjacent, strides in elements.
template <class Pointer>
struct BatchView {
  Pointer data = nullptr;
  ElementType type = ElementType::kF32;
  std::int64_t sequence_stride = 0;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
};

/// One layer's attention for a batch. Everything is borrowed; pointers are the GPU's unless said otherwise.
struct AttendArgs {
  // The codes.
  int key_bits = 0;
  int value_bits = 0;
  int dim = 0;
  int block_tokens = 0;  ///< a multiple of 128 where both have 2 bits and up to 128 dims, else of 64
  int rounds = 0;        ///< of the rotations: 2 to 4
  Gauge gauge = Gauge::kNone;
  const std::uint8_t* slots = nullptr;  ///< slot i begins at slots + i * slot_bytes
  std::size_t slot_bytes = 0;
  std::size_t key_offset = 0;    ///< of KV head 0 within a slot: codes, ufloat16 scales, gauge
  std::size_t value_offset = 0;  ///< codes, scales
  std::size_t head_bytes = 0;    ///< from one KV head to the next, of both
  /// Signs of the heads' rotations (PackSigns), rounds * dim / 32 words a head.
  const std::uint32_t* key_signs = nullptr;
  const std::uint32_t* value_signs = nullptr;

  // The batch.
  int sequences = 0;
  int tokens = 1;  ///< new tokens of each sequence, kMaxTokens at most
  int kv_heads = 0;
  int group = 1;                        ///< query heads of a KV head, 1 to 16
  const std::int32_t* table = nullptr;  ///< [sequences, table_stride]: the slot of each block
  int table_stride = 0;
  const std::int32_t* cached = nullptr;     ///< [sequences]: tokens in blocks; the last block may be partly used
  const std::int32_t* positions = nullptr;  ///< [sequences]: of the first new token; null: as `cached`
  BatchView<const void*> q;
  BatchView<void*> out;
  float* lse = nullptr;                ///< [sequences, tokens, heads]: natural log of the softmax denominator; null: not wanted
  const float* sink_logits = nullptr;  ///< [heads]: one more logit with no value; null: none
  float scale = 1.0f;
  float softcap = 0.0f;
  std::uint32_t window = 0;  ///< a token sees this many, itself counted; 0: all before it

  // Where partial results meet: AttendWorkspaceBytes, aligned to 16, zeroed once; a call leaves it as any other
  // on the same GPU wants it, whatever its shape. One call at a time.
  std::byte* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

inline constexpr int kMaxGroup = 16;
inline constexpr int kMaxTokens = 512;
inline constexpr int kMaxSequences = 4096;

/// A rotation's signs (kernels/rotation/hadamard.h: [rounds, dim], 0 or the top bit) as AttendArgs wants them: bit i % 32 of
/// word (r * dim + i) / 32.
void PackSigns(const std::uint32_t* signs, int rounds, int dim, std::uint32_t* packed) noexcept;

/// Bytes of workspace that calls of this shape take. `multiprocessors`: of the GPU. Of the arguments, shapes and counts are
/// read. kInvalidArgument and kUnsupported, naming the field and the value, where Attend would say so.
[[nodiscard]] Result<std::size_t> AttendWorkspaceBytes(const AttendArgs& args, int multiprocessors);

/// A CUDA stream, as its runtime calls it.
using Stream = CUstream_st*;

/// Multiprocessors of the calling thread's current GPU. kUnavailable: there is none, or no driver.
[[nodiscard]] Result<int> Multiprocessors();

/// Launches one layer's attention on `stream`: no allocation, no synchronisation, nothing but one kernel, so a graph can hold
/// it. Any thread; what goes wrong on the GPU later is the stream's to say. kInvalidArgument, kUnsupported: as above.
/// kUnavailable: no GPU, or one that this library has no code for. `multiprocessors` as when the workspace was measured.
[[nodiscard]] Result<void> Attend(const AttendArgs& args, int multiprocessors, Stream stream);

}  // namespace kvant::kernels::cuda
