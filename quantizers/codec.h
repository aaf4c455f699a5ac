// The codec contract: what a codec promises, and what attention may assume of it. quantizers/README.md explains it to the
// author of the next codec.
//
// A codec is one file under quantizers/codecs/ that defines one `extern const Codec`, and one line in registry.cc.
// `Codec` is data: name, version, parameters, and functions that make the working objects of one layer.
// The working objects (`KeyCodec`, `ValueCodec`) are immutable after construction: every method is const and may be called
// from several threads at once. All memory is the caller's: no method allocates, and none puts more than a few KiB on the
// stack. What does not fit there goes into `scratch`, whose sizes the caller has asked for once, through needs().
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>
#include <kvant/tensor.h>

#include "quantizers/code_form.h"
#include "quantizers/params.h"

namespace kvant::quantizers {

class Artifact;
class Registry;

/// Keys and values choose their codecs independently.
enum class Side : std::uint8_t { kKeys = 0, kValues = 1 };

/// The most queries that one call of Prepare, Score, Accumulate or Finish gets. Attention splits larger batches.
inline constexpr std::size_t kMaxQueries = 64;

/// The most parts of an encoded block.
inline constexpr std::size_t kMaxParts = 8;

/// An encoded block where it lies: part p's bytes at part[p], 64-byte aligned. Most codecs have one part. A codec whose blocks
/// can be demoted in place puts what can be dropped into later parts: a block may lose its last parts, never its first, and is
/// then read at lower quality. `Byte` is `std::byte` (writable) or `const std::byte`.
template <typename Byte>
struct BasicBlockView {
  Byte* part[kMaxParts] = {};
  std::size_t parts = 1;  ///< how many are there: the first ones

