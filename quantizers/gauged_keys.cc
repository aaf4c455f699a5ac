#include "quantizers/gauged_keys.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "kernels/gauge/gauge.h"
#include "kernels/matrix/matrix.h"
#include "kernels/raw/rows.h"
#include "quantizers/block_gains.h"
#include "quantizers/calibrated_gauge.h"
#include "quantizers/decoded_rows.h"
#include "quantizers/scratch.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {
namespace {

class GaugedKeys final : public KeyCodec {
 public:
  GaugedKeys(GaugeKind kind, const CodecConfig& config, std::unique_ptr<KeyCodec> inner)
      : kind_(kind),
        dim_(config.head_dim),
        tokens_(config.block_tokens),
        exact_rows_(config.exact_rows),
        inner_(std::move(inner)) {}

  /// [kv_heads, dim, dim] of the artifact.
  void set_matrices(const GaugeMatrices& matrices) {
    gauge_ = matrices.gauge;
    inverse_ = matrices.inverse;
    double longest = 0;  // of the matrices' Frobenius norms, which no row is stretched more than
    for (std::size_t first = 0; first < gauge_.size(); first += dim_ * dim_) {
      double squares = 0;
      for (const float number : gauge_.subspan(first, dim_ * dim_)) squares += double{number} * double{number};
      longest = std::max(longest, std::sqrt(squares));
    }
    stretch_ = static_cast<float>(2 * longest);
  }

  /// [kv_heads, dim] of the artifact, positive.
  void set_pair_gains(std::span<const float> gains) {
    pair_gains_ = gains;
    const float least = *std::ranges::min_element(gains);
    stretch_ = 2.0F / std::min(least, 1.0F);
  }

  [[nodiscard]] std::size_t parts() const noexcept override { return inner_->parts(); }
  [[nodiscard]] std::size_t part_bytes(std::size_t part) const noexcept override {
    return inner_->part_bytes(part) + (part == 0 ? gauge_bytes() : 0);
  }
  [[nodiscard]] std::size_t memory_bytes() const noexcept override { return sizeof(*this) + inner_->memory_bytes(); }
  [[nodiscard]] bool pre_rope() const noexcept override { return inner_->pre_rope(); }
  [[nodiscard]] CodecTraits traits() const noexcept override {
    CodecTraits traits = inner_->traits();
    traits.rows_alone = false;
    traits.exact_zero = false;  // beside other rows, zeros differ from the mean
    traits.largest_norm = std::min(traits.largest_norm / stretch_, FLT_MAX / 4);
    return traits;
  }
  [[nodiscard]] CodeForm form() const noexcept override {
    CodeForm form = inner_->form();
    form.centered = true;
    form.mean_offset = inner_->part_bytes(0);
    form.gain_offset = gained() ? form.mean_offset + dim_ * sizeof(std::uint16_t) : 0;
    return form;
  }
  /// Of normal rows: their mean takes one of block_tokens degrees of freedom with it. How much a calibration changes is not
  /// known, nor what gains take off that follow the block's own rows.
  [[nodiscard]] std::optional<double> expected_error(std::size_t parts) const override {
    if (calibrated() || kind_ == GaugeKind::kChannels) return std::nullopt;
    const std::optional<double> inner = inner_->expected_error(parts);
    if (!inner) return std::nullopt;
    return *inner * (1.0 - 1.0 / static_cast<double>(tokens_));
  }

  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const Needs inner = inner_->needs(n);
    Needs needs;
    needs.encode = 2 * FloatBytes(tokens_ * dim_) + FloatBytes(3 * dim_) + inner.encode;
    needs.decode = FloatBytes(2 * dim_) + inner.decode;
    needs.prepared = Kept::Bytes(*this, n) + inner.prepared;
    needs.scratch = FloatBytes(n) + inner.scratch;
    return needs;
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    Pieces pieces(args.scratch);
    float* rows = pieces.Floats(tokens_ * dim_);
    const std::size_t bad = LoadFiniteRows(args.rows, rows);
    if (bad != args.rows.count) {
      return Error{ErrorCode::kNotFinite, "encode keys around the mean of their block: row " + std::to_string(bad) +
                                              " of KV head " + std::to_string(args.head) + " holds NaN or infinity"};
    }
    const kernels::BlockGauge gauge = Measure(args, rows, pieces.Floats(3 * dim_));
    kernels::ApplyGauge(gauge, dim_, tokens_, rows);
    // Nobody reads the codes of rows that the store keeps exactly; far from the others, they must not decide anything.
    std::fill_n(rows, ExactRows(args) * dim_, 0.0f);
    if (kind_ == GaugeKind::kMatrix) {
      float* turned = pieces.Floats(tokens_ * dim_);
      Times(gauge_, args.head, rows, dim_, tokens_, turned);
      rows = turned;
    } else if (kind_ == GaugeKind::kPair) {
      const float* gains = pair_gains_.data() + args.head * dim_;
      for (std::size_t i = 0; i < tokens_ * dim_; ++i) rows[i] /= gains[i % dim_];
    }
    EncodeArgs coded = args;
    coded.rows = {rows, ElementType::kF32, tokens_, dim_, dim_};
    coded.scratch = pieces.rest();
    return inner_->Encode(coded);
  }

