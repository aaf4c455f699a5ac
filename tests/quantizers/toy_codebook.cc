// Block: per token, one f32 scale (the row's root mean square) and head_dim / 4 codeword numbers of one byte.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/raw/rows.h"
#include "quantizers/artifact.h"
#include "tests/quantizers/toy_codecs.h"

namespace kvant::quantizers::test {
namespace {

constexpr std::size_t kPart = 4;
constexpr std::size_t kWords = 256;
constexpr std::size_t kMaxDim = 1024;

/// What both sides share.
class Rows {
 public:
  Rows(const CodecConfig& config, std::span<const float> codebook)
      : dim_(config.head_dim), tokens_(config.block_tokens), codebook_(codebook) {}

  [[nodiscard]] std::size_t parts() const noexcept { return dim_ / kPart; }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::size_t block_bytes() const noexcept { return tokens_ * (sizeof(float) + parts()); }
  [[nodiscard]] const float* Word(std::size_t w) const { return codebook_.data() + w * kPart; }
  [[nodiscard]] std::size_t Code(const std::byte* block, std::size_t t, std::size_t part) const {
    return std::to_integer<std::size_t>(block[tokens_ * sizeof(float) + t * parts() + part]);
  }
  [[nodiscard]] float Scale(const std::byte* block, std::size_t t) const {
    float scale;
    std::memcpy(&scale, block + t * sizeof(float), sizeof(scale));
    return scale;
  }

  [[nodiscard]] Result<void> Encode(const RowsView& rows, std::byte* block) const {
    float row[kMaxDim];
    for (std::size_t t = 0; t < tokens_; ++t) {
      const auto* src = static_cast<const std::byte*>(rows.data) + t * rows.stride * ElementBytes(rows.type);
      if (!(kernels::LoadRow(src, rows.type, dim_, row) <= 1e30f)) {
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

  void Decode(const std::byte* block, std::size_t begin, std::size_t end, float* rows) const {
    for (std::size_t t = begin; t < end; ++t) {
      for (std::size_t k = 0; k < dim_; ++k)
        rows[(t - begin) * dim_ + k] = Scale(block, t) * Word(Code(block, t, k / kPart))[k % kPart];
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
  [[nodiscard]] std::size_t block_bytes() const noexcept override { return rows_.block_bytes(); }
  [[nodiscard]] Result<void> Encode(std::size_t, std::uint64_t, const RowsView& rows, std::byte* block) const override {
    return rows_.Encode(rows, block);
  }
  void Decode(std::size_t, std::uint64_t, const std::byte* block, std::size_t begin, std::size_t end,
              float* rows) const override {
    rows_.Decode(block, begin, end, rows);
  }

  // Prepared: per query a table of [parts, 256] partial dot products.
  [[nodiscard]] std::size_t prepared_bytes(std::size_t n) const noexcept override {
    return n * rows_.parts() * kWords * sizeof(float);
  }
  void PrepareQueries(std::size_t, const float* queries, std::size_t n, std::byte* prepared) const override {
    auto* table = reinterpret_cast<float*>(prepared);
    for (std::size_t i = 0; i < n * rows_.parts(); ++i) {
      for (std::size_t w = 0; w < kWords; ++w) {
        float sum = 0;
        for (std::size_t k = 0; k < kPart; ++k) sum += queries[i * kPart + k] * rows_.Word(w)[k];
        table[i * kWords + w] = sum;
      }
    }
  }
  void Score(std::size_t, std::uint64_t, const std::byte* prepared, std::size_t n, const std::byte* block, float* logits,
             std::size_t stride, const std::byte*, std::size_t) const override {
    for (std::size_t i = 0; i < n; ++i) {
      const float* table = reinterpret_cast<const float*>(prepared) + i * rows_.parts() * kWords;
      for (std::size_t t = 0; t < rows_.tokens(); ++t) {
        float sum = 0;
        for (std::size_t part = 0; part < rows_.parts(); ++part) sum += table[part * kWords + rows_.Code(block, t, part)];
        logits[i * stride + t] = sum * rows_.Scale(block, t);
      }
    }
  }

 private:
  Rows rows_;
};

class CodebookValues final : public ValueCodec {
 public:
  explicit CodebookValues(const Rows& rows) : rows_(rows) {}
  [[nodiscard]] std::size_t block_bytes() const noexcept override { return rows_.block_bytes(); }
  [[nodiscard]] Result<void> Encode(std::size_t, std::uint64_t, const RowsView& rows, std::byte* block) const override {
    return rows_.Encode(rows, block);
  }
  void Decode(std::size_t, std::uint64_t, const std::byte* block, std::size_t begin, std::size_t end,
              float* rows) const override {
    rows_.Decode(block, begin, end, rows);
  }

  [[nodiscard]] std::size_t accumulator_floats() const noexcept override { return rows_.parts() * kWords; }
  [[nodiscard]] std::size_t accumulate_scratch_bytes(std::size_t) const noexcept override { return 0; }
  void Accumulate(std::size_t, const float* weights, std::size_t stride, std::size_t n, const std::byte* block, float* acc,
                  std::size_t acc_stride, std::byte*, const std::byte*, std::size_t) const override {
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t t = 0; t < rows_.tokens(); ++t) {
        const float weight = weights[i * stride + t] * rows_.Scale(block, t);
        for (std::size_t part = 0; part < rows_.parts(); ++part)
          acc[i * acc_stride + part * kWords + rows_.Code(block, t, part)] += weight;
      }
    }
  }
  void Finish(std::size_t, const float* acc, std::size_t acc_stride, const float*, std::size_t n, float* rows) const override {
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t k = 0; k < rows_.dim(); ++k) {
        const float* bins = acc + i * acc_stride + k / kPart * kWords;
        double sum = 0;
        for (std::size_t w = 0; w < kWords; ++w) sum += double{bins[w]} * double{rows_.Word(w)[k % kPart]};
        rows[i * rows_.dim() + k] = static_cast<float>(sum);
      }
    }
  }

 private:
  Rows rows_;
};

Result<std::span<const float>> Codebook(const CodecConfig& config) {
  if (config.artifact == nullptr)
    return Error{ErrorCode::kInvalidArgument, "codec toy_codebook needs the artifact tensor toy.codebook"};
  return config.artifact->Find("toy.codebook", kWords, kPart);
}

Result<std::unique_ptr<KeyCodec>> MakeKeys(const CodecConfig& config) {
  const auto codebook = Codebook(config);
  if (!codebook) return codebook.error();
  return std::unique_ptr<KeyCodec>(std::make_unique<CodebookKeys>(Rows(config, *codebook)));
}

Result<std::unique_ptr<ValueCodec>> MakeValues(const CodecConfig& config) {
  const auto codebook = Codebook(config);
  if (!codebook) return codebook.error();
  return std::unique_ptr<ValueCodec>(std::make_unique<CodebookValues>(Rows(config, *codebook)));
}

/// With the product of four 2-bit Lloyd-Max codebooks for N(0,1).
double LloydError(Side, std::uint32_t, std::span<const std::int64_t>) { return 0.1174818478; }

}  // namespace

const Codec kToyCodebook{.name = "toy_codebook",
                         .summary = "2 bits per number from a calibrated codebook",
                         .params = {},
                         .block_multiple = nullptr,
                         .gaussian_error = LloydError,
                         .make_keys = MakeKeys,
                         .make_values = MakeValues};

}  // namespace kvant::quantizers::test
