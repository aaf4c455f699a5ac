// The codec contract: what a codec promises, and what attention may assume of it. See quantizers/README.md.
//
// A codec is one file under quantizers/codecs/ that defines one `extern const Codec`, and one line in registry.cc.
// `Codec` is data: names, parameters, limits and two functions that make the working objects for one layer.
// The working objects (`KeyCodec`, `ValueCodec`) are immutable after construction: every method is const and may be called
// from several threads at once. All memory is the caller's; no method allocates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>
#include <kvant/tensor.h>

namespace kvant::quantizers {

class Artifact;

/// Keys and values choose their codecs independently.
enum class Side : std::uint8_t { kKeys = 0, kValues = 1 };

/// The most queries one call of PrepareQueries/Score/Accumulate gets. Attention splits larger batches.
inline constexpr std::size_t kMaxQueries = 64;

/// One integer parameter of a codec, as written in a spec: "turboquant_mse:bits=4,center=1".
struct ParamSpec {
  std::string_view name;
  std::int64_t min = 0;
  std::int64_t max = 0;
  std::int64_t default_value = 0;
  std::string_view meaning;
  std::span<const std::int64_t> allowed = {};  ///< if not empty, only these of min..max
};

/// What a working codec is made for: one layer, one side. Everything encode may depend on; nothing per token or per request.
struct CodecConfig {
  Side side = Side::kKeys;
  std::uint32_t layer = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 0;
  std::string_view model;  ///< the identity's model digest: rotation seeds depend on it (codecs.md §1.2)
  RopeSpec rope;
  std::span<const std::int64_t> params;  ///< in the order of Codec::params, checked against them
  const Artifact* artifact = nullptr;    ///< null if the plan carries none; outlives the working codec
};

/// What both sides share. A block is `block_tokens` rows of one KV head, encoded into `block_bytes()` adjacent bytes.
class BlockCodec {
 public:
  virtual ~BlockCodec() = default;

  /// Bytes of an encoded block, side information included: exactly what bits per element is computed from.
  [[nodiscard]] virtual std::size_t block_bytes() const noexcept = 0;

  /// Encodes `rows` ([block_tokens, head_dim], any element type and stride) of KV head `head` into `block`
  /// (block_bytes() bytes, 64-byte aligned), the first row standing at token `first_position` (a multiple of block_tokens).
  /// `rows` may lie in memory that another process is writing: each element is read once. Returns kNotFinite naming the row
  /// if any element is NaN or infinite or the row's norm exceeds what the side information holds; `block` is then garbage.
  /// The bytes depend on nothing but the rows, the head and the configuration, on every SIMD target (codecs.md T18).
  [[nodiscard]] virtual Result<void> Encode(std::size_t head, std::uint64_t first_position, const RowsView& rows,
                                            std::byte* block) const = 0;

  /// Decodes rows [begin, end) of a block into `rows` ([end - begin, head_dim], adjacent).
  virtual void Decode(std::size_t head, std::uint64_t first_position, const std::byte* block, std::size_t begin,
                      std::size_t end, float* rows) const = 0;
};

/// Keys: scores from codes.
class KeyCodec : public BlockCodec {
 public:
  /// True if this codec takes keys before RoPE and turns them while scoring; the raw rows of such a layer are pre-RoPE too.
  [[nodiscard]] virtual bool pre_rope() const noexcept { return false; }

  /// Bytes of the prepared form of `n` queries (n <= kMaxQueries).
  [[nodiscard]] virtual std::size_t prepared_bytes(std::size_t n) const noexcept = 0;

  /// Prepares `n` queries of one KV head's group for scoring: rotate, scale, round to integers, build tables: once per call
  /// of attention. `queries` is [n, head_dim], adjacent, already multiplied by the softmax scale. `prepared` is 64-byte
  /// aligned.
  virtual void PrepareQueries(std::size_t head, const float* queries, std::size_t n, std::byte* prepared) const = 0;

  /// logits[i * stride + t] = estimate of <query i, key t> for all block_tokens tokens t of the block.
  /// `next` is memory the caller will want soon (may be null): the kernel may prefetch [next, next + next_bytes).
  /// Every key of the sequence goes through an estimate of the same query, so a codec that stores centred keys k - mu
  /// must add <query, mu> back: raw rows (sinks, tail) are scored uncentred beside them.
  virtual void Score(std::size_t head, std::uint64_t first_position, const std::byte* prepared, std::size_t n,
                     const std::byte* block, float* logits, std::size_t stride, const std::byte* next,
                     std::size_t next_bytes) const = 0;
};

/// Values: weighted sums over codes, in the codec's own space. The accumulator of a query is a vector of floats and linear in
/// the weights: attention rescales it (online softmax) and adds accumulators of several parts of a sequence.
class ValueCodec : public BlockCodec {
 public:
  /// Floats of one query's accumulator.
  [[nodiscard]] virtual std::size_t accumulator_floats() const noexcept = 0;

  /// acc[i * acc_stride ..] += sum over t in [0, block_tokens) of weights[i * stride + t] * code t, for n queries.
  /// Weights are >= 0 and finite; tokens that must not count have weight 0. `scratch` holds accumulate_scratch_bytes(n).
  virtual void Accumulate(std::size_t head, const float* weights, std::size_t stride, std::size_t n, const std::byte* block,
                          float* acc, std::size_t acc_stride, std::byte* scratch, const std::byte* next,
                          std::size_t next_bytes) const = 0;

  [[nodiscard]] virtual std::size_t accumulate_scratch_bytes(std::size_t n) const noexcept = 0;

  /// Turns n accumulators into rows [n, head_dim] (adjacent, overwritten). `weight_sums[i]` is the sum of all weights query i
  /// accumulated through this codec: a codec that stores centred values adds weight_sums[i] * mu.
  virtual void Finish(std::size_t head, const float* acc, std::size_t acc_stride, const float* weight_sums, std::size_t n,
                      float* rows) const = 0;
};

/// A codec as data. Null `make_keys` or `make_values`: not offered for that side.
struct Codec {
  std::string_view name;      ///< persisted, hashed into identities and sent on the wire; lower_snake_case
  std::uint32_t version = 1;  ///< changes whenever the bytes for the same rows change
  std::string_view summary;   ///< one line for `kvantctl codecs`
  std::span<const ParamSpec> params;

  /// block_tokens must be a multiple of this (for given parameters).
  std::uint32_t (*block_multiple)(std::span<const std::int64_t> params) = nullptr;

  /// Expected relative squared error E|x - x'|^2 / |x|^2 on independent N(0,1) rows; the conformance test and
  /// `kvantctl codecs` read it from here. Keys and values may differ (scale modes).
  double (*gaussian_error)(Side side, std::uint32_t head_dim, std::span<const std::int64_t> params) = nullptr;

  /// kUnsupported or kInvalidArgument if the configuration cannot be served (head size, missing artifact tensor).
  Result<std::unique_ptr<KeyCodec>> (*make_keys)(const CodecConfig&) = nullptr;
  Result<std::unique_ptr<ValueCodec>> (*make_values)(const CodecConfig&) = nullptr;
};

}  // namespace kvant::quantizers
