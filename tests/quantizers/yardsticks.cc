// Block: the rows of block_tokens tokens one after the other, each head_dim / 32 of ggml's block_q8_0 or block_q4_0
// (ggml/src/ggml-quants.c, quantize_row_*_ref): the bytes that ggml would store for the same rows.
#include "tests/quantizers/yardsticks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include "kernels/affine/float16.h"
#include "kernels/raw/rows.h"
#include "tests/quantizers/toy_arithmetic.h"

namespace kvant::quantizers::test {
namespace {

constexpr std::size_t kGroup = 32;

/// A group of 32 numbers, of either format.
struct Format {
  std::size_t code_bytes;
  int largest;  ///< the scale is the largest number over this
  void (*pack)(const float* x, float inverse, std::byte* codes);
  float (*number)(const std::byte* codes, std::size_t i);

  [[nodiscard]] std::size_t bytes() const { return sizeof(std::uint16_t) + code_bytes; }
};

constexpr Format kQ8{32, 127,
                     [](const float* x, float inverse, std::byte* codes) {
                       for (std::size_t i = 0; i < kGroup; ++i)
                         codes[i] = static_cast<std::byte>(static_cast<int>(std::round(x[i] * inverse)));
                     },
                     [](const std::byte* codes, std::size_t i) {
                       return static_cast<float>(static_cast<std::int8_t>(std::to_integer<std::uint8_t>(codes[i])));
                     }};

constexpr Format kQ4{16, -8,
                     [](const float* x, float inverse, std::byte* codes) {
                       const auto nibble = [&](std::size_t i) {
                         return static_cast<unsigned>(std::min(15, static_cast<int>(x[i] * inverse + 8.5F)));
                       };
                       for (std::size_t i = 0; i < kGroup / 2; ++i)
                         codes[i] = static_cast<std::byte>(nibble(i) | nibble(i + 16) << 4);
                     },
                     [](const std::byte* codes, std::size_t i) {
                       const auto both = std::to_integer<unsigned>(codes[i % 16]);
                       return static_cast<float>(static_cast<int>(i < 16 ? both & 15u : both >> 4) - 8);
                     }};

/// E(x - x')^2 of N(0, 1): over the largest magnitude m of 32 numbers, whose code is exact, and the 31 others within [-m, m].
/// `numbers` is of a positive scale; q4_0's range ends at 8 scales on the side of its largest number and at 7.5 on the other.
double GroupError(const Format& format) {
  constexpr double kStep = 0.02;
  const double levels = std::abs(format.largest), other_end = format.largest < 0 ? levels - 1 : levels;
  double sum = 0;
  for (double m = kStep / 2; m < 8; m += kStep) {
    const double within = std::erf(m / std::sqrt(2.0));
    const double density = kGroup * std::sqrt(2 / std::acos(-1.0)) * std::exp(-m * m / 2) * std::pow(within, kGroup - 2.0);
    if (density < 1e-12) continue;
    const double step = m / levels;
    double error = 0;
    constexpr int kPoints = 400;
    for (int i = 0; i < kPoints; ++i) {
      const double x = m * (2 * (i + 0.5) / kPoints - 1);
      const double level = std::min(std::round(x / step), other_end);
      // Uniform over a step where steps are finer than the points.
      const double squared = levels > 50 ? step * step / 12 : std::pow(x - level * step, 2);
      error += squared * std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0)) * 2 * m / kPoints;
    }
    sum += density * error * kStep;
  }
  return sum * (kGroup - 1.0) / kGroup;
}

/// What both sides share.
class Groups {
 public:
  Groups(const Format& format, const CodecConfig& config)
      : format_(format), dim_(config.head_dim), tokens_(config.block_tokens) {}

  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return dim_ / kGroup * format_.bytes(); }
  [[nodiscard]] std::size_t bytes() const noexcept { return tokens_ * row_bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept {
    return {.largest_norm = kernels::kF16Max * static_cast<float>(std::abs(format_.largest))};
  }
  [[nodiscard]] double expected_error() const { return GroupError(format_); }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const {
    auto* row = reinterpret_cast<float*>(args.scratch);
    for (std::size_t t = 0; t < tokens_; ++t) {
      if (!(LoadRowOf(args.rows, t, row) <= traits().largest_norm)) {
        return Error{ErrorCode::kNotFinite, "row " + std::to_string(t) + " is not finite or too large"};
      }
      std::byte* out = args.block.part[0] + t * row_bytes();
      for (std::size_t k = 0; k < dim_; k += kGroup, out += format_.bytes()) EncodeGroup(row + k, out);
    }
    return {};
  }
  void Decode(const std::byte* block, std::size_t t, bool add, float* row) const {
    const std::byte* from = block + t * row_bytes();
    for (std::size_t k = 0; k < dim_; ++k) {
      const std::byte* group = from + k / kGroup * format_.bytes();
      std::uint16_t bits;
      std::memcpy(&bits, group, sizeof(bits));
      Put(row[k], format_.number(group + sizeof(bits), k % kGroup) * kernels::F16ToFloat(bits), add);
    }
  }

 private:
  void EncodeGroup(const float* x, std::byte* out) const {
    float most = 0.0F;
    for (std::size_t i = 0; i < kGroup; ++i) most = std::fabs(x[i]) > std::fabs(most) ? x[i] : most;
    if (format_.largest > 0) most = std::fabs(most);
    const float scale = most / static_cast<float>(format_.largest);
    kernels::StoreRow(&scale, 1, ElementType::kF16, out);
    std::uint16_t bits;
    std::memcpy(&bits, out, sizeof(bits));
    const bool none = (bits & 0x7FFFu) == 0;  // ggml's inverse may be infinite here
    format_.pack(x, none ? 0.0F : 1.0F / scale, out + sizeof(bits));
  }

  const Format& format_;
  std::size_t dim_;
  std::size_t tokens_;
};

