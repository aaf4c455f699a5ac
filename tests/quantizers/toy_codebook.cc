// Block: per token, one f32 scale (the row's root mean square) and head_dim / 4 codeword numbers of one byte.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "quantizers/artifact.h"
#include "tests/quantizers/toy_arithmetic.h"
#include "tests/quantizers/toy_codecs.h"

namespace kvant::quantizers::test {
namespace {

constexpr std::size_t kPart = 4;
constexpr std::size_t kWords = 256;
constexpr float kLargest = 1e18f;             // squares of a row must not leave f32
constexpr double kLloydError = 0.1174818478;  // of the 2-bit Lloyd-Max codebook for N(0,1), which the example holds

/// What both sides share.
class Rows {
 public:
  Rows(const CodecConfig& config, std::span<const float> codebook)
      : dim_(config.head_dim), tokens_(config.block_tokens), codebook_(codebook) {}

  [[nodiscard]] std::size_t parts() const noexcept { return dim_ / kPart; }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return tokens_ * (sizeof(float) + parts()); }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return dim_ * sizeof(float); }
  [[nodiscard]] const float* Word(std::size_t w) const { return codebook_.data() + w * kPart; }
  [[nodiscard]] std::size_t Code(const std::byte* block, std::size_t t, std::size_t part) const {
    return std::to_integer<std::size_t>(block[tokens_ * sizeof(float) + t * parts() + part]);
  }
  [[nodiscard]] float Scale(const std::byte* block, std::size_t t) const {
    float scale;
    std::memcpy(&scale, block + t * sizeof(float), sizeof(scale));
    return scale;
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const {
    auto* row = reinterpret_cast<float*>(args.scratch);
    std::byte* block = args.block.part[0];
    for (std::size_t t = 0; t < tokens_; ++t) {
      if (!(LoadRowOf(args.rows, t, row) <= kLargest)) {
        return Error{ErrorCode::kNotFinite, "row " + std::to_string(t) + " is not finite or too large"};
      }
      double squares = 0;
      for (std::size_t k = 0; k < dim_; ++k) squares += double{row[k]} * double{row[k]};
      const auto scale = static_cast<float>(std::sqrt(squares / static_cast<double>(dim_)));
      std::memcpy(block + t * sizeof(float), &scale, sizeof(scale));
      for (std::size_t part = 0; part < parts(); ++part) {
        block[tokens_ * sizeof(float) + t * parts() + part] =
            static_cast<std::byte>(Nearest(row + part * kPart, double{scale}));
      }
    }
    return {};
  }

  void Decode(const DecodeArgs& args) const {
    const std::byte* block = args.block.part[0];
    for (std::size_t t = args.begin; t < args.end; ++t) {
      for (std::size_t k = 0; k < dim_; ++k) {
        Put(args.rows[(t - args.begin) * args.row_stride + k], Scale(block, t) * Word(Code(block, t, k / kPart))[k % kPart],
            args.add);
      }
    }
  }

 private:
  [[nodiscard]] std::size_t Nearest(const float* x, double scale) const {
    std::size_t best = 0;
    double least = 1e300;
    for (std::size_t w = 0; w < kWords; ++w) {
      double distance = 0;
      for (std::size_t k = 0; k < kPart; ++k) distance += std::pow(double{x[k]} - scale * double{Word(w)[k]}, 2);
      if (distance < least) {
        least = distance;
        best = w;
      }
    }
    return best;
  }

  std::size_t dim_;
  std::size_t tokens_;
  std::span<const float> codebook_;
};

class CodebookKeys final : public KeyCodec {
 public:
  explicit CodebookKeys(const Rows& rows) : rows_(rows) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return rows_.bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return {.largest_norm = kLargest}; }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return kLloydError; }
  // Prepared: per query a table of [parts, 256] partial dot products.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = rows_.row_bytes(), .prepared = n * rows_.parts() * kWords * sizeof(float)};
  }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return rows_.Encode(args); }
  void Decode(const DecodeArgs& args) const override { rows_.Decode(args); }

  void Prepare(const PrepareArgs& args) const override {
    auto* table = reinterpret_cast<float*>(args.prepared);
    for (std::size_t i = 0; i < args.n; ++i) {
      for (std::size_t part = 0; part < rows_.parts(); ++part) {
        for (std::size_t w = 0; w < kWords; ++w)
          *table++ = Dot(args.queries + i * args.query_stride + part * kPart, rows_.Word(w), kPart);
      }
    }
  }
  void Score(const ScoreArgs& args) const override {
    const std::byte* block = args.block.part[0];
    for (std::size_t i = 0; i < args.n; ++i) {
      const float* table = reinterpret_cast<const float*>(args.prepared) + i * rows_.parts() * kWords;
      for (std::size_t t = 0; t < rows_.tokens(); ++t) {
        float sum = 0;
        for (std::size_t part = 0; part < rows_.parts(); ++part) sum += table[part * kWords + rows_.Code(block, t, part)];
        Put(args.logits[i * args.stride + t], sum * rows_.Scale(block, t), args.add);
      }
    }
  }

 private:
  Rows rows_;
};

