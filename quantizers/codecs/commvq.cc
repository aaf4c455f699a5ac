// commvq: keys before RoPE as sums of codewords that RoPE can turn (Li et al., CommVQ, arXiv 2506.18879). Keys only; the
// paper's values need a trained encoder and are not here.
//
// A pair of numbers that RoPE turns is a complex number, and its turn at token t is a multiplication by exp(i t w). A stage has
// 64 codewords C of complex rows; a code (a, b) of 12 bits stands for C[a] + i C[b], all pairs at once, which is the paper's
// matrix
// [[x, y], [-y, x]] written down as a number. So a key is
//
//   k = scale * sum over stages of (C[a] + i C[b])        its score at token t: <q, exp(i t w) k>
//
// Encode: the row divided by its norm; greedily, each stage takes the code of 4096 that leaves the least. The scale is
// |k|^2 / <k, k'> (the paper: the norm), at most twice the norm, so that a key's product with itself is exact. Codes are what
// training has made them: rows unlike those are kept badly, and no rotation hides that. Score: each token is added up once for
// all queries, turned, and multiplied; tables per query cost more from two queries on.
//
// Stages: `stages`, or if that is 0 as many as come nearest to `bits` bits per element, bits * d / 12: 11 and 21 at 128.
// Block: kernels/commvq/commvq.h; (12 stages + 16) / d bits per element (the paper's scale is shared by a token's heads).
// Artifact: "layers.<layer>.keys.commvq" [kv_heads, stages, 64, 2, d / 2]: codewords for rows of norm 1, their real, then their
// imaginary parts. Pair p is the model's: (p, p + n) of n pairs that are turned, or (2p, 2p + 1); numbers that RoPE leaves
// alone follow in pairs of the same kind.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/commvq/commvq.h"
#include "kernels/raw/dot.h"
#include "kernels/rope.h"
#include "kernels/ufloat16.h"
#include "quantizers/artifact.h"
#include "quantizers/codec.h"
#include "quantizers/rope_pairs.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {
namespace {

using kernels::CommVqCodebook;

constexpr std::string_view kName = "commvq";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kRowsAtOnce = kernels::Rope::kRun;  // their angles come from one

enum Param : std::size_t { kBits, kStages };

std::size_t StagesOf(const CodecConfig& config) {
  const auto stages = static_cast<std::size_t>(config.params.Integer(kStages));
  if (stages != 0) return stages;
  return (static_cast<std::size_t>(config.params.Integer(kBits)) * config.head_dim + 6) / 12;
}

std::string TensorName(const CodecConfig& config) { return "layers." + std::to_string(config.layer) + ".keys.commvq"; }

class CommVqKeys final : public KeyCodec {
 public:
  CommVqKeys(const CodecConfig& config, std::span<const float> words, std::size_t stages)
      : dim_(config.head_dim),
        tokens_(config.block_tokens),
        stages_(stages),
        words_(words),
        rope_(config.rope, config.head_dim),
        places_(PlanarPlaces(config.rope, config.head_dim)) {}

  [[nodiscard]] bool pre_rope() const noexcept override { return true; }
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override {
    return kernels::CommVqBlockBytes(stages_, tokens_);
  }
  /// Of a layer, not of a head: the turns of a run and the places.
  [[nodiscard]] std::size_t memory_bytes() const noexcept override {
    return dim_ * kRowsAtOnce * sizeof(float) + dim_ * (sizeof(double) / 2 + sizeof(std::uint16_t));
  }
  [[nodiscard]] CodecTraits traits() const noexcept override {
    return {.exact_zero = true, .largest_norm = 0.49F * kernels::kUfloat16Max};
  }
  [[nodiscard]] CodeForm form() const noexcept override {
    return {.family = CodeFamily::kVector,
            .bits = 12,
            .scale_format = ScaleFormat::kUfloat16,
            .scale_offset = stages_ * kernels::CommVqStageBytes(tokens_)};
  }
  /// Training decides.
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return std::nullopt; }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const std::size_t row = dim_ * sizeof(float);
    return {.encode = kernels::CommVqEncodeScratchBytes(dim_, tokens_),
            .decode = row,
            .prepared = n * row,
            .scratch = (kRowsAtOnce + 1) * row + n * kRowsAtOnce * sizeof(float)};
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    auto* block = reinterpret_cast<std::uint8_t*>(args.block.part[0]);
    const std::size_t row = kernels::CommVqEncode(Codebook(args.head), places_.data(), args.rows, block, args.scratch);
    if (row == args.rows.count) return {};
    return Error{ErrorCode::kNotFinite, "encode as " + std::string(kName) + ": row " + std::to_string(row) + " of KV head " +
                                            std::to_string(args.head) + " holds NaN or infinity, or its norm exceeds 4e9"};
  }

  void Decode(const DecodeArgs& args) const override {
    auto* planar = reinterpret_cast<float*>(args.scratch);
    const auto* block = reinterpret_cast<const std::uint8_t*>(args.block.part[0]);
    for (std::size_t token = args.begin; token < args.end; ++token) {
      kernels::CommVqDecode(Codebook(args.head), block, tokens_, token, 1, planar);
      float* row = args.rows + (token - args.begin) * args.row_stride;
      for (std::size_t i = 0; i < dim_; ++i) row[places_[i]] = args.add ? row[places_[i]] + planar[i] : planar[i];
    }
  }

  void Prepare(const PrepareArgs& args) const override {
    auto* prepared = reinterpret_cast<float*>(args.prepared);
    for (std::size_t i = 0; i < args.n; ++i) std::copy_n(args.queries + i * args.query_stride, dim_, prepared + i * dim_);
  }

  void Score(const ScoreArgs& args) const override {
    auto* rows = reinterpret_cast<float*>(args.scratch);
    float* planar = rows + kRowsAtOnce * dim_;
    float* logits = planar + dim_;
    const auto* queries = reinterpret_cast<const float*>(args.prepared);
    const auto* block = reinterpret_cast<const std::uint8_t*>(args.block.part[0]);
    const CommVqCodebook codebook = Codebook(args.head);
    for (std::size_t first = 0; first < tokens_; first += kRowsAtOnce) {
      const std::size_t count = std::min(kRowsAtOnce, tokens_ - first);
      for (std::size_t t = 0; t < count; ++t) {
        kernels::CommVqDecode(codebook, block, tokens_, first + t, 1, planar);
        for (std::size_t i = 0; i < dim_; ++i) rows[t * dim_ + places_[i]] = planar[i];
      }
      rope_.Rotate({.rows = rows, .count = count, .first_position = args.first_position + first});
      const bool last = first + count == tokens_;
      kernels::DotRows(queries, args.n, {rows, ElementType::kF32, count, dim_, dim_}, args.add ? logits : args.logits + first,
                       args.add ? count : args.stride, last ? args.next.data : nullptr, last ? args.next.bytes : 0);
      if (args.add) PutRows(logits, args.n, count, args.logits + first, args.stride, true);
    }
  }

 private:
  [[nodiscard]] CommVqCodebook Codebook(std::size_t head) const {
    const std::size_t size = stages_ * kernels::kCommVqWords * dim_;
    return {words_.data() + head * size, stages_, dim_ / 2};
  }

  std::size_t dim_;
  std::size_t tokens_;
  std::size_t stages_;
  std::span<const float> words_;  ///< of all heads of the layer, the artifact's
  kernels::Rope rope_;
  std::vector<std::uint16_t> places_;
};

