// qjl: the signs of a random sketch of each key and its norm (QJL: Zandieh et al., arXiv 2406.03482): one bit per projection.
//
//   k -> sign(S k), |k|;  <q, k> is estimated by constant |k| <S q, sign(S k)>, without bias over S (quantizers/sketch.h).
// With Gaussian S the estimate's variance is (pi/2 |q|^2 |k|^2 - <q, k>^2) / m over S. With orthogonal S (the default) it is
// 0.57 |q|^2 |k|^2 / m at m = head_dim, that of turboquant_mse:bits=1: signs of a rotated row are what both keep. At m = 2
// head_dim the error is 0.28 of a key's square; turboquant_mse:bits=2, of the same size, has 0.13. So qjl is for who must
// compare with it. m below head_dim loses more than it saves, and is there for parity with packages whose default it is.
//
// Keys that read back do so as constant |k| S' sign(S k), of which scores are inner products. The published code also treats a
// few channels of large size apart; here that is what an outlier codec around this one does.
//
// Block: quantizers/sketched_signs.h. (m + 16) / head_dim bits per element.
#include <algorithm>
#include <memory>

#include "kernels/rotation/transpose.h"
#include "kernels/ufloat16.h"
#include "quantizers/sketched_signs.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {
namespace {

using kernels::kLanes;

constexpr CodecName kCodec{"qjl", 1};

enum Param : std::size_t { kProjections, kSketch };

std::uint32_t ProjectionsOf(const Params& params, std::uint32_t head_dim) {
  const auto given = static_cast<std::uint32_t>(params.Integer(kProjections));
  return given == 0 ? 2 * head_dim : given;
}

SketchKind KindOf(const Params& params) { return static_cast<SketchKind>(params.Choice(kSketch)); }

class SignKeys final : public KeyCodec {
 public:
  explicit SignKeys(const CodecConfig& config)
      : dim_(config.head_dim),
        tokens_(config.block_tokens),
        projections_(ProjectionsOf(config.params, config.head_dim)),
        signs_(kCodec, config, KindOf(config.params), static_cast<std::uint32_t>(projections_)) {}

  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return signs_.bytes(); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept override { return signs_.memory_bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return {.largest_norm = 0.99F * kernels::kUfloat16Max}; }
  [[nodiscard]] CodeForm form() const noexcept override {
    return {.family = CodeFamily::kSigns,
            .order = CodeOrder::kKeyTiles,
            .bits = 1,
            .scale_format = ScaleFormat::kUfloat16,
            .scale_offset = kernels::LloydCodesBytes(1, projections_, tokens_)};
  }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return signs_.expected_error(); }
  /// All but Score's begin with kLanes rows, as columns or decoded.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = row_bytes() + signs_.encode_scratch(),
            .decode = row_bytes() + signs_.rows_scratch(),
            .prepared = (n + kernels::kQueryBatch - 1) / kernels::kQueryBatch * signs_.batch_bytes(),
            .scratch = std::max(row_bytes() + signs_.prepare_scratch(), signs_.score_scratch(n))};
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    auto* columns = reinterpret_cast<float*>(args.scratch);
    float norms[kLanes];
    for (std::size_t first = 0; first < tokens_; first += kLanes) {
      kernels::LoadColumns(args.rows, first, kLanes, columns);
      ColumnNorms(columns, dim_, norms);
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        if (!(norms[lane] < kernels::kUfloat16Overflow)) return BadRow(kCodec, first + lane, args.head);
      }
      signs_.Encode(args.head, columns, norms, first, args.block.part[0], args.scratch + row_bytes());
    }
    return {};
  }

  void Decode(const DecodeArgs& args) const override {
    auto* rows = reinterpret_cast<float*>(args.scratch);
    for (std::size_t begin = args.begin; begin < args.end; begin += kLanes) {
      const std::size_t count = std::min(kLanes, args.end - begin);
      std::fill_n(rows, count * dim_, 0.0F);
      signs_.AddRows(args.head, args.block.part[0], begin, count, rows, args.scratch + row_bytes());
      PutRows(rows, count, dim_, args.rows + (begin - args.begin) * args.row_stride, args.row_stride, args.add);
    }
  }

  void Prepare(const PrepareArgs& args) const override {
    const RowsView queries{args.queries, ElementType::kF32, args.n, dim_, args.query_stride};
    auto* columns = reinterpret_cast<float*>(args.scratch);
    std::byte* batch = args.prepared;
    for (std::size_t first = 0; first < args.n; first += kernels::kQueryBatch, batch += signs_.batch_bytes()) {
      const std::size_t count = std::min(kernels::kQueryBatch, args.n - first);
      kernels::LoadColumns(queries, first, count, columns);
      signs_.Prepare(args.head, columns, count, batch, args.scratch + row_bytes());
    }
  }
  void Score(const ScoreArgs& args) const override { signs_.Score(args); }

 private:
  [[nodiscard]] std::size_t row_bytes() const noexcept { return kLanes * dim_ * sizeof(float); }

  std::size_t dim_;
  std::size_t tokens_;
  std::size_t projections_;
  SketchedSigns signs_;
};

Result<std::unique_ptr<KeyCodec>> MakeSignKeys(const CodecConfig& config) {
  if (auto ok = CheckRotatedShape(kCodec, config, 1); !ok) return ok.error();
  if (auto ok = CheckProjections(kCodec, config, ProjectionsOf(config.params, config.head_dim)); !ok) return ok.error();
  return std::unique_ptr<KeyCodec>(std::make_unique<SignKeys>(config));
}

constexpr ParamSpec kParams[] = {
    {.name = "m",
     .default_value = "0",
     .meaning = "projections, a multiple of 8; 0 is 2 head_dim, fewer than head_dim is for parity only",
     .min = 0,
     .max = kMaxProjections},
    {.name = "sketch",
     .kind = ParamKind::kChoice,
     .default_value = "orthogonal",
     .meaning = "rows of the projection; gaussian is the paper's",
     .choices = kSketchNames},
};

}  // namespace

extern const Codec kQjl{
    .name = kCodec.name,
    .version = kCodec.version,
    .summary = "keys as signs of a random sketch; turboquant_mse is better at the same size",
    .params = kParams,
    .block_multiple = [](const Params&) { return kernels::LloydBlockMultiple(1); },
    .make_keys = MakeSignKeys,
    .head_bytes =
        [](const Params& params, std::uint32_t head_dim) {
          return Sketch::MostBytes(KindOf(params), head_dim, ProjectionsOf(params, head_dim));
        },
};

}  // namespace kvant::quantizers