/// Few queries accumulate a histogram: the weight that fell on each codeword of each part. It costs no multiplication, but is
/// far larger than a row, so a call of many queries accumulates decoded rows.
class CodebookValues final : public ValueCodec {
 public:
  explicit CodebookValues(const Rows& rows) : rows_(rows) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return rows_.bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return {.largest_norm = kLargest}; }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return kLloydError; }
  [[nodiscard]] Needs needs(std::size_t) const noexcept override { return {.encode = rows_.row_bytes()}; }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return rows_.Encode(args); }
  void Decode(const DecodeArgs& args) const override { rows_.Decode(args); }

  [[nodiscard]] std::size_t accumulator_floats(std::size_t queries) const noexcept override {
    return queries <= kMaxHistograms ? rows_.parts() * kWords : rows_.dim();
  }
  void Accumulate(const AccumulateArgs& args) const override {
    const std::byte* block = args.block.part[0];
    const bool histogram = args.acc_floats != rows_.dim();
    for (std::size_t i = 0; i < args.n; ++i) {
      float* acc = args.acc + i * args.acc_stride;
      for (std::size_t t = 0; t < rows_.tokens(); ++t) {
        const float weight = args.weights[i * args.stride + t] * rows_.Scale(block, t);
        for (std::size_t part = 0; part < rows_.parts(); ++part) {
          const std::size_t code = rows_.Code(block, t, part);
          if (histogram) acc[part * kWords + code] += weight;
          for (std::size_t k = 0; !histogram && k < kPart; ++k) acc[part * kPart + k] += weight * rows_.Word(code)[k];
        }
      }
    }
  }
  void Finish(const FinishArgs& args) const override {
    const bool histogram = args.acc_floats != rows_.dim();
    for (std::size_t i = 0; i < args.n; ++i) {
      const float* acc = args.acc + i * args.acc_stride;
      for (std::size_t k = 0; k < rows_.dim(); ++k) {
        double sum = histogram ? 0.0 : double{acc[k]};
        for (std::size_t w = 0; histogram && w < kWords; ++w)
          sum += double{acc[k / kPart * kWords + w]} * double{rows_.Word(w)[k % kPart]};
        Put(args.rows[i * args.row_stride + k], static_cast<float>(sum), args.add);
      }
    }
  }

 private:
  static constexpr std::size_t kMaxHistograms = 256;
  Rows rows_;
};

Result<std::span<const float>> Codebook(const CodecConfig& config) {
  if (config.artifact == nullptr)
    return Error{ErrorCode::kInvalidArgument, "codec toy_codebook needs the artifact tensor toy.codebook"};
  return config.artifact->Find("toy.codebook", {kWords, kPart});
}

Result<std::unique_ptr<KeyCodec>> MakeCodebookKeys(const CodecConfig& config) {
  const auto codebook = Codebook(config);
  if (!codebook) return codebook.error();
  return std::unique_ptr<KeyCodec>(std::make_unique<CodebookKeys>(Rows(config, *codebook)));
}

Result<std::unique_ptr<ValueCodec>> MakeCodebookValues(const CodecConfig& config) {
  const auto codebook = Codebook(config);
  if (!codebook) return codebook.error();
  return std::unique_ptr<ValueCodec>(std::make_unique<CodebookValues>(Rows(config, *codebook)));
}

/// All 256 combinations of four numbers of the 2-bit Lloyd-Max codebook for N(0,1).
Example ExampleCodebook(const CodecConfig&) {
  const float levels[] = {-1.510418f, -0.452780f, 0.452780f, 1.510418f};
  ExampleTensor tensor{"toy.codebook", {kWords, kPart}, {}};
  for (std::size_t w = 0; w < kWords; ++w) {
    for (std::size_t k = 0; k < kPart; ++k) tensor.values.push_back(levels[w >> (2 * k) & 3]);
  }
  Example example;
  example.tensors.push_back(std::move(tensor));
  return example;
}

}  // namespace

const Codec kToyCodebook{.name = "toy_codebook",
                         .summary = "2 bits per number from a calibrated codebook",
                         .params = {},
                         .make_keys = MakeCodebookKeys,
                         .make_values = MakeCodebookValues,
                         .example = ExampleCodebook};

}  // namespace kvant::quantizers::test
