// Row x: scale s = max|x| / 7 as ufloat16, codes c = round(x / s) + 8 in 1..15, x' = s * (c - 8).
// Block: codes, two to a byte, in the order that the kernels of byte codes multiply in (kernels/bytes/expander-inl.h): keys in
// tiles of 32 tokens, values in tiles of 8; then a ufloat16 scale per token. Its fast path is toy_nibbles-inl.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "kernels/bytes/attend.h"
#include "kernels/bytes/queries.h"
#include "kernels/ufloat16.h"
#include "quantizers/byte_codes.h"
#include "quantizers/strided_rows.h"
#include "tests/quantizers/toy_arithmetic.h"
#include "tests/quantizers/toy_codecs.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/quantizers/toy_nibbles.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/bytes/accumulate-inl.h"
#include "kernels/bytes/score-inl.h"
#include "tests/quantizers/toy_nibbles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::quantizers::test::HWY_NAMESPACE {

template <class Args>
const std::uint16_t* ScalesOf(const Args& args) {
  return reinterpret_cast<const std::uint16_t*>(args.block + args.tokens * args.dim / 2);
}

void ScoreNibbles(const kernels::ByteScoreArgs& args) {
  const NibbleExpander expander{reinterpret_cast<const std::uint8_t*>(args.block), 16 * args.dim};
  const kernels::HWY_NAMESPACE::QueryBatches queries{args.prepared, args.dim / 4};
  kernels::HWY_NAMESPACE::Score(expander, queries, ScalesOf(args), args);
}

void AccumulateNibbles(const kernels::ByteAccumulateArgs& args) {
  const NibbleExpander expander{reinterpret_cast<const std::uint8_t*>(args.block), 4 * args.dim};
  kernels::HWY_NAMESPACE::Accumulate(expander, ScalesOf(args), args);
}

}  // namespace kvant::quantizers::test::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::quantizers::test {
namespace {

HWY_EXPORT(ScoreNibbles);
HWY_EXPORT(AccumulateNibbles);

constexpr float kLargestNumber = 6.0F * kernels::kUfloat16Max;

/// The format, of either side.
class Nibbles {
 public:
  explicit Nibbles(const CodecConfig& config)
      : lane_tokens_(config.side == Side::kKeys ? 16 : 4), dim_(config.head_dim), tokens_(config.block_tokens) {}

  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return dim_ * sizeof(float); }
  [[nodiscard]] std::size_t bytes() const noexcept { return tokens_ * dim_ / 2 + tokens_ * sizeof(std::uint16_t); }
  [[nodiscard]] static CodecTraits traits() noexcept { return {.largest_norm = kLargestNumber}; }

