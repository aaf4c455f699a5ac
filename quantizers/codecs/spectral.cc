// spectral: each row less its mean, in the basis of its covariance's eigenvectors, with more bits for the directions that vary
// more (after SpectralQuant, Dynamis-Labs/spectralquant; its principle is reverse water-filling, Cover and Thomas 10.3.3).
//
//   x - mean -> y = V x, V's rows the directions -> groups of directions of equal bits, each direction divided by its
//   deviation, each group rotated among itself -> Lloyd-Max codes per number, one 16-bit scale for the row.
//   reads back as mean + V' (scale * factor * deviation * R' c), R a group's rotation, c its centroids.
//
// Bits of directions: bits=signal gives the first directions by deviation `signal` bits and the others `noise` (the tensor
// "signal" says how many, else the participation ratio of the variances); bits=map takes the tensor "bits" (0, 1, 2, 3, 4 or
// 8), as water_filling.h fills them. Groups are whole eights: their boundaries go to the nearest one, so that at most four
// directions get the bits of their neighbours; what is signal stays so with at least eight. Directions of 0 bits read back as
// the mean's.
//
// Tensors "layers.<layer>.keys.<what>" or "layers.<layer>.values.<what>": mean and deviation [kv_heads, dim], basis
// [kv_heads, dim, dim] with orthonormal rows, and bits [kv_heads, dim] or signal [kv_heads]. There is no uncalibrated form.
//
// Scale: for keys |y|^2 / <y, y'> over the directions with codes, y' with centroids multiplied by a factor of 1 / (1 - error),
// which makes each group unbiased on rows of the calibrated law and the row exact along itself; for values <y, y'> / |y'|^2,
// the least squared error. It stays within twice the row's size, whatever the row. Published are a scale for each part and a
// sketch (QJL) of the signal's residual; the sketch is left out: it was scaled by another residual's norm, which biases it, and
// its noise costs more than the bias that one honest scale removes for nothing.
//
// Block: the groups' codes, most bits first, each as kernels/lloyd/layout.h lays out that many dims, then a ufloat16 scale per
// token. Heads of a layer may have different numbers of codes: a block has room for the most, zeros behind the scales. With n_b
// directions of b bits: sum of b n_b / d + 16 / d bits per element.
//
// Weaker than turboquant_mse where rows have no preferred directions, or other rows than those that it was calibrated on: then
// most directions have few bits for nothing. Queries cost a product with V for each KV head, d^2 multiplications.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/bytes/queries.h"
#include "kernels/lloyd/accumulate.h"
#include "kernels/lloyd/query.h"
#include "kernels/lloyd/score.h"
#include "kernels/matrix/matrix.h"
#include "kernels/rotation/unrotate.h"
#include "kernels/ufloat16.h"
#include "quantizers/byte_codes.h"
#include "quantizers/codec.h"
#include "quantizers/decoded_rows.h"
#include "quantizers/shared_blocks.h"
#include "quantizers/spectral_encode.h"
#include "quantizers/spectral_head.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {
namespace {

using kernels::LloydLayout;

constexpr std::string_view kName = "spectral";
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kBlockMultiple = 128;  // of codes of any bits

enum Param : std::size_t { kBits, kSignal, kNoise };

/// What both sides share.
class SpectralBlocks {
 public:
  SpectralBlocks(const CodecConfig& config, std::vector<SpectralHead> heads)
      : side_(config.side),
        dim_(config.head_dim),
        tokens_(config.block_tokens),
        first_head_(config.head_begin),
        heads_(std::move(heads)) {
    for (const SpectralHead& head : heads_) {
      code_bytes_ = std::max(code_bytes_, head.code_bytes(tokens_));
      coded_ = std::max(coded_, head.order.size());
      groups_ = std::max(groups_, head.groups.size());
    }
  }

  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return dim_ * sizeof(float); }
  [[nodiscard]] std::size_t coded() const noexcept { return coded_; }    ///< of the head that has the most
  [[nodiscard]] std::size_t groups() const noexcept { return groups_; }  ///< of the head that has the most
  [[nodiscard]] const SpectralHead& head(std::size_t head) const { return heads_[head - first_head_]; }
  [[nodiscard]] std::size_t bytes() const noexcept { return code_bytes_ + tokens_ * sizeof(std::uint16_t); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept {
    std::size_t bytes = heads_.capacity() * sizeof(SpectralHead);
    for (const SpectralHead& head : heads_) bytes += head.memory_bytes();
    return bytes;
  }
  [[nodiscard]] CodecTraits traits() const noexcept {
    double norm = 1e30;
    for (const SpectralHead& head : heads_) {
      double mean = 0;
      for (const float number : head.mean) mean += static_cast<double>(number) * static_cast<double>(number);
      const double least = *std::ranges::min_element(head.deviations);
      norm = std::min(
          norm, .49 * kernels::kUfloat16Max * least * std::sqrt(static_cast<double>(head.order.size())) - std::sqrt(mean));
    }
    return {.exact_zero = false, .largest_norm = static_cast<float>(std::clamp(norm, 0.0, 0.99 * kernels::kUfloat16Max))};
  }
  [[nodiscard]] CodeForm form() const noexcept {
    return {.scale_format = ScaleFormat::kUfloat16, .scale_offset = code_bytes_, .rotated = true, .centered = true};
  }

  /// A head's scales stand right behind its codes.
  [[nodiscard]] std::size_t scales(const SpectralHead& head) const noexcept { return head.code_bytes(tokens_); }
  [[nodiscard]] std::size_t group_bytes(const SpectralGroup& group) const noexcept {
    return kernels::LloydCodesBytes(group.table->bits, group.count, tokens_);
  }

  [[nodiscard]] std::size_t encode_scratch() const noexcept { return SpectralEncodeScratchBytes(dim_); }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const {
    const SpectralHead& own = head(args.head);
    std::byte* block = args.block.part[0];
    const bool keys = side_ == Side::kKeys;
    const SpectralEncoding how{&own, keys ? LloydLayout::kKeys : LloydLayout::kValues, keys};
    auto* scales_at = reinterpret_cast<std::uint16_t*>(block + scales(own));
    const std::size_t row = SpectralEncode(how, args.rows, reinterpret_cast<std::uint8_t*>(block), scales_at, args.scratch);
    if (row == args.rows.count) {
      const std::size_t end = scales(own) + tokens_ * sizeof(std::uint16_t);
      std::memset(block + end, 0, bytes() - end);
      return {};
    }
    return Error{ErrorCode::kNotFinite, "encode as " + std::string(kName) + ": row " + std::to_string(row) + " of KV head " +
                                            std::to_string(args.head) + " holds NaN or infinity, or is too far from the mean"};
  }

  /// Scratch: BackScratch of a row, then a row of centroids.
  [[nodiscard]] std::size_t decode_scratch() const noexcept { return back_scratch(1) + row_bytes(); }
  void Decode(const DecodeArgs& args) const {
    const SpectralHead& own = head(args.head);
    const auto* codes = reinterpret_cast<const std::uint8_t*>(args.block.part[0]);
    auto* row = reinterpret_cast<float*>(args.scratch + back_scratch(1));
    for (std::size_t token = args.begin; token < args.end; ++token) {
      std::uint16_t bits;
      std::memcpy(&bits, codes + scales(own) + token * sizeof(bits), sizeof(bits));
      const float scale = kernels::Ufloat16ToFloat(bits);
      const std::uint8_t* of_group = codes;
      for (const SpectralGroup& group : own.groups) {
        for (std::size_t k = 0; k < group.count; ++k) {
          const auto layout = side_ == Side::kKeys ? LloydLayout::kKeys : LloydLayout::kValues;
          const auto index = kernels::LloydIndexAt(layout, group.table->bits, group.count, tokens_, of_group, token, k);
          row[group.begin + k] = static_cast<float>(group.table->Centroid(index)) * scale;
        }
        of_group += group_bytes(group);
      }
      Back(FinishOfRow(args, token, dim_, row));
    }
  }

  /// Sums of scaled centroids, group by group, to rows. Scratch: the rotation's, then three sets of n rows.
  [[nodiscard]] std::size_t back_scratch(std::size_t n) const noexcept {
    return kernels::RotationScratchBytes(dim_) + 3 * n * row_bytes();
  }
  void Back(const FinishArgs& args) const {
    const SpectralHead& own = head(args.head);
    auto* turned = reinterpret_cast<float*>(args.scratch + kernels::RotationScratchBytes(dim_));
    float* coordinates = turned + args.n * dim_;
    std::fill_n(coordinates, args.n * dim_, 0.0F);
    for (const SpectralGroup& group : own.groups) {
      const kernels::HadamardMap map = group.rotation.map();
      const auto factor = static_cast<float>(static_cast<double>(group.unshrink) /
                                             (map.shape.gain(map.rounds) * static_cast<double>(group.table->unit)));
      kernels::Unrotate({map, factor, nullptr, nullptr, args.acc + group.begin, args.acc_stride, args.n, turned, args.scratch});
      for (std::size_t i = 0; i < args.n; ++i) {
        for (std::size_t k = 0; k < group.count; ++k) {
          const std::size_t at = group.begin + k;
          coordinates[i * dim_ + own.order[at]] = turned[i * group.count + k] * own.deviations[at];
        }
      }
    }
    float* target = RowsTarget(args.rows, args.row_stride, args.n, dim_, args.add, coordinates + args.n * dim_);
    kernels::RowsTimesMatrix({.matrix = own.basis.data(),
                              .dim = dim_,
                              .rows = coordinates,
                              .stride = dim_,
                              .n = args.n,
                              .offset = own.mean.data(),
                              .offset_weights = args.weight_sums,
                              .out = target});
    PutRows(target, args.n, dim_, args.rows, args.row_stride, args.add);
  }

  [[nodiscard]] std::optional<double> expected_error() const;

 private:
  Side side_;
  std::size_t dim_;
  std::size_t tokens_;
  std::size_t first_head_;
  std::vector<SpectralHead> heads_;  ///< from first_head_ on
  std::size_t code_bytes_ = 0;       ///< of the head that has the most
  std::size_t coded_ = 0;
  std::size_t groups_ = 0;
};

/// Rows of N(mean, 1) are what the codes are made for only if all deviations are 1: then the error of each head is that of its
/// groups' Lloyd codes, and of directions without codes all of it. Normal numbers are drawn and rounded, since the error of
/// several codebooks under one scale has no closed form; the mean over heads.
std::optional<double> SpectralBlocks::expected_error() const {
  constexpr std::size_t kRows = 1024;
  double error = 0;
  for (const SpectralHead& head : heads_) {
    if (!std::ranges::all_of(head.deviations, [](float deviation) { return deviation == 1.0F; })) return std::nullopt;
    std::mt19937_64 random(1);
    std::normal_distribution<double> normal;
    std::vector<double> numbers(dim_), back(dim_);
    for (std::size_t row = 0; row < kRows; ++row) {
      double square = 0;
      for (double& number : numbers) number = normal(random);
      for (std::size_t k = 0; k < head.order.size(); ++k) square += numbers[k] * numbers[k];
      const double size = std::sqrt(square / static_cast<double>(head.order.size()));
      double dot = 0, norm = 0;
      for (const SpectralGroup& group : head.groups) {
        const kernels::LloydTable& table = *group.table;
        for (std::size_t k = group.begin; k < group.begin + group.count; ++k) {
          const double x = std::fabs(numbers[k]) / size * static_cast<double>(table.unit);
          const auto* end = table.thresholds.begin() + (table.half() - 1);
          const auto magnitude = table.magnitudes[static_cast<std::size_t>(
              std::upper_bound(table.thresholds.begin(), end, static_cast<float>(x)) - table.thresholds.begin())];
          back[k] = static_cast<double>(group.unshrink) * magnitude / static_cast<double>(table.unit);
          dot += std::fabs(numbers[k]) * back[k];
          norm += back[k] * back[k];
        }
      }
      const double scale = side_ == Side::kKeys ? square / dot : dot / norm;
      double off = 0, all = 0;
      for (std::size_t k = 0; k < dim_; ++k) {
        const double number = std::fabs(numbers[k]);
        off += std::pow(number - (k < head.order.size() ? scale * back[k] : 0.0), 2);
        all += number * number;
      }
      error += off / all / kRows;
    }
  }
  return error / static_cast<double>(heads_.size());
}

class SpectralKeys final : public OfSharedBlocks<KeyCodec, SpectralBlocks> {
 public:
  explicit SpectralKeys(SpectralBlocks blocks) : OfSharedBlocks(std::move(blocks)) {}