  /// Scratch: two rows, then the inner codec's.
  void Decode(const DecodeArgs& args) const override {
    const kernels::BlockGauge gauge = GaugeOf(args.block);
    Pieces pieces(args.scratch);
    float* row = pieces.Floats(2 * dim_);
    float* turned = row + dim_;
    DecodeThrough(*inner_, args, dim_, row, pieces.rest(), [&](std::size_t, float* decoded) {
      if (kind_ == GaugeKind::kMatrix) {
        Times(inverse_, args.head, decoded, dim_, 1, turned);
        std::copy_n(turned, dim_, decoded);
      } else if (kind_ == GaugeKind::kPair) {
        TimesGains(args.head, decoded, dim_, 1, decoded);
      }
      kernels::RemoveGauge(gauge, dim_, 1, decoded, dim_);
    });
  }

  void Prepare(const PrepareArgs& args) const override {
    Kept kept(*this, args.prepared, args.n);
    PrepareArgs coded = args;
    coded.prepared = kept.inner;
    if (gained()) {  // when the first block comes
      *kept.known = false;
      return;
    }
    if (kind_ == GaugeKind::kMatrix) {
      Times(inverse_, args.head, args.queries, args.query_stride, args.n, kept.queries);
    } else if (kind_ == GaugeKind::kPair) {
      TimesGains(args.head, args.queries, args.query_stride, args.n, kept.queries);
    }
    if (kept.queries != nullptr) {
      coded.queries = kept.queries;
      coded.query_stride = dim_;
    }
    inner_->Prepare(coded);
  }

  void Score(const ScoreArgs& args) const override {
    const kernels::BlockGauge gauge = GaugeOf(args.block);
    Pieces pieces(args.scratch);
    float* bias = pieces.Floats(args.n);
    kernels::DotsWithMean(gauge, dim_, args.queries, args.query_stride, args.n, bias);
    Kept kept(*this, args.prepared, args.n);
    if (gained() && (!*kept.known || std::memcmp(kept.gains, gauge.gains, dim_) != 0)) {
      kernels::ScaleQueries(gauge, dim_, args.queries, args.query_stride, args.n, kept.queries);
      inner_->Prepare({args.head, kept.queries, dim_, args.n, kept.inner, pieces.rest()});
      std::memcpy(kept.gains, gauge.gains, dim_);
      *kept.known = true;
    }
    ScoreArgs coded = args;
    coded.prepared = kept.inner;
    coded.scratch = pieces.rest();
    if (kept.queries != nullptr) {  // an inner codec may read them, too
      coded.queries = kept.queries;
      coded.query_stride = dim_;
    }
    inner_->Score(coded);
    kernels::AddToRows(args.logits, args.stride, args.n, tokens_, bias);
  }

 private:
  /// Where what is prepared lies: queries in the codes' coordinates, which a mean alone leaves as they are, and what the inner
  /// codec makes of them. With gains, those of the block before: most blocks have the same ones, and so the same queries.
  struct Kept {
    bool* known;
    std::byte* gains;
    float* queries;  ///< [n, dim], or null
    std::byte* inner;

    Kept(const GaugedKeys& codec, std::byte* prepared, std::size_t n) {
      Pieces pieces(prepared);
      const bool gained = codec.gained();
      known = gained ? reinterpret_cast<bool*>(pieces.Bytes(sizeof(bool))) : nullptr;
      gains = gained ? pieces.Bytes(codec.dim_) : nullptr;
      queries = codec.kind_ == GaugeKind::kMean ? nullptr : pieces.Floats(n * codec.dim_);
      inner = pieces.rest();
    }
    static std::size_t Bytes(const GaugedKeys& codec, std::size_t n) noexcept {
      const bool gained = codec.gained();
      return (gained ? Aligned(sizeof(bool)) + Aligned(codec.dim_) : 0) +
             (codec.kind_ == GaugeKind::kMean ? 0 : FloatBytes(n * codec.dim_));
    }
  };