Result<std::unique_ptr<KeyCodec>> MakeCommVqKeys(const CodecConfig& config) {
  const std::string where = std::string(kName) + " layer " + std::to_string(config.layer) + ": ";
  if (config.head_dim < 8 || config.head_dim > kernels::kCommVqMaxDim || config.head_dim % 8 != 0) {
    return Error{ErrorCode::kUnsupported,
                 where + "head_dim " + std::to_string(config.head_dim) + " is not a multiple of 8 in 8..256"};
  }
  if (config.block_tokens == 0 || config.block_tokens % kernels::kCommVqTile != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 where + "block_tokens " + std::to_string(config.block_tokens) + " is not a multiple of 16"};
  }
  if (config.rope.pairing == RopePairing::kNone) {
    return Error{ErrorCode::kUnsupported,
                 where + "its codes are of the pairs that RoPE turns, and the store's rope has no pairing"};
  }
  const std::size_t stages = StagesOf(config);
  const std::size_t kv_heads = config.kv_heads, pairs = config.head_dim / 2;
  if (config.artifact == nullptr) {
    return Error{ErrorCode::kInvalidArgument, where + "needs the tensor " + TensorName(config) + " [" +
                                                  std::to_string(kv_heads) + ", " + std::to_string(stages) + ", 64, 2, " +
                                                  std::to_string(pairs) + "], but the plan has no artifact"};
  }
  auto words = config.artifact->Find(TensorName(config), {kv_heads, stages, kernels::kCommVqWords, 2, pairs});
  if (!words) return Error{words.error().code, where + words.error().message};
  // Rows have norm 1: words beyond this are no sums of such, and sums of them could leave the range of floats.
  if (!std::ranges::all_of(*words, [](float number) { return std::fabs(number) <= 1e6F; })) {
    return Error{ErrorCode::kInvalidArgument, where + TensorName(config) + " holds numbers beyond 1e6"};
  }
  return std::unique_ptr<KeyCodec>(std::make_unique<CommVqKeys>(config, *words, stages));
}

/// Random codewords for rows of norm 1. 4096 sums of two in d dimensions at best leave 1 - 2^(-24 / d) of the squared norm
/// less, so those of the next stage are shorter by as much.
Example ExampleWords(const CodecConfig& config) {
  if (config.side != Side::kKeys) return {};
  const std::size_t stages = StagesOf(config), dim = config.head_dim;
  ExampleTensor tensor{TensorName(config), {config.kv_heads, stages, kernels::kCommVqWords, 2, dim / 2}, {}};
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  const double kept = std::exp2(-24.0 / static_cast<double>(dim));
  for (std::size_t h = 0; h < config.kv_heads; ++h) {
    double left = 1;
    for (std::size_t r = 0; r < stages; ++r, left *= kept) {
      const auto deviation = static_cast<float>(std::sqrt((1 - kept) * left / (2 * static_cast<double>(dim))));
      for (std::size_t i = 0; i < kernels::kCommVqWords * dim; ++i) tensor.values.push_back(deviation * normal(random));
    }
  }
  Example example;
  example.tensors.push_back(std::move(tensor));
  return example;
}

constexpr std::int64_t kBitChoices[] = {1, 2};
constexpr ParamSpec kParams[] = {
    {.name = "bits", .default_value = "2", .meaning = "about as many per element", .min = 1, .max = 2, .allowed = kBitChoices},
    {.name = "stages", .default_value = "0", .meaning = "stages of codes, 12 bits each; 0: by bits", .min = 0, .max = 42},
};

std::uint32_t WholeTiles(const Params&) { return kernels::kCommVqTile; }

}  // namespace

extern const Codec kCommVq{.name = kName,
                           .version = kVersion,
                           .summary = "keys before RoPE as sums of codewords that turn with it; calibrated",
                           .params = kParams,
                           .block_multiple = WholeTiles,
                           .make_keys = MakeCommVqKeys,
                           .example = ExampleWords};

}  // namespace kvant::quantizers