  /// Scratch: of Prepare, the rotation's, then two sets of n rows; or Score's.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const std::size_t prepare = kernels::RotationScratchBytes(blocks_.dim()) + 2 * n * blocks_.row_bytes();
    const std::size_t batches = (n + kernels::kQueryBatch - 1) / kernels::kQueryBatch;
    return {.encode = blocks_.encode_scratch(),
            .decode = blocks_.decode_scratch(),
            .prepared = batches * (blocks_.groups() * sizeof(kernels::QueryHead) +
                                   kernels::LloydQueryWords(8, blocks_.coded()) * kernels::kQueryBatch * sizeof(std::uint32_t)),
            .scratch = std::max(prepare, ByteCodesScoreScratch(n, blocks_.dim(), blocks_.tokens()))};
  }

  /// Every group's batches of queries, one group after the other; the first group's scores have the mean's.
  void Prepare(const PrepareArgs& args) const override {
    const SpectralHead& head = blocks_.head(args.head);
    const std::size_t dim = blocks_.dim();
    auto* coordinates = reinterpret_cast<float*>(args.scratch + kernels::RotationScratchBytes(dim));
    float* weighted = coordinates + args.n * dim;
    kernels::RowsTimesTransposed(head.basis.data(), dim, args.queries, args.query_stride, args.n, coordinates);
    std::byte* prepared = args.prepared;
    for (const SpectralGroup& group : head.groups) {
      // The kernel takes codes for those of a row of norm 1.
      const float to_norm = std::sqrt(static_cast<float>(group.count)) * group.unshrink;
      for (std::size_t i = 0; i < args.n; ++i) {
        for (std::size_t k = 0; k < group.count; ++k) {
          const std::size_t at = group.begin + k;
          weighted[i * group.count + k] = coordinates[i * dim + head.order[at]] * (head.deviations[at] * to_norm);
        }
      }
      kernels::LloydPrepareQueries({group.table, group.rotation.map(), nullptr}, weighted, args.n, prepared, args.scratch);
      prepared += PreparedBytes(group, args.n);
    }
    for (std::size_t i = 0; i < args.n; ++i) {
      const SpectralGroup& first = head.groups.front();
      const std::size_t batch = i / kernels::kQueryBatch * kernels::LloydQueryBatchBytes(first.table->bits, first.count);
      auto* query_head = reinterpret_cast<kernels::QueryHead*>(args.prepared + batch);
      const float* query = args.queries + i * args.query_stride;
      float four[4] = {};
      for (std::size_t k = 0; k < dim; ++k) four[k % 4] += query[k] * head.mean[k];
      query_head->bias[i % kernels::kQueryBatch] = (four[0] + four[1]) + (four[2] + four[3]);
    }
  }