class GroupKeys final : public KeyCodec {
 public:
  explicit GroupKeys(const Groups& groups) : groups_(groups) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return groups_.bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return groups_.traits(); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return groups_.expected_error(); }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const std::size_t row = groups_.dim() * sizeof(float);
    return {.encode = row, .prepared = n * row, .scratch = row};
  }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return groups_.Encode(args); }
  void Decode(const DecodeArgs& args) const override {
    for (std::size_t t = args.begin; t < args.end; ++t)
      groups_.Decode(args.block.part[0], t, args.add, args.rows + (t - args.begin) * args.row_stride);
  }
  void Prepare(const PrepareArgs& args) const override {
    auto* prepared = reinterpret_cast<float*>(args.prepared);
    for (std::size_t i = 0; i < args.n; ++i)
      std::copy_n(args.queries + i * args.query_stride, groups_.dim(), prepared + i * groups_.dim());
  }
  void Score(const ScoreArgs& args) const override {
    auto* row = reinterpret_cast<float*>(args.scratch);
    for (std::size_t t = 0; t < groups_.tokens(); ++t) {
      groups_.Decode(args.block.part[0], t, false, row);
      for (std::size_t i = 0; i < args.n; ++i) {
        const auto* query = reinterpret_cast<const float*>(args.prepared) + i * groups_.dim();
        Put(args.logits[i * args.stride + t], Dot(query, row, groups_.dim()), args.add);
      }
    }
  }

 private:
  Groups groups_;
};

class GroupValues final : public ValueCodec {
 public:
  explicit GroupValues(const Groups& groups) : groups_(groups) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return groups_.bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return groups_.traits(); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return groups_.expected_error(); }
  [[nodiscard]] Needs needs(std::size_t) const noexcept override {
    const std::size_t row = groups_.dim() * sizeof(float);
    return {.encode = row, .scratch = row};
  }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return groups_.Encode(args); }
  void Decode(const DecodeArgs& args) const override {
    for (std::size_t t = args.begin; t < args.end; ++t)
      groups_.Decode(args.block.part[0], t, args.add, args.rows + (t - args.begin) * args.row_stride);
  }
  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override { return groups_.dim(); }
  void Accumulate(const AccumulateArgs& args) const override {
    auto* row = reinterpret_cast<float*>(args.scratch);
    for (std::size_t t = 0; t < groups_.tokens(); ++t) {
      groups_.Decode(args.block.part[0], t, false, row);
      for (std::size_t i = 0; i < args.n; ++i) {
        const float weight = args.weights[i * args.stride + t];
        for (std::size_t k = 0; k < groups_.dim(); ++k) args.acc[i * args.acc_stride + k] += weight * row[k];
      }
    }
  }
  void Finish(const FinishArgs& args) const override {
    for (std::size_t i = 0; i < args.n; ++i) {
      for (std::size_t k = 0; k < groups_.dim(); ++k)
        Put(args.rows[i * args.row_stride + k], args.acc[i * args.acc_stride + k], args.add);
    }
  }

 private:
  Groups groups_;
};

template <const Format& kFormat, class Made, class Base>
Result<std::unique_ptr<Base>> MakeGroups(const CodecConfig& config) {
  if (config.head_dim % kGroup != 0) {
    return Error{ErrorCode::kUnsupported, "head_dim " + std::to_string(config.head_dim) + " is not a multiple of 32"};
  }
  return std::unique_ptr<Base>(std::make_unique<Made>(Groups(kFormat, config)));
}

}  // namespace

const Codec kYardstickQ8{.name = "q8_0",
                         .summary = "ggml's 8-bit blocks of 32",
                         .params = {},
                         .make_keys = MakeGroups<kQ8, GroupKeys, KeyCodec>,
                         .make_values = MakeGroups<kQ8, GroupValues, ValueCodec>};

const Codec kYardstickQ4{.name = "q4_0",
                         .summary = "ggml's 4-bit blocks of 32",
                         .params = {},
                         .make_keys = MakeGroups<kQ4, GroupKeys, KeyCodec>,
                         .make_values = MakeGroups<kQ4, GroupValues, ValueCodec>};

Registry RegistryWithYardsticks() {
  Registry registry = Registry::Builtin();
  for (const Codec* codec : {&kYardstickQ8, &kYardstickQ4}) (void)registry.Add(*codec).value();
  return registry;
}

}  // namespace kvant::quantizers::test