  BasicBlockView() = default;
  /// A block of one part.
  BasicBlockView(Byte* bytes) : part{bytes} {}  // NOLINT(google-explicit-constructor): a view
};
using BlockView = BasicBlockView<std::byte>;
using ConstBlockView = BasicBlockView<const std::byte>;

inline ConstBlockView AsConst(const BlockView& block) noexcept {
  ConstBlockView view;
  for (std::size_t p = 0; p < kMaxParts; ++p) view.part[p] = block.part[p];
  view.parts = block.parts;
  return view;
}

/// Memory the caller will read soon, which a kernel may prefetch while it computes; empty for none.
struct Ahead {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
};

/// What a working codec is made for: some KV heads of one layer, one side. Everything encode may depend on; nothing per token
/// or per request.
struct CodecConfig {
  Side side = Side::kKeys;
  std::uint32_t layer = 0;
  std::uint32_t kv_heads = 0;    ///< of the layer: the first axis of artifact tensors
  std::uint32_t head_begin = 0;  ///< calls name heads in [head_begin, head_end), numbered within the layer
  std::uint32_t head_end = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 0;
  /// Rows of the block at position 0 that the store keeps as they are, too, so that nobody reads their codes (sinks).
  std::uint32_t exact_rows = 0;
  std::string_view model;  ///< the identity's model digest: rotation seeds depend on it (codecs.md §1.2)
  RopeSpec rope = {};
  Params params = {};                  ///< of this codec, checked
  const Artifact* artifact = nullptr;  ///< null if the plan carries none; outlives the working codec
  const Registry* registry = nullptr;  ///< where nested specs come from; needed while making only
  /// Which of several codecs of one block this is: 0 for the plan's own, ChildStream for those it makes. Rotations depend on
  /// it, so that two codecs inside one wrapper draw different ones.
  std::uint32_t stream = 0;
};

/// The stream of the `child`-th codec (from 0, below kMaxChildren) that a codec of stream `parent` makes. Within the nesting
/// that the registry allows, different paths give different numbers.
inline constexpr std::uint32_t kMaxChildren = 8;
constexpr std::uint32_t ChildStream(std::uint32_t parent, std::uint32_t child) noexcept {
  return parent * kMaxChildren + child + 1;
}

/// Memory per number of a row and KV head that a daemon makes room for before it makes a plan (PlanBytes), unless the codec
/// says that it takes more (Codec::head_bytes).
inline constexpr std::size_t kHeadBytesPerNumber = 66;

/// Properties that tests, plans and tools go by instead of names.
struct CodecTraits {
  bool exact_zero = true;        ///< a row of zeros reads back as zeros
  bool rows_alone = true;        ///< a row's code depends on that row alone; else on all rows of its block
  float largest_norm = FLT_MAX;  ///< Encode accepts every finite row of at most this Euclidean norm
};

/// Bytes of memory that calls need, each 64-byte aligned. Those that depend on the number of queries are for up to `n` of them.
struct Needs {
  std::size_t encode = 0;    ///< scratch of Encode
  std::size_t decode = 0;    ///< scratch of Decode
  std::size_t prepared = 0;  ///< keys: the prepared form of n queries
  std::size_t scratch = 0;   ///< keys: scratch of Prepare and Score; values: of Accumulate and Finish
};

struct EncodeArgs {
  std::size_t head = 0;
  std::uint64_t first_position = 0;  ///< token of the first row: a multiple of block_tokens
  RowsView rows = {};                ///< [block_tokens, head_dim], any element type and stride
  BlockView block = {};              ///< all parts; or the first ones, for a block that never had the others
  std::byte* scratch = nullptr;
};

struct DecodeArgs {
  std::size_t head = 0;
  std::uint64_t first_position = 0;  ///< token of the block's first row
  ConstBlockView block = {};
  std::size_t begin = 0;  ///< rows [begin, end) of the block
  std::size_t end = 0;
  float* rows = nullptr;       ///< row begin + i at rows + i * row_stride
  std::size_t row_stride = 0;  ///< floats; at least head_dim
  bool add = false;            ///< add to what `rows` holds instead of overwriting it
  std::byte* scratch = nullptr;
};

struct PrepareArgs {
  std::size_t head = 0;
  const float* queries = nullptr;  ///< query i at queries + i * query_stride: head_dim floats, times the softmax scale, finite
  std::size_t query_stride = 0;
  std::size_t n = 0;              ///< at most kMaxQueries
  std::byte* prepared = nullptr;  ///< needs(n).prepared bytes
  std::byte* scratch = nullptr;
};

struct ScoreArgs {
  std::size_t head = 0;
  std::uint64_t first_position = 0;  ///< token of the block's first row
  const float* queries = nullptr;    ///< as Prepare got them, for a codec whose blocks carry their own mean or gains
  std::size_t query_stride = 0;
  /// As Prepare left it, or earlier calls with other blocks: a codec may keep there what it made for one block, for the next.
  std::byte* prepared = nullptr;
  std::size_t n = 0;
  ConstBlockView block = {};
  float* logits = nullptr;  ///< query i, token t of the block: logits[i * stride + t]
  std::size_t stride = 0;
  bool add = false;  ///< add to what `logits` holds instead of overwriting it
  std::byte* scratch = nullptr;
  Ahead next = {};
};

struct AccumulateArgs {
  std::size_t head = 0;
  std::uint64_t first_position = 0;  ///< token of the block's first row
  const float* weights = nullptr;    ///< query i, token t: weights[i * stride + t], >= 0 and finite; 0 where t must not count
  std::size_t stride = 0;
  std::size_t n = 0;
  ConstBlockView block = {};
  float* acc = nullptr;  ///< query i's accumulator: acc + i * acc_stride
  std::size_t acc_stride = 0;
  std::size_t acc_floats = 0;  ///< what accumulator_floats answered
  std::byte* scratch = nullptr;
  Ahead next = {};
};

struct FinishArgs {
  std::size_t head = 0;
  const float* acc = nullptr;  ///< as Accumulate filled it
  std::size_t acc_stride = 0;
  std::size_t acc_floats = 0;
  const float* weight_sums = nullptr;  ///< [n]: the sum of all weights that query i accumulated through this codec
  std::size_t n = 0;
  float* rows = nullptr;  ///< query i's result: rows + i * row_stride, head_dim floats
  std::size_t row_stride = 0;
  bool add = false;  ///< add to what `rows` holds instead of overwriting it
  std::byte* scratch = nullptr;
};

/// What both sides share. A block is `block_tokens` rows of one KV head.
class BlockCodec {
 public:
  virtual ~BlockCodec() = default;

  /// How many parts an encoded block has, 1..kMaxParts, and their bytes, side information included.
  [[nodiscard]] virtual std::size_t parts() const noexcept { return 1; }
  [[nodiscard]] virtual std::size_t part_bytes(std::size_t part) const noexcept = 0;
  /// All parts together: exactly what bits per element is computed from.
  [[nodiscard]] std::size_t block_bytes() const noexcept {
    std::size_t bytes = 0;
    for (std::size_t p = 0; p < parts(); ++p) bytes += part_bytes(p);
    return bytes;
  }

  [[nodiscard]] virtual Needs needs(std::size_t n) const noexcept = 0;
  /// Memory that the object holds beside itself and the artifact: rotations, tables. Head by head at most what HeadBytes says.
  [[nodiscard]] virtual std::size_t memory_bytes() const noexcept { return 0; }
  [[nodiscard]] virtual CodecTraits traits() const noexcept { return {}; }
  [[nodiscard]] virtual CodeForm form() const noexcept { return {}; }

  /// Expected relative squared error E|x - x'|^2 / E|x - c|^2 of independent rows x of N(c, 1), read from the first `parts`
  /// parts; c is the calibrated mean that the codec subtracts, 0 where there is none. It may depend on the artifact, and need
  /// not be known. Slow: milliseconds.
  [[nodiscard]] virtual std::optional<double> expected_error(std::size_t parts) const = 0;

