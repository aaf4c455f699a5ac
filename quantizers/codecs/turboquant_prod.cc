// turboquant_prod: turboquant_mse's codes of one bit less, and the signs of a random sketch of what they leave over, so that
// inner products are estimated without bias (TurboQuant, Zandieh et al., arXiv 2504.19874, algorithm 2).
//
//   y = Q k, codes of bits - 1 with the norm |k| as scale -> y1; r = y - y1; sign(S r), |r|
//   <q, k> is estimated by <Q q, y1> + constant |r| <S Q q, sign(S r)> (quantizers/sketch.h).
// With Gaussian S of m rows the variance of the estimate is pi/2 D(bits - 1) |q|^2 |k|^2 / m, D the squared error of the codes:
// of 4 bits at m = head_dim 0.054 of |q|^2 |k|^2 / head_dim. turboquant_mse has scales that make it unbiased, too, and 0.036 at
// 3 bits and 0.0096 at 4. So this code, with a bit and 16 bits of a row more than the better one, is for parity only, never a
// default. Orthogonal S (not in the paper) makes it 0.019. Packages that call m=64 at 128 dims the default double the variance
// once more.
//
// Block: codes of bits - 1 and ufloat16 norms as turboquant_mse lays keys out, then quantizers/sketched_signs.h with |r| in
// place of |k|: bits - 1 + (m + 32) / head_dim bits per element.
#include <algorithm>
#include <memory>

#include "kernels/lloyd/encode.h"
#include "kernels/rotation/hadamard.h"
#include "kernels/rotation/transpose.h"
#include "kernels/ufloat16.h"
#include "quantizers/lloyd_error.h"
#include "quantizers/rotated_keys.h"
#include "quantizers/sketched_signs.h"

namespace kvant::quantizers {
namespace {

using kernels::kLanes;

constexpr CodecName kCodec{"turboquant_prod", 1};

enum Param : std::size_t { kBits, kProjections, kSketch };

std::uint32_t ProjectionsOf(const Params& params, std::uint32_t head_dim) {
  const auto given = static_cast<std::uint32_t>(params.Integer(kProjections));
  return given == 0 ? head_dim : given;
}

SketchKind KindOf(const Params& params) { return static_cast<SketchKind>(params.Choice(kSketch)); }

std::uint32_t CodeBits(const Params& params) { return static_cast<std::uint32_t>(params.Integer(kBits)) - 1; }

class ProductKeys final : public RotatedKeys {
 public:
  explicit ProductKeys(const CodecConfig& config)
      : RotatedKeys(kCodec, config, *kernels::FindLloydTable(CodeBits(config.params))),
        signs_(kCodec, config, KindOf(config.params), ProjectionsOf(config.params, config.head_dim)) {}

  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return codes_bytes() + signs_.bytes(); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept override {
    return RotatedKeys::memory_bytes() + signs_.memory_bytes();
  }
  [[nodiscard]] CodecTraits traits() const noexcept override {
    // |r| <= |k| (1 + 2.2): no level is further out, of 3 bits.
    return {.largest_norm = 0.3F * kernels::kUfloat16Max};
  }
  [[nodiscard]] CodeForm form() const noexcept override { return {}; }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override {
    return RotatedLloydError(table(), static_cast<std::uint32_t>(dim()), kernels::LloydScale::kRaw) * signs_.expected_error();
  }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    Needs needs = RotatedKeys::needs(n);
    needs.encode = std::max(kernels::LloydEncodeScratchBytes(dim()), column_bytes() + signs_.encode_scratch());
    needs.decode += signs_.rows_scratch();
    needs.prepared += (n + kernels::kQueryBatch - 1) / kernels::kQueryBatch * signs_.batch_bytes();
    needs.scratch = std::max({needs.scratch, column_bytes() + signs_.prepare_scratch(), signs_.score_scratch(n)});
    return needs;
  }