  void Score(const ScoreArgs& args) const override {
    const SpectralHead& head = blocks_.head(args.head);
    ScoreArgs own = args;
    const std::byte* scales = args.block.part[0] + blocks_.scales(head);
    for (const SpectralGroup& group : head.groups) {
      ScoreByteCodes(own, group.count, blocks_.tokens(), [&](kernels::ByteScoreArgs bytes) {
        bytes.scales = scales;
        kernels::LloydScore(*group.table, bytes);
      });
      own.add = true;
      own.next = {};
      own.block.part[0] += blocks_.group_bytes(group);
      own.prepared += PreparedBytes(group, args.n);
    }
  }

 private:
  static std::size_t PreparedBytes(const SpectralGroup& group, std::size_t n) {
    return (n + kernels::kQueryBatch - 1) / kernels::kQueryBatch *
           kernels::LloydQueryBatchBytes(group.table->bits, group.count);
  }
};

class SpectralValues final : public OfSharedBlocks<ValueCodec, SpectralBlocks> {
 public:
  explicit SpectralValues(SpectralBlocks blocks) : OfSharedBlocks(std::move(blocks)) {}

  /// Scratch: the kernel's of Accumulate, or Back's.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = blocks_.encode_scratch(),
            .decode = blocks_.decode_scratch(),
            .scratch = std::max(kernels::ByteAccumulateScratchBytes(n), blocks_.back_scratch(n))};
  }

  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override { return blocks_.coded(); }
  void Accumulate(const AccumulateArgs& args) const override {
    const SpectralHead& head = blocks_.head(args.head);
    const std::byte* scales = args.block.part[0] + blocks_.scales(head);
    AccumulateArgs own = args;
    for (const SpectralGroup& group : head.groups) {
      kernels::ByteAccumulateArgs bytes = ByteAccumulate(own, group.count, blocks_.tokens());
      bytes.scales = scales;
      kernels::LloydAccumulate(*group.table, bytes);
      own.next = {};
      own.block.part[0] += blocks_.group_bytes(group);
      own.acc += group.count;
    }
  }
  void Finish(const FinishArgs& args) const override { blocks_.Back(args); }
};

