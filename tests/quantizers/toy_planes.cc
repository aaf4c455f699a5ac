// Row x: step s = max|x| / 127, codes c = round(x / s) + 128 in 1..255.
// Block, first part: per token, one f32 step; then the upper four bits of all codes, two to a byte, row after row.
// Second part, which may be dropped: the lower four bits likewise. Without them a code is taken for the middle of its 16.
#include <algorithm>
#include <cmath>
#include <memory>

#include "tests/quantizers/toy_arithmetic.h"
#include "tests/quantizers/toy_codecs.h"

namespace kvant::quantizers::test {
namespace {

constexpr float kLargest = 1e36f;

/// What both sides share: the format.
class Planes {
 public:
  explicit Planes(const CodecConfig& config) : dim_(config.head_dim), tokens_(config.block_tokens) {}

  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return dim_ * sizeof(float); }
  [[nodiscard]] std::size_t part_bytes(std::size_t part) const noexcept {
    return tokens_ * dim_ / 2 + (part == 0 ? steps_bytes() : 0);
  }

  /// The largest number is the end of the range, so its code is exact, or 7.5 and 6.5 steps from the middle of its 16; the
  /// other numbers' errors are uniform over one step or 16.
  [[nodiscard]] double expected_error(std::size_t parts) const {
    const auto d = static_cast<double>(dim_);
    constexpr double kStep = 1.0 / 256;
    double largest_squared = 0;  // E max|x|^2 = integral of 2 x P(max|x| > x)
    for (double x = kStep / 2; x < 9; x += kStep)
      largest_squared += 2 * x * (1 - std::pow(std::erf(x / std::sqrt(2.0)), d)) * kStep;
    const double others = parts == 2 ? 1.0 / 12 : 256.0 / 12;
    const double largest = parts == 2 ? 0.0 : (7.5 * 7.5 + 6.5 * 6.5) / 2;
    return largest_squared / (127 * 127) * ((d - 1) * others + largest) / d;
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const {
    auto* row = reinterpret_cast<float*>(args.scratch);
    auto* steps = reinterpret_cast<float*>(args.block.part[0]);
    std::fill_n(args.block.part[0] + steps_bytes(), tokens_ * dim_ / 2, std::byte{});
    if (args.block.parts > 1) std::fill_n(args.block.part[1], tokens_ * dim_ / 2, std::byte{});
    for (std::size_t t = 0; t < tokens_; ++t) {
      const float largest = LoadRowOf(args.rows, t, row);
      if (!(largest <= kLargest)) {
        return Error{ErrorCode::kNotFinite, "row " + std::to_string(t) + " is not finite or too large"};
      }
      steps[t] = largest / 127.0f;
      for (std::size_t k = 0; k < dim_; ++k) {
        const float level = steps[t] > 0 ? std::clamp(std::nearbyint(row[k] / steps[t]), -127.0f, 127.0f) : 0.0f;
        const auto code = static_cast<unsigned>(static_cast<int>(level) + 128);
        const std::size_t at = t * dim_ + k;
        args.block.part[0][steps_bytes() + at / 2] |= static_cast<std::byte>(code >> 4 << 4 * (at % 2));
        if (args.block.parts > 1) args.block.part[1][at / 2] |= static_cast<std::byte>((code & 15) << 4 * (at % 2));
      }
    }
    return {};
  }

  [[nodiscard]] float Number(const ConstBlockView& block, std::size_t t, std::size_t k) const {
    const std::size_t at = t * dim_ + k;
    const auto half = [at](std::byte both) { return std::to_integer<int>(both) >> 4 * (at % 2) & 15; };
    const auto upper = static_cast<float>(16 * half(block.part[0][steps_bytes() + at / 2]));
    const float lower = block.parts > 1 ? static_cast<float>(half(block.part[1][at / 2])) : 7.5f;
    return (upper + lower - 128.0f) * reinterpret_cast<const float*>(block.part[0])[t];
  }

  void Decode(const DecodeArgs& args) const {
    for (std::size_t t = args.begin; t < args.end; ++t) {
      for (std::size_t k = 0; k < dim_; ++k)
        Put(args.rows[(t - args.begin) * args.row_stride + k], Number(args.block, t, k), args.add);
    }
  }

 private:
  [[nodiscard]] std::size_t steps_bytes() const noexcept { return tokens_ * sizeof(float); }

  std::size_t dim_;
  std::size_t tokens_;
};

class PlaneKeys final : public KeyCodec {
 public:
  explicit PlaneKeys(const CodecConfig& config) : planes_(config) {}
  [[nodiscard]] std::size_t parts() const noexcept override { return 2; }
  [[nodiscard]] std::size_t part_bytes(std::size_t part) const noexcept override { return planes_.part_bytes(part); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return {.largest_norm = kLargest}; }
  [[nodiscard]] std::optional<double> expected_error(std::size_t parts) const override { return planes_.expected_error(parts); }
  [[nodiscard]] Needs needs(std::size_t) const noexcept override {
    return {.encode = planes_.row_bytes(), .scratch = planes_.row_bytes()};
  }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return planes_.Encode(args); }
  void Decode(const DecodeArgs& args) const override { planes_.Decode(args); }
  void Prepare(const PrepareArgs&) const override {}
  void Score(const ScoreArgs& args) const override {
    auto* row = reinterpret_cast<float*>(args.scratch);
    for (std::size_t t = 0; t < planes_.tokens(); ++t) {
      for (std::size_t k = 0; k < planes_.dim(); ++k) row[k] = planes_.Number(args.block, t, k);
      for (std::size_t i = 0; i < args.n; ++i)
        Put(args.logits[i * args.stride + t], Dot(args.queries + i * args.query_stride, row, planes_.dim()), args.add);
    }
  }