  [[nodiscard]] std::size_t gauge_bytes() const noexcept { return dim_ * sizeof(std::uint16_t) + (gained() ? dim_ : 0); }
  /// n rows times the head's matrix, adjacent.
  void Times(std::span<const float> matrices, std::size_t head, const float* rows, std::size_t stride, std::size_t n,
             float* out) const {
    kernels::RowsTimesMatrix(
        {.matrix = matrices.data() + head * dim_ * dim_, .dim = dim_, .rows = rows, .stride = stride, .n = n, .out = out});
  }
  /// n rows times the head's pair gains, adjacent; `out` may be `rows`.
  void TimesGains(std::size_t head, const float* rows, std::size_t stride, std::size_t n, float* out) const {
    const float* gains = pair_gains_.data() + head * dim_;
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t d = 0; d < dim_; ++d) out[i * dim_ + d] = rows[i * stride + d] * gains[d];
    }
  }
  [[nodiscard]] bool gained() const noexcept { return kind_ == GaugeKind::kGains || kind_ == GaugeKind::kChannels; }
  [[nodiscard]] bool calibrated() const noexcept { return kind_ == GaugeKind::kMatrix || kind_ == GaugeKind::kPair; }
  [[nodiscard]] std::size_t ExactRows(const EncodeArgs& args) const {
    return args.first_position == 0 ? std::min(exact_rows_, tokens_) : 0;
  }
  [[nodiscard]] kernels::BlockGauge GaugeOf(const ConstBlockView& block) const {
    const std::byte* at = block.part[0] + inner_->part_bytes(0);
    return {reinterpret_cast<const std::uint16_t*>(at),
            gained() ? reinterpret_cast<const std::uint8_t*>(at + dim_ * sizeof(std::uint16_t)) : nullptr};
  }

  /// Writes the block's gauge. Scratch: three rows.
  kernels::BlockGauge Measure(const EncodeArgs& args, const float* rows, float* scratch) const {
    std::size_t skipped = ExactRows(args);
    if (skipped == tokens_) skipped = 0;
    rows += skipped * dim_;
    const std::size_t n = tokens_ - skipped;
    std::byte* at = args.block.part[0] + inner_->part_bytes(0);
    auto* mean = reinterpret_cast<std::uint16_t*>(at);
    kernels::MeanOfRows(rows, n, dim_, scratch);
    // What f16 rounds away stays in the rows.
    for (std::size_t d = 0; d < dim_; ++d) scratch[d] = std::clamp(scratch[d], -kLargestF16, kLargestF16);
    kernels::StoreRow(scratch, dim_, ElementType::kF16, mean);
    std::uint8_t* gains = nullptr;
    if (gained()) {
      gains = reinterpret_cast<std::uint8_t*>(at + dim_ * sizeof(std::uint16_t));
      kernels::SpreadOfRows(rows, n, dim_, mean, scratch);
      const auto choose = kind_ == GaugeKind::kChannels ? ChooseGainsOfAll : ChooseGainsOfLoud;
      choose({scratch, dim_}, {scratch + dim_, dim_}, gains);
    }
    return {mean, gains};
  }

  static constexpr float kLargestF16 = 65504.0f;

  GaugeKind kind_;
  std::size_t dim_;
  std::size_t tokens_;
  std::size_t exact_rows_;
  float stretch_ = 2.0F;  ///< how much longer than all rows a row may become: without its mean, twice
  std::unique_ptr<KeyCodec> inner_;
  std::span<const float> gauge_;
  std::span<const float> inverse_;
  std::span<const float> pair_gains_;
};

}  // namespace

Result<std::unique_ptr<KeyCodec>> MakeGaugedKeys(GaugeKind kind, const CodecConfig& config, std::unique_ptr<KeyCodec> inner) {
  auto keys = std::make_unique<GaugedKeys>(kind, config, std::move(inner));
  if (kind == GaugeKind::kMatrix) {
    auto matrices = FindGaugeMatrices(config);
    if (!matrices) return std::move(matrices).error();
    keys->set_matrices(*matrices);
  } else if (kind == GaugeKind::kPair) {
    auto gains = FindPairGains(config);
    if (!gains) return std::move(gains).error();
    keys->set_pair_gains(*gains);
  }
  return std::unique_ptr<KeyCodec>(std::move(keys));
}

Result<std::unique_ptr<KeyCodec>> MakeKeysBehind(GaugeChoice choice, const CodecConfig& config,
                                                 std::unique_ptr<KeyCodec> keys) {
  if (choice == GaugeChoice::kNone) return keys;
  const GaugeKind kind = choice == GaugeChoice::kMean       ? GaugeKind::kMean
                         : choice == GaugeChoice::kBlock    ? GaugeKind::kGains
                         : choice == GaugeChoice::kChannels ? GaugeKind::kChannels
                                                            : GaugeKind::kMatrix;
  return MakeGaugedKeys(kind, config, std::move(keys));
}

Error GaugeIsOfKeys(std::string_view codec, GaugeChoice choice) {
  return Error{ErrorCode::kUnsupported, std::string(codec) + ": gauge=" +
                                            std::string(kGaugeNames[static_cast<std::size_t>(choice)]) + " is of keys alone"};
}

}  // namespace kvant::quantizers