  /// Scratch: LloydEncode's, or kLanes rows as columns and the sketch's.
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    const Rotation& map = rotation(args.head);
    const kernels::LloydEncoding how{.table = &table(),
                                     .shape = map.shape(),
                                     .rounds = map.rounds(),
                                     .signs = map.signs(),
                                     .layout = kernels::LloydLayout::kKeys,
                                     .scale = kernels::LloydScale::kRaw};
    const std::size_t row =
        kernels::LloydEncode(how, args.rows, reinterpret_cast<std::uint8_t*>(args.block.part[0]), args.scratch);
    if (row != args.rows.count) return BadRow(kCodec, row, args.head);
    auto* columns = reinterpret_cast<float*>(args.scratch);
    float norms[kLanes];
    for (std::size_t first = 0; first < tokens(); first += kLanes) {
      RotatedColumns(args.rows, args.head, first, kLanes, columns);
      SubtractCodes(args.block.part[0], first, columns);
      ColumnNorms(columns, dim(), norms);
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        if (!(norms[lane] < kernels::kUfloat16Overflow)) return BadRow(kCodec, first + lane, args.head);
      }
      signs_.Encode(args.head, columns, norms, first, args.block.part[0] + codes_bytes(), args.scratch + column_bytes());
    }
    return {};
  }

  void Prepare(const PrepareArgs& args) const override {
    RotatedKeys::Prepare(args);
    const RowsView queries{args.queries, ElementType::kF32, args.n, dim(), args.query_stride};
    auto* columns = reinterpret_cast<float*>(args.scratch);
    std::byte* batch = args.prepared + prepared_bytes(args.n);
    for (std::size_t first = 0; first < args.n; first += kernels::kQueryBatch, batch += signs_.batch_bytes()) {
      const std::size_t count = std::min(kernels::kQueryBatch, args.n - first);
      RotatedColumns(queries, args.head, first, count, columns);
      signs_.Prepare(args.head, columns, count, batch, args.scratch + column_bytes());
    }
  }

  void Score(const ScoreArgs& args) const override {
    RotatedKeys::Score(args);
    ScoreArgs signs = args;
    signs.block.part[0] += codes_bytes();
    signs.prepared += prepared_bytes(args.n);
    signs.add = true;
    signs.next = {};
    signs_.Score(signs);
  }

 protected:
  void RotatedRows(const DecodeArgs& args, std::size_t begin, std::size_t count, float* rows,
                   std::byte* scratch) const override {
    RotatedKeys::RotatedRows(args, begin, count, rows, scratch);
    signs_.AddRows(args.head, args.block.part[0] + codes_bytes(), begin, count, rows, scratch);
  }

 private:
  [[nodiscard]] std::size_t column_bytes() const noexcept { return kernels::RotationScratchBytes(dim()); }

  /// Q times rows first.., in columns.
  void RotatedColumns(const RowsView& rows, std::size_t head, std::size_t first, std::size_t count, float* columns) const {
    const Rotation& map = rotation(head);
    kernels::LoadColumns(rows, first, count, columns);
    kernels::Hadamard(map.shape(), map.rounds(), map.signs(), columns);
    const auto factor = static_cast<float>(1.0 / map.shape().gain(map.rounds()));
    for (std::size_t i = 0; i < dim() * kLanes; ++i) columns[i] *= factor;
  }

  void SubtractCodes(const std::byte* block, std::size_t first, float* columns) const {
    const auto* codes = reinterpret_cast<const std::uint8_t*>(block);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const float factor = ScaleAt(block, first + lane) * level();
      for (std::size_t i = 0; i < dim(); ++i) {
        const auto index =
            kernels::LloydIndexAt(kernels::LloydLayout::kKeys, table().bits, dim(), tokens(), codes, first + lane, i);
        columns[i * kLanes + lane] -= static_cast<float>(table().Centroid(index)) * factor;
      }
    }
  }

  SketchedSigns signs_;
};

Result<std::unique_ptr<KeyCodec>> MakeProductKeys(const CodecConfig& config) {
  if (auto ok = CheckRotatedShape(kCodec, config, 1); !ok) return ok.error();  // of one bit: the signs' blocks are the largest
  if (auto ok = CheckProjections(kCodec, config, ProjectionsOf(config.params, config.head_dim)); !ok) return ok.error();
  return std::unique_ptr<KeyCodec>(std::make_unique<ProductKeys>(config));
}

constexpr ParamSpec kParams[] = {
    {.name = "bits", .default_value = "4", .meaning = "one of a sign and the rest of a code", .min = 2, .max = 4},
    {.name = "m",
     .default_value = "0",
     .meaning = "projections, a multiple of 8; 0 is head_dim, fewer than that is for parity only",
     .min = 0,
     .max = kMaxProjections},
    {.name = "sketch",
     .kind = ParamKind::kChoice,
     .default_value = "orthogonal",
     .meaning = "rows of the projection; gaussian is the paper's",
     .choices = kSketchNames},
};

}  // namespace

extern const Codec kTurboQuantProd{
    .name = kCodec.name,
    .version = kCodec.version,
    .summary = "codes of keys and signs of a sketch of their rest, for parity: turboquant_mse of a bit less is better",
    .params = kParams,
    .block_multiple = [](const Params&) { return kernels::LloydBlockMultiple(1); },
    .make_keys = MakeProductKeys,
    .head_bytes =
        [](const Params& params, std::uint32_t head_dim) {
          return kHeadBytesPerNumber * head_dim + Sketch::MostBytes(KindOf(params), head_dim, ProjectionsOf(params, head_dim));
        },
};

}  // namespace kvant::quantizers