template <class Made, class Base>
Result<std::unique_ptr<Base>> MakeSide(const CodecConfig& config) {
  const std::string where = std::string(kName) + " layer " + std::to_string(config.layer) + ": ";
  if (config.head_dim < 8 || config.head_dim > kernels::kMaxTransposedDim || config.head_dim % 8 != 0) {
    return Error{ErrorCode::kUnsupported,
                 where + "head_dim " + std::to_string(config.head_dim) + " is not a multiple of 8 in 8..256"};
  }
  if (config.block_tokens == 0 || config.block_tokens % kBlockMultiple != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 where + "block_tokens " + std::to_string(config.block_tokens) + " is not a multiple of 128"};
  }
  const SpectralBits bits{config.params.Choice(kBits) == 1, static_cast<std::uint32_t>(config.params.Integer(kSignal)),
                          static_cast<std::uint32_t>(config.params.Integer(kNoise))};
  auto heads = MakeSpectralHeads(config, kName, kVersion, bits);
  if (!heads) return Error{heads.error().code, where + heads.error().message};
  return std::unique_ptr<Base>(std::make_unique<Made>(SpectralBlocks(config, *std::move(heads))));
}

constexpr std::string_view kBitsNames[] = {"signal", "map"};
constexpr std::int64_t kSignalBits[] = {1, 2, 3, 4, 8};
constexpr std::int64_t kNoiseBits[] = {0, 1, 2, 3, 4, 8};
constexpr ParamSpec kParams[] = {
    {.name = "bits",
     .kind = ParamKind::kChoice,
     .default_value = "signal",
     .meaning = "signal: two numbers of bits; map: the artifact's bits of each direction",
     .choices = kBitsNames},
    {.name = "signal",
     .default_value = "4",
     .meaning = "bits of the first directions",
     .min = 1,
     .max = 8,
     .allowed = kSignalBits},
    {.name = "noise", .default_value = "1", .meaning = "bits of the others", .min = 0, .max = 8, .allowed = kNoiseBits},
};

}  // namespace

extern const Codec kSpectral{
    .name = kName,
    .version = kVersion,
    .summary = "rows in the basis of their covariance, more bits for directions that vary more; calibrated",
    .params = kParams,
    .block_multiple = [](const Params&) { return kBlockMultiple; },
    .make_keys = MakeSide<SpectralKeys, KeyCodec>,
    .make_values = MakeSide<SpectralValues, ValueCodec>,
    .example = ExampleSpectral};

}  // namespace kvant::quantizers
