#include "quantizers/gauged_keys.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/gauge/gauge.h"
#include "kernels/matrix/matrix.h"
#include "kernels/raw/rows.h"
#include "quantizers/artifact.h"
#include "quantizers/decoded_rows.h"
#include "quantizers/rope_pairs.h"
#include "quantizers/scratch.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {
namespace {

std::string GaugeTensor(const CodecConfig& config, const char* what) {
  return "layers." + std::to_string(config.layer) + ".keys." + what;
}

/// Gains of channels from their mean squares: 1 for most; for a channel whose root mean square r is above twice the median
/// channel's, the square root of r / (2 median), to the nearest power of two. Measured on real models, stronger or finer gains
/// are not better (tools/bench/README.md), and so few and so coarse ones are mostly the same in the next block.
void ChooseGains(std::span<const float> squares, std::span<float> scratch, std::uint8_t* gains) {
  std::ranges::copy(squares, scratch.begin());
  const auto middle = scratch.begin() + static_cast<std::ptrdiff_t>((scratch.size() - 1) / 2);
  std::nth_element(scratch.begin(), middle, scratch.end());
  const float median = *middle, largest = *std::max_element(middle, scratch.end());
  const float base = std::max(4 * median, largest * 0x1p-56f);  // gains end at 2^14 even where most channels are constant
  for (std::size_t i = 0; i < squares.size(); ++i) {
    // log2 of the gain is a quarter of log2(ratio), rounded: the exponent of the ratio decides.
    const float ratio = squares[i] > base ? squares[i] / base : 1.0f;
    const int power = (std::ilogb(ratio) + 2) / 4;
    gains[i] = kernels::GainByte(std::ldexp(1.0f, power));
  }
}

/// The same of all channels, as fine as bytes are: the square root of r / base, the base 1/256 of the median channel's, so that
/// no row grows; channels below that are as it. Right for two bits, where loud channels drown the others (tools/docs/adr/0050).
void ChooseFineGains(std::span<const float> squares, std::span<float> scratch, std::uint8_t* gains) {
  std::ranges::copy(squares, scratch.begin());
  const auto middle = scratch.begin() + static_cast<std::ptrdiff_t>((scratch.size() - 1) / 2);
  std::nth_element(scratch.begin(), middle, scratch.end());
  const float median = *middle, largest = *std::max_element(middle, scratch.end());
  const float base = std::max(median * 0x1p-16f, largest * 0x1p-56f);
  for (std::size_t i = 0; i < squares.size(); ++i) {
    const float ratio = squares[i] > base ? squares[i] / base : 1.0f;
    gains[i] = kernels::GainByte(std::sqrt(std::sqrt(ratio)));
  }
}

class GaugedKeys final : public KeyCodec {
 public:
  GaugedKeys(GaugeKind kind, const CodecConfig& config, std::unique_ptr<KeyCodec> inner)
      : kind_(kind),
        dim_(config.head_dim),
        tokens_(config.block_tokens),
        exact_rows_(config.exact_rows),
        inner_(std::move(inner)) {}

