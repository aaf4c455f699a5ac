// Block: per group of 32 tokens, head_dim pairs (minimum, step) of f32, then 32 * head_dim codes of one byte each.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/raw/rows.h"
#include "tests/quantizers/toy_codecs.h"

namespace kvant::quantizers::test {
namespace {

constexpr std::size_t kGroup = 32;
constexpr std::size_t kMaxDim = 1024;
constexpr float kLevels = 15.0f;

class ChannelKeys final : public KeyCodec {
 public:
  explicit ChannelKeys(const CodecConfig& config) : dim_(config.head_dim), tokens_(config.block_tokens) {}
  [[nodiscard]] std::size_t block_bytes() const noexcept override { return tokens_ / kGroup * group_bytes(); }

  [[nodiscard]] Result<void> Encode(std::size_t, std::uint64_t, const RowsView& rows, std::byte* block) const override {
    std::vector<float> group(kGroup * dim_);
    for (std::size_t first = 0; first < tokens_; first += kGroup) {
      for (std::size_t t = 0; t < kGroup; ++t) {
        const auto* row = static_cast<const std::byte*>(rows.data) + (first + t) * rows.stride * ElementBytes(rows.type);
        if (!(kernels::LoadRow(row, rows.type, dim_, group.data() + t * dim_) <= std::numeric_limits<float>::max() / 4)) {
          return Error{ErrorCode::kNotFinite, "row " + std::to_string(first + t) + " is not finite"};
        }
      }
      std::byte* out = block + first / kGroup * group_bytes();
      for (std::size_t k = 0; k < dim_; ++k) EncodeChannel(group, k, out);
    }
    return {};
  }

  void Decode(std::size_t, std::uint64_t, const std::byte* block, std::size_t begin, std::size_t end,
              float* rows) const override {
    for (std::size_t t = begin; t < end; ++t) DecodeRow(block, t, rows + (t - begin) * dim_);
  }

  [[nodiscard]] std::size_t prepared_bytes(std::size_t n) const noexcept override { return n * dim_ * sizeof(float); }
  void PrepareQueries(std::size_t, const float* queries, std::size_t n, std::byte* prepared) const override {
    std::memcpy(prepared, queries, prepared_bytes(n));
  }
  void Score(std::size_t, std::uint64_t, const std::byte* prepared, std::size_t n, const std::byte* block, float* logits,
             std::size_t stride, const std::byte*, std::size_t) const override {
    float row[kMaxDim];
    const auto* queries = reinterpret_cast<const float*>(prepared);
    for (std::size_t t = 0; t < tokens_; ++t) {
      DecodeRow(block, t, row);
      for (std::size_t i = 0; i < n; ++i) {
        double sum = 0;
        for (std::size_t k = 0; k < dim_; ++k) sum += double{queries[i * dim_ + k]} * double{row[k]};
        logits[i * stride + t] = static_cast<float>(sum);
      }
    }
  }

 private:
  struct Channel {
    float minimum;
    float step;
  };
  [[nodiscard]] std::size_t group_bytes() const noexcept { return dim_ * sizeof(Channel) + kGroup * dim_; }

  void EncodeChannel(const std::vector<float>& group, std::size_t k, std::byte* out) const {
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

  void DecodeRow(const std::byte* block, std::size_t t, float* row) const {
    const std::byte* group = block + t / kGroup * group_bytes();
    for (std::size_t k = 0; k < dim_; ++k) {
      Channel channel;
      std::memcpy(&channel, group + k * sizeof(Channel), sizeof(channel));
      const auto code = std::to_integer<int>(group[dim_ * sizeof(Channel) + t % kGroup * dim_ + k]);
      row[k] = channel.minimum + static_cast<float>(code) * channel.step;
    }
  }

  std::size_t dim_;
  std::size_t tokens_;
};

Result<std::unique_ptr<KeyCodec>> MakeKeys(const CodecConfig& config) {
  return std::unique_ptr<KeyCodec>(std::make_unique<ChannelKeys>(config));
}

std::uint32_t GroupTokens(std::span<const std::int64_t>) { return kGroup; }

double NormalCdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

/// Errors are uniform over a step of range / 15 but exact at the two ends: 30/32 * E[range^2] / (12 * 15^2), and E[1/|x|^2] =
/// 1/(d-2). E[range^2] = integral of 2 w P(range > w), P(range <= w) = n * integral of phi(x) (Phi(x + w) - Phi(x))^(n-1).
double RangeError(Side, std::uint32_t head_dim, std::span<const std::int64_t>) {
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

}  // namespace

const Codec kToyChannel{.name = "toy_channel",
                        .summary = "4-bit keys per channel over 32 tokens",
                        .params = {},
                        .block_multiple = GroupTokens,
                        .gaussian_error = RangeError,
                        .make_keys = MakeKeys,
                        .make_values = nullptr};

}  // namespace kvant::quantizers::test
