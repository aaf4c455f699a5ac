// Block: per token, one f32 scale (the mean magnitude of the row), then head_dim sign bits per token in 64-bit words.
#include <bit>
#include <cmath>
#include <memory>
#include <numbers>

#include "tests/quantizers/toy_arithmetic.h"
#include "tests/quantizers/toy_codecs.h"

namespace kvant::quantizers::test {
namespace {

constexpr float kLargest = 1e30f;
constexpr std::size_t kPlanes = 6;  // bits of a rounded query
constexpr float kLevels = 63.0f;

/// A query as low + step * u, u of kPlanes bits, plane by plane: a score is then the counts of bits it shares with a row's
/// signs.
struct RoundedQuery {
  float low;
  float step;
  double sum;  ///< of the rounded query's numbers
};

class SignKeys final : public KeyCodec {
 public:
  explicit SignKeys(const CodecConfig& config)
      : dim_(config.head_dim), tokens_(config.block_tokens), words_((dim_ + 63) / 64) {}

  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return scales_bytes() + 8 * tokens_ * words_; }
  [[nodiscard]] CodecTraits traits() const noexcept override { return {.largest_norm = kLargest}; }
  [[nodiscard]] CodeForm form() const noexcept override {
    return {.family = CodeFamily::kSigns, .order = CodeOrder::kRows, .bits = 1, .scale_format = ScaleFormat::kF32};
  }
  /// 1 - E(sum of |x|)^2 / (d E|x|^2): the scale has the least squared error.
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override {
    const auto d = static_cast<double>(dim_);
    return 1.0 - (1.0 + (d - 1.0) * 2.0 / std::numbers::pi) / d;
  }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = dim_ * sizeof(float), .prepared = n * query_bytes()};
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    auto* row = reinterpret_cast<float*>(args.scratch);
    auto* scales = reinterpret_cast<float*>(args.block.part[0]);
    auto* signs = reinterpret_cast<std::uint64_t*>(args.block.part[0] + scales_bytes());
    for (std::size_t t = 0; t < tokens_; ++t) {
      if (!(LoadRowOf(args.rows, t, row) <= kLargest)) {
        return Error{ErrorCode::kNotFinite, "row " + std::to_string(t) + " is not finite or too large"};
      }
      double sum = 0;
      for (std::size_t w = 0; w < words_; ++w) signs[t * words_ + w] = 0;
      for (std::size_t k = 0; k < dim_; ++k) {
        sum += std::fabs(double{row[k]});
        if (row[k] >= 0) signs[t * words_ + k / 64] |= std::uint64_t{1} << (k % 64);
      }
      scales[t] = static_cast<float>(sum / static_cast<double>(dim_));
    }
    return {};
  }
  void Decode(const DecodeArgs& args) const override {
    const auto* scales = reinterpret_cast<const float*>(args.block.part[0]);
    for (std::size_t t = args.begin; t < args.end; ++t) {
      for (std::size_t k = 0; k < dim_; ++k) {
        const bool positive = (Signs(args.block, t)[k / 64] >> (k % 64) & 1) != 0;
        Put(args.rows[(t - args.begin) * args.row_stride + k], positive ? scales[t] : -scales[t], args.add);
      }
    }
  }

  void Prepare(const PrepareArgs& args) const override {
    for (std::size_t i = 0; i < args.n; ++i) {
      const float* query = args.queries + i * args.query_stride;
      auto* to = reinterpret_cast<RoundedQuery*>(args.prepared + i * query_bytes());
      auto* planes = reinterpret_cast<std::uint64_t*>(to + 1);
      const auto [low, high] = std::minmax_element(query, query + dim_);
      *to = {*low, (*high - *low) / kLevels, 0.0};
      std::fill_n(planes, kPlanes * words_, 0);
      for (std::size_t k = 0; k < dim_; ++k) {
        const auto u = static_cast<std::uint64_t>(to->step > 0 ? std::nearbyint((query[k] - to->low) / to->step) : 0.0f);
        to->sum += double{to->low} + double{to->step} * static_cast<double>(u);
        for (std::size_t j = 0; j < kPlanes; ++j) planes[j * words_ + k / 64] |= (u >> j & 1) << (k % 64);
      }
    }
  }
  void Score(const ScoreArgs& args) const override {
    const auto* scales = reinterpret_cast<const float*>(args.block.part[0]);
    for (std::size_t i = 0; i < args.n; ++i) {
      const auto* query = reinterpret_cast<const RoundedQuery*>(args.prepared + i * query_bytes());
      const auto* planes = reinterpret_cast<const std::uint64_t*>(query + 1);
      for (std::size_t t = 0; t < tokens_; ++t) {
        const std::uint64_t* signs = Signs(args.block, t);
        int positive = 0;
        int shared = 0;
        for (std::size_t w = 0; w < words_; ++w) {
          positive += std::popcount(signs[w]);
          for (std::size_t j = 0; j < kPlanes; ++j) shared += std::popcount(signs[w] & planes[j * words_ + w]) << j;
        }
        const double sum = 2.0 * (double{query->low} * positive + double{query->step} * shared) - query->sum;
        Put(args.logits[i * args.stride + t], static_cast<float>(sum * double{scales[t]}), args.add);
      }
    }
  }

 private:
  [[nodiscard]] std::size_t scales_bytes() const noexcept { return (tokens_ * sizeof(float) + 7) / 8 * 8; }
  [[nodiscard]] std::size_t query_bytes() const noexcept {
    return sizeof(RoundedQuery) + kPlanes * words_ * sizeof(std::uint64_t);
  }
  [[nodiscard]] const std::uint64_t* Signs(const ConstBlockView& block, std::size_t t) const {
    return reinterpret_cast<const std::uint64_t*>(block.part[0] + scales_bytes()) + t * words_;
  }

  std::size_t dim_;
  std::size_t tokens_;
  std::size_t words_;
};

}  // namespace

const Codec kToySigns{.name = "toy_signs",
                      .summary = "keys as sign bits, scored by counting bits",
                      .params = {},
                      .make_keys = [](const CodecConfig& config) -> Result<std::unique_ptr<KeyCodec>> {
                        return std::unique_ptr<KeyCodec>(std::make_unique<SignKeys>(config));
                      }};

}  // namespace kvant::quantizers::test