 private:
  Planes planes_;
};

class PlaneValues final : public ValueCodec {
 public:
  explicit PlaneValues(const CodecConfig& config) : planes_(config) {}
  [[nodiscard]] std::size_t parts() const noexcept override { return 2; }
  [[nodiscard]] std::size_t part_bytes(std::size_t part) const noexcept override { return planes_.part_bytes(part); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return {.largest_norm = kLargest}; }
  [[nodiscard]] std::optional<double> expected_error(std::size_t parts) const override { return planes_.expected_error(parts); }
  [[nodiscard]] Needs needs(std::size_t) const noexcept override { return {.encode = planes_.row_bytes()}; }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return planes_.Encode(args); }
  void Decode(const DecodeArgs& args) const override { planes_.Decode(args); }
  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override { return planes_.dim(); }
  void Accumulate(const AccumulateArgs& args) const override {
    for (std::size_t t = 0; t < planes_.tokens(); ++t) {
      for (std::size_t k = 0; k < planes_.dim(); ++k) {
        const float number = planes_.Number(args.block, t, k);
        for (std::size_t i = 0; i < args.n; ++i)
          args.acc[i * args.acc_stride + k] += args.weights[i * args.stride + t] * number;
      }
    }
  }
  void Finish(const FinishArgs& args) const override {
    for (std::size_t i = 0; i < args.n; ++i) {
      for (std::size_t k = 0; k < planes_.dim(); ++k)
        Put(args.rows[i * args.row_stride + k], args.acc[i * args.acc_stride + k], args.add);
    }
  }

 private:
  Planes planes_;
};

}  // namespace

const Codec kToyPlanes{.name = "toy_planes",
                       .summary = "8 bits, of which the lower four may be dropped",
                       .params = {},
                       .make_keys = [](const CodecConfig& config) -> Result<std::unique_ptr<KeyCodec>> {
                         return std::unique_ptr<KeyCodec>(std::make_unique<PlaneKeys>(config));
                       },
                       .make_values = [](const CodecConfig& config) -> Result<std::unique_ptr<ValueCodec>> {
                         return std::unique_ptr<ValueCodec>(std::make_unique<PlaneValues>(config));
                       }};

}  // namespace kvant::quantizers::test
