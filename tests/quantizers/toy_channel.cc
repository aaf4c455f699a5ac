// Block: per group of 32 tokens, head_dim pairs (minimum, step) of f32, then 32 * head_dim codes of one byte each.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/quantizers/toy_arithmetic.h"
#include "tests/quantizers/toy_codecs.h"

namespace kvant::quantizers::test {
namespace {

constexpr std::size_t kGroup = 32;
constexpr float kLargest = std::numeric_limits<float>::max() / 4;
constexpr float kLevels = 15.0f;

double NormalCdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

/// Errors are uniform over a step of range / 15 but exact at the two ends: 30/32 * E[range^2] / (12 * 15^2), and E[1/|x|^2] =
/// 1/(d-2). E[range^2] = integral of 2 w P(range > w), P(range <= w) = n * integral of phi(x) (Phi(x + w) - Phi(x))^(n-1).
double RangeError(double head_dim) {
  constexpr double kStep = 0.02;
  double squared = 0;
  for (double w = kStep / 2; w < 10; w += kStep) {
    double below = 0;
    for (double x = -8; x < 8; x += kStep) {
      const double density = std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0));
      below += kGroup * density * std::pow(NormalCdf(x + w) - NormalCdf(x), kGroup - 1.0) * kStep;
    }
    squared += 2 * w * (1 - below) * kStep;
  }
  return 30.0 / 32.0 * squared / (12.0 * 15 * 15) * head_dim / (head_dim - 2.0);
}

class ChannelKeys final : public KeyCodec {
 public:
  explicit ChannelKeys(const CodecConfig& config) : dim_(config.head_dim), tokens_(config.block_tokens) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return tokens_ / kGroup * group_bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return {.rows_alone = false, .largest_norm = kLargest}; }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override {
    return RangeError(static_cast<double>(dim_));
  }
  // Encode: a group of rows. Prepared: the queries. Score: a row.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const std::size_t row = dim_ * sizeof(float);
    return {.encode = kGroup * row, .prepared = n * row, .scratch = row};
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    auto* group = reinterpret_cast<float*>(args.scratch);
    for (std::size_t first = 0; first < tokens_; first += kGroup) {
      for (std::size_t t = 0; t < kGroup; ++t) {
        if (!(LoadRowOf(args.rows, first + t, group + t * dim_) <= kLargest)) {
          return Error{ErrorCode::kNotFinite, "row " + std::to_string(first + t) + " is not finite"};
        }
      }
      std::byte* out = args.block.part[0] + first / kGroup * group_bytes();
      for (std::size_t k = 0; k < dim_; ++k) EncodeChannel(group, k, out);
    }
    return {};
  }

  void Decode(const DecodeArgs& args) const override {
    for (std::size_t t = args.begin; t < args.end; ++t) {
      float* row = args.rows + (t - args.begin) * args.row_stride;
      for (std::size_t k = 0; k < dim_; ++k) Put(row[k], Number(args.block.part[0], t, k), args.add);
    }
  }

  void Prepare(const PrepareArgs& args) const override {
    auto* prepared = reinterpret_cast<float*>(args.prepared);
    for (std::size_t i = 0; i < args.n; ++i) std::copy_n(args.queries + i * args.query_stride, dim_, prepared + i * dim_);
  }
  void Score(const ScoreArgs& args) const override {
    auto* row = reinterpret_cast<float*>(args.scratch);
    for (std::size_t t = 0; t < tokens_; ++t) {
      for (std::size_t k = 0; k < dim_; ++k) row[k] = Number(args.block.part[0], t, k);
      for (std::size_t i = 0; i < args.n; ++i) {
        Put(args.logits[i * args.stride + t], Dot(reinterpret_cast<const float*>(args.prepared) + i * dim_, row, dim_),
            args.add);
      }
    }
  }

 private:
  struct Channel {
    float minimum;
    float step;
  };
  [[nodiscard]] std::size_t group_bytes() const noexcept { return dim_ * sizeof(Channel) + kGroup * dim_; }

  void EncodeChannel(const float* group, std::size_t k, std::byte* out) const {
    Channel channel{group[k], 0};
    float maximum = group[k];
    for (std::size_t t = 0; t < kGroup; ++t) {
      channel.minimum = std::min(channel.minimum, group[t * dim_ + k]);
      maximum = std::max(maximum, group[t * dim_ + k]);
    }
    channel.step = (maximum - channel.minimum) / kLevels;
    std::memcpy(out + k * sizeof(Channel), &channel, sizeof(channel));
    for (std::size_t t = 0; t < kGroup; ++t) {
      const float level = channel.step > 0 ? std::nearbyint((group[t * dim_ + k] - channel.minimum) / channel.step) : 0.0f;
      out[dim_ * sizeof(Channel) + t * dim_ + k] = static_cast<std::byte>(std::min(level, kLevels));
    }
  }

  [[nodiscard]] float Number(const std::byte* block, std::size_t t, std::size_t k) const {
    const std::byte* group = block + t / kGroup * group_bytes();
    Channel channel;
    std::memcpy(&channel, group + k * sizeof(Channel), sizeof(channel));
    const auto code = std::to_integer<int>(group[dim_ * sizeof(Channel) + t % kGroup * dim_ + k]);
    return channel.minimum + static_cast<float>(code) * channel.step;
  }

  std::size_t dim_;
  std::size_t tokens_;
};

Result<std::unique_ptr<KeyCodec>> MakeChannelKeys(const CodecConfig& config) {
  return std::unique_ptr<KeyCodec>(std::make_unique<ChannelKeys>(config));
}

std::uint32_t GroupTokens(const Params&) { return kGroup; }

}  // namespace

const Codec kToyChannel{.name = "toy_channel",
                        .summary = "4-bit keys per channel over 32 tokens",
                        .params = {},
                        .block_multiple = GroupTokens,
                        .make_keys = MakeChannelKeys};

}  // namespace kvant::quantizers::test