  /// Uniform over a step of max|x| / 7, but for the largest number, whose code is exact.
  [[nodiscard]] double expected_error() const {
    const auto d = static_cast<double>(dim_);
    constexpr double kStep = 1.0 / 256;
    double largest_squared = 0;  // the integral of 2 x P(max|x| > x)
    for (double x = kStep / 2; x < 9; x += kStep)
      largest_squared += 2 * x * (1 - std::pow(std::erf(x / std::sqrt(2.0)), d)) * kStep;
    return (d - 1) / d * largest_squared / (12.0 * 7 * 7);
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const {
    auto* row = reinterpret_cast<float*>(args.scratch);
    std::byte* block = args.block.part[0];
    std::fill_n(block, tokens_ * dim_ / 2, std::byte{});
    for (std::size_t t = 0; t < tokens_; ++t) {
      const float largest = LoadRowOf(args.rows, t, row);
      if (!(largest <= kLargestNumber)) {
        return Error{ErrorCode::kNotFinite, "row " + std::to_string(t) + " is not finite or too large"};
      }
      const std::uint16_t bits = kernels::FloatToUfloat16(largest / 7.0F);
      std::memcpy(block + tokens_ * dim_ / 2 + t * sizeof(bits), &bits, sizeof(bits));
      const float scale = kernels::Ufloat16ToFloat(bits);
      for (std::size_t k = 0; k < dim_; ++k) {
        const float level = scale > 0 ? std::clamp(std::nearbyint(row[k] / scale), -7.0F, 7.0F) : 0.0F;
        const Place at = PlaceOf(t, k);
        block[at.byte] |= static_cast<std::byte>(static_cast<unsigned>(static_cast<int>(level) + 8) << at.shift);
      }
    }
    return {};
  }

  void Decode(const DecodeArgs& args) const {
    const std::byte* block = args.block.part[0];
    for (std::size_t t = args.begin; t < args.end; ++t) {
      std::uint16_t bits;
      std::memcpy(&bits, block + tokens_ * dim_ / 2 + t * sizeof(bits), sizeof(bits));
      for (std::size_t k = 0; k < dim_; ++k) {
        const Place at = PlaceOf(t, k);
        const int code = std::to_integer<int>(block[at.byte] >> at.shift) & 15;
        Put(args.rows[(t - args.begin) * args.row_stride + k], static_cast<float>(code - 8) * kernels::Ufloat16ToFloat(bits),
            args.add);
      }
    }
  }

 private:
  struct Place {
    std::size_t byte;
    unsigned shift;
  };
  [[nodiscard]] Place PlaceOf(std::size_t t, std::size_t k) const {
    const std::size_t lane = t % lane_tokens_;
    const std::size_t within = lane_tokens_ == 16 ? k / 4 * 64 + lane * 4 + k % 4 : k * 4 + lane;
    return {t / (2 * lane_tokens_) * lane_tokens_ * dim_ + within, t / lane_tokens_ % 2 == 0 ? 0U : 4U};
  }

  std::size_t lane_tokens_;
  std::size_t dim_;
  std::size_t tokens_;
};

class NibbleKeys final : public KeyCodec {
 public:
  explicit NibbleKeys(const CodecConfig& config) : nibbles_(config) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return nibbles_.bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return Nibbles::traits(); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return nibbles_.expected_error(); }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = nibbles_.row_bytes(),
            .prepared = (n + kernels::kQueryBatch - 1) / kernels::kQueryBatch * kernels::QueryBatchBytes(nibbles_.dim() / 4),
            .scratch = ByteCodesScoreScratch(n, nibbles_.dim(), nibbles_.tokens())};
  }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return nibbles_.Encode(args); }
  void Decode(const DecodeArgs& args) const override { nibbles_.Decode(args); }

  void Prepare(const PrepareArgs& args) const override {
    const std::size_t dim = nibbles_.dim();
    for (std::size_t i = 0; i < args.n; ++i) {
      std::byte* batch = args.prepared + i / kernels::kQueryBatch * kernels::QueryBatchBytes(dim / 4);
      auto& head = *reinterpret_cast<kernels::QueryHead*>(batch);
      const std::size_t lane = i % kernels::kQueryBatch;
      auto* integers = reinterpret_cast<std::int8_t*>(batch + sizeof(head)) + lane * dim;
      const float* query = args.queries + i * args.query_stride;
      float largest = 0;
      for (std::size_t k = 0; k < dim; ++k) largest = std::max(largest, std::fabs(query[k]));
      head.scale[lane] = largest / kernels::kByteQueryMax;
      head.bias[lane] = 0;
      head.totals[lane] = 0;
      for (std::size_t k = 0; k < dim; ++k) {
        integers[k] = static_cast<std::int8_t>(largest > 0 ? std::nearbyint(query[k] / largest * kernels::kByteQueryMax) : 0);
        head.totals[lane] += integers[k];
      }
    }
  }
  void Score(const ScoreArgs& args) const override {
    ScoreByteCodes(args, nibbles_.dim(), nibbles_.tokens(), [](const kernels::ByteScoreArgs& bytes) {
      HWY_DYNAMIC_DISPATCH(ScoreNibbles)(bytes);
    });
  }

 private:
  Nibbles nibbles_;
};

class NibbleValues final : public ValueCodec {
 public:
  explicit NibbleValues(const CodecConfig& config) : nibbles_(config) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return nibbles_.bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return Nibbles::traits(); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return nibbles_.expected_error(); }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = nibbles_.row_bytes(), .scratch = kernels::ByteAccumulateScratchBytes(n)};
  }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return nibbles_.Encode(args); }
  void Decode(const DecodeArgs& args) const override { nibbles_.Decode(args); }
  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override { return nibbles_.dim(); }
  void Accumulate(const AccumulateArgs& args) const override {
    HWY_DYNAMIC_DISPATCH(AccumulateNibbles)(ByteAccumulate(args, nibbles_.dim(), nibbles_.tokens()));
  }
  void Finish(const FinishArgs& args) const override {
    for (std::size_t i = 0; i < args.n; ++i)
      PutRows(args.acc + i * args.acc_stride, 1, nibbles_.dim(), args.rows + i * args.row_stride, args.row_stride, args.add);
  }

 private:
  Nibbles nibbles_;
};

}  // namespace

const Codec kToyNibbles{.name = "toy_nibbles",
                        .summary = "4-bit integers with a scale per row, by an expander",
                        .params = {},
                        .block_multiple = [](const Params&) { return 32U; },
                        .make_keys = [](const CodecConfig& config) -> Result<std::unique_ptr<KeyCodec>> {
                          return std::unique_ptr<KeyCodec>(std::make_unique<NibbleKeys>(config));
                        },
                        .make_values = [](const CodecConfig& config) -> Result<std::unique_ptr<ValueCodec>> {
                          return std::unique_ptr<ValueCodec>(std::make_unique<NibbleValues>(config));
                        }};

}  // namespace kvant::quantizers::test
#endif  // HWY_ONCE