  /// Encodes a block: the parts that `block` has, each with the same bytes whatever their number. `rows` may lie in memory that
  /// another process is writing: each element is read once. Returns kNotFinite naming the row if any element is NaN or infinite
  /// or the row exceeds what the side information holds; `block` is then garbage. The bytes depend on nothing but the rows,
  /// their positions, the head and the configuration, on every SIMD target (codecs.md T18).
  [[nodiscard]] virtual Result<void> Encode(const EncodeArgs& args) const = 0;

  virtual void Decode(const DecodeArgs& args) const = 0;
};

/// Keys: scores from codes.
class KeyCodec : public BlockCodec {
 public:
  /// True if this codec takes keys before RoPE and turns them while scoring; the raw rows of such a layer are pre-RoPE too.
  [[nodiscard]] virtual bool pre_rope() const noexcept { return false; }

  /// Prepares queries of one KV head's group for scoring: rotate, round to integers, build tables: once per call of attention.
  virtual void Prepare(const PrepareArgs& args) const = 0;

  /// Estimates <query i, key t> for all block_tokens tokens of a block. Every key of the sequence goes through an estimate of
  /// the same query, so a codec that stores centred keys k - mu must add <query, mu> back: raw rows (sinks, tail) are scored
  /// uncentred beside them.
  virtual void Score(const ScoreArgs& args) const = 0;
};

/// Values: weighted sums over codes, in the codec's own space. The accumulator of a query is a vector of floats and linear in
/// the weights: attention rescales it (online softmax) and adds accumulators of several parts of a sequence.
class ValueCodec : public BlockCodec {
 public:
  /// Floats of one query's accumulator, where a call of attention has `queries` queries of one KV head (any number: it is split
  /// into calls of kMaxQueries). A codec may choose another kind of accumulator for many queries than for few; it tells them
  /// apart by AccumulateArgs::acc_floats.
  [[nodiscard]] virtual std::size_t accumulator_floats(std::size_t queries) const noexcept = 0;

  /// Adds the block's weighted sum to the accumulators of n queries.
  virtual void Accumulate(const AccumulateArgs& args) const = 0;

  /// Turns accumulators into rows. A codec that stores centred values adds weight_sums[i] * mu.
  virtual void Finish(const FinishArgs& args) const = 0;
};

/// A tensor to put into an artifact.
struct ExampleTensor {
  std::string name;
  std::vector<std::size_t> shape;
  std::vector<float> values;
};

/// An artifact for a configuration, and the rows it is made for: N(mean, 1).
struct Example {
  std::vector<ExampleTensor> tensors;
  std::vector<float> mean;  ///< [kv_heads, head_dim]; empty for zeros
};

/// A codec as data. Null `make_keys` or `make_values`: not offered for that side.
struct Codec {
  std::string_view name;      ///< persisted, hashed into identities and sent on the wire; lower_snake_case
  std::uint32_t version = 1;  ///< changes whenever the bytes for the same rows change; old ones may stay in the registry
  std::string_view summary;   ///< one line for `kvantctl codecs`
  std::span<const ParamSpec> params;

  /// block_tokens must be a multiple of this (for given parameters); null: of 1.
  std::uint32_t (*block_multiple)(const Params& params) = nullptr;

  /// kUnsupported or kInvalidArgument if the configuration cannot be served (head size, missing artifact tensor).
  Result<std::unique_ptr<KeyCodec>> (*make_keys)(const CodecConfig&) = nullptr;
  Result<std::unique_ptr<ValueCodec>> (*make_values)(const CodecConfig&) = nullptr;

  /// The most that memory_bytes counts for one KV head, where that may exceed kHeadBytesPerNumber * head_dim; what nested specs
  /// make is counted by theirs. Null: that much.
  std::size_t (*head_bytes)(const Params& params, std::uint32_t head_dim) = nullptr;

  /// Artifact tensors with which this configuration can be made (config.artifact is not read), so that conformance tests,
  /// benchmarks and listings serve calibrated codecs like all others. Null: none are needed for any parameters.
  Example (*example)(const CodecConfig&) = nullptr;
};

/// Working objects of a spec; `config.side` and `config.params` are replaced. kUnsupported if the codec is not offered for that
/// side.
[[nodiscard]] Result<std::unique_ptr<KeyCodec>> MakeKeys(const ParsedSpec& spec, CodecConfig config);
[[nodiscard]] Result<std::unique_ptr<ValueCodec>> MakeValues(const ParsedSpec& spec, CodecConfig config);
/// The codec's example for this spec; empty if it has none.
[[nodiscard]] Example ExampleOf(const ParsedSpec& spec, CodecConfig config);
/// The most memory that the spec's codec, and those it makes, hold for one KV head.
[[nodiscard]] std::size_t HeadBytes(const ParsedSpec& spec, std::uint32_t head_dim);
/// What block_tokens must be a multiple of.
[[nodiscard]] std::uint32_t BlockMultiple(const ParsedSpec& spec);

}  // namespace kvant::quantizers