  /// [kv_heads, dim, dim] of the artifact.
  void set_matrices(std::span<const float> gauge, std::span<const float> inverse) {
    gauge_ = gauge;
    inverse_ = inverse;
    double longest = 0;  // of the matrices' Frobenius norms, which no row is stretched more than
    for (std::size_t first = 0; first < gauge.size(); first += dim_ * dim_) {
      double squares = 0;
      for (const float number : gauge.subspan(first, dim_ * dim_)) squares += double{number} * double{number};
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
      const auto choose = kind_ == GaugeKind::kChannels ? ChooseFineGains : ChooseGains;
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

/// Whether x S is x G in the order of the other axis, and x G S is x, for a vector x and every head: cheap, and no wrong tensor
/// passes.
Result<void> CheckGauge(const CodecConfig& config, std::span<const float> gauge, std::span<const float> inverse) {
  const std::size_t dim = config.head_dim;
  for (std::size_t head = 0; head < config.kv_heads; ++head) {
    const float* g = gauge.data() + head * dim * dim;
    const float* s = inverse.data() + head * dim * dim;
    for (const float* matrix : {g, s}) {
      float largest = 0.0f;
      for (std::size_t i = 0; i < dim * dim; ++i) largest = std::max(largest, std::fabs(matrix[i]));
      for (std::size_t i = 0; i < dim; ++i) {
        for (std::size_t j = 0; j < i; ++j) {
          if (!(std::fabs(matrix[i * dim + j] - matrix[j * dim + i]) <= 1e-4f * largest)) {
            return Error{ErrorCode::kInvalidArgument, GaugeTensor(config, matrix == g ? "gauge" : "gauge_inverse") +
                                                          " of KV head " + std::to_string(head) + " is not symmetric"};
          }
        }
      }
    }
    std::vector<double> once(dim), back(dim);
    double wrong = 0;
    for (std::size_t i = 0; i < dim; ++i) {
      for (std::size_t j = 0; j < dim; ++j) once[j] += (i % 2 == 0 ? 1.0 : -1.0) * static_cast<double>(g[i * dim + j]);
    }
    for (std::size_t i = 0; i < dim; ++i) {
      for (std::size_t j = 0; j < dim; ++j) back[j] += once[i] * static_cast<double>(s[i * dim + j]);
    }
    for (std::size_t j = 0; j < dim; ++j) wrong = std::max(wrong, std::fabs(back[j] - (j % 2 == 0 ? 1.0 : -1.0)));
    if (!(wrong <= 0.01)) {
      return Error{ErrorCode::kInvalidArgument, GaugeTensor(config, "gauge_inverse") + " of KV head " + std::to_string(head) +
                                                    " is not the inverse of " + GaugeTensor(config, "gauge")};
    }
  }
  return {};
}

/// A tensor that the gauge `kind` needs.
Result<std::span<const float>> FindTensor(const CodecConfig& config, const char* kind, const char* what,
                                          std::initializer_list<std::size_t> shape) {
  const std::string name = GaugeTensor(config, what), gauge = std::string("gauge=") + kind;
  if (config.artifact == nullptr) {
    return Error{ErrorCode::kInvalidArgument, gauge + " needs tensor " + name + ", but the plan has no artifact"};
  }
  auto found = config.artifact->Find(name, shape);
  if (!found) return Error{found.error().code, gauge + ": " + found.error().message};
  return found;
}

/// That gains are positive, of a size that leaves floats in range, and RoPE can turn what they have changed.
Result<void> CheckPairGains(const CodecConfig& config, std::span<const float> gains) {
  const auto places = PlanarPlaces(config.rope, config.head_dim);
  for (std::size_t head = 0; head < config.kv_heads; ++head) {
    const float* of = gains.data() + head * config.head_dim;
    const std::string where = GaugeTensor(config, "pair_gains") + " of KV head " + std::to_string(head);
    for (std::size_t d = 0; d < config.head_dim; ++d) {
      if (!(of[d] >= 1e-6F && of[d] <= 1e6F)) {
        return Error{ErrorCode::kInvalidArgument,
                     where + ", channel " + std::to_string(d) + ": " + std::to_string(of[d]) + " is not between 1e-6 and 1e6"};
      }
    }
    if (config.rope.pairing == RopePairing::kNone) continue;
    for (std::size_t p = 0; p < TurnedPairs(config.rope, config.head_dim); ++p) {
      if (of[places[p]] != of[places[config.head_dim / 2 + p]]) {
        return Error{ErrorCode::kInvalidArgument, where + " has two gains for channels " + std::to_string(places[p]) + " and " +
                                                      std::to_string(places[config.head_dim / 2 + p]) +
                                                      ", which RoPE turns as a pair"};
      }
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<KeyCodec>> MakeGaugedKeys(GaugeKind kind, const CodecConfig& config, std::unique_ptr<KeyCodec> inner) {
  auto keys = std::make_unique<GaugedKeys>(kind, config, std::move(inner));
  const std::size_t heads = config.kv_heads, dim = config.head_dim;
  if (kind == GaugeKind::kMatrix) {
    auto gauge = FindTensor(config, "matrix", "gauge", {heads, dim, dim});
    if (!gauge) return std::move(gauge).error();
    auto inverse = FindTensor(config, "matrix", "gauge_inverse", {heads, dim, dim});
    if (!inverse) return std::move(inverse).error();
    if (auto ok = CheckGauge(config, *gauge, *inverse); !ok) return std::move(ok).error();
    keys->set_matrices(*gauge, *inverse);
  } else if (kind == GaugeKind::kPair) {
    auto gains = FindTensor(config, "pair", "pair_gains", {heads, dim});
    if (!gains) return std::move(gains).error();
    if (auto ok = CheckPairGains(config, *gains); !ok) return std::move(ok).error();
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

std::vector<ExampleTensor> ExamplePairGains(const CodecConfig& config) {
  const std::size_t dim = config.head_dim;
  const auto places = PlanarPlaces(config.rope, dim);
  std::vector<float> gains(config.kv_heads * dim);
  for (std::size_t head = 0; head < config.kv_heads; ++head) {
    for (std::size_t p = 0; p < dim / 2; ++p) {
      const float gain = 0.5F * static_cast<float>(1 + (p + head) % 5);
      gains[head * dim + places[p]] = gains[head * dim + places[dim / 2 + p]] = gain;
    }
  }
  return {{GaugeTensor(config, "pair_gains"), {config.kv_heads, dim}, std::move(gains)}};
}

std::vector<ExampleTensor> ExampleGauge(const CodecConfig& config) {
  const std::size_t dim = config.head_dim;
  std::vector<float> gauge(config.kv_heads * dim * dim), inverse(gauge.size());
  for (std::size_t head = 0; head < config.kv_heads; ++head) {
    // Pairs of channels mixed: [[a, b], [b, a]] and its inverse [[a, -b], [-b, a]] / (a a - b b).
    for (std::size_t i = 0; i < dim; i += 2) {
      const float a = 1.0F + static_cast<float>((i / 2 + head) % 4), b = 0.5F;
      const float det = a * a - b * b;
      const std::size_t at = head * dim * dim + i * dim + i;
      gauge[at] = gauge[at + dim + 1] = a;
      gauge[at + 1] = gauge[at + dim] = b;
      inverse[at] = inverse[at + dim + 1] = a / det;
      inverse[at + 1] = inverse[at + dim] = -b / det;
    }
  }
  const std::vector<std::size_t> shape{config.kv_heads, dim, dim};
  return {{GaugeTensor(config, "gauge"), shape, std::move(gauge)},
          {GaugeTensor(config, "gauge_inverse"), shape, std::move(inverse)}};
}

}  // namespace kvant::quantizers
