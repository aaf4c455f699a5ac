// Block: the mean row of its tokens and a step per channel, head_dim f32 each, then head_dim codes in [-127, 127] per token.
#include <algorithm>
#include <cmath>
#include <memory>

#include "tests/quantizers/toy_arithmetic.h"
#include "tests/quantizers/toy_codecs.h"

namespace kvant::quantizers::test {
namespace {

constexpr float kLargest = 1e36f;  // sums over a block stay within f32

class BlockMeanKeys final : public KeyCodec {
 public:
  explicit BlockMeanKeys(const CodecConfig& config) : dim_(config.head_dim), tokens_(config.block_tokens) {}

  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return 2 * row_bytes() + tokens_ * dim_; }
  [[nodiscard]] CodecTraits traits() const noexcept override { return {.rows_alone = false, .largest_norm = kLargest}; }
  /// Depends on how the rows of a block agree with each other, so it is not known beforehand.
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return std::nullopt; }
  // Encode: all rows. Score: one query times the block's steps.
  [[nodiscard]] Needs needs(std::size_t) const noexcept override {
    return {.encode = tokens_ * row_bytes(), .scratch = row_bytes()};
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    auto* rows = reinterpret_cast<float*>(args.scratch);
    for (std::size_t t = 0; t < tokens_; ++t) {
      if (!(LoadRowOf(args.rows, t, rows + t * dim_) <= kLargest)) {
        return Error{ErrorCode::kNotFinite, "row " + std::to_string(t) + " is not finite or too large"};
      }
    }
    auto* mean = reinterpret_cast<float*>(args.block.part[0]);
    auto* step = mean + dim_;
    auto* codes = reinterpret_cast<std::int8_t*>(step + dim_);
    for (std::size_t k = 0; k < dim_; ++k) {
      double sum = 0;
      for (std::size_t t = 0; t < tokens_; ++t) sum += double{rows[t * dim_ + k]};
      mean[k] = static_cast<float>(sum / static_cast<double>(tokens_));
      float largest = 0;
      for (std::size_t t = 0; t < tokens_; ++t) largest = std::max(largest, std::fabs(rows[t * dim_ + k] - mean[k]));
      step[k] = largest / 127.0f;
      for (std::size_t t = 0; t < tokens_; ++t) {
        const float code = step[k] > 0 ? std::nearbyint((rows[t * dim_ + k] - mean[k]) / step[k]) : 0.0f;
        codes[t * dim_ + k] = static_cast<std::int8_t>(std::clamp(code, -127.0f, 127.0f));
      }
    }
    return {};
  }
  void Decode(const DecodeArgs& args) const override {
    const View block = At(args.block);
    for (std::size_t t = args.begin; t < args.end; ++t) {
      for (std::size_t k = 0; k < dim_; ++k) {
        Put(args.rows[(t - args.begin) * args.row_stride + k],
            block.mean[k] + static_cast<float>(block.codes[t * dim_ + k]) * block.step[k], args.add);
      }
    }
  }

  void Prepare(const PrepareArgs&) const override {}  // nothing is common to all blocks
  void Score(const ScoreArgs& args) const override {
    const View block = At(args.block);
    auto* scaled = reinterpret_cast<float*>(args.scratch);
    for (std::size_t i = 0; i < args.n; ++i) {
      const float* query = args.queries + i * args.query_stride;
      for (std::size_t k = 0; k < dim_; ++k) scaled[k] = query[k] * block.step[k];
      const double common = Dot(query, block.mean, dim_);
      for (std::size_t t = 0; t < tokens_; ++t) {
        double sum = common;
        for (std::size_t k = 0; k < dim_; ++k) sum += double{scaled[k]} * block.codes[t * dim_ + k];
        Put(args.logits[i * args.stride + t], static_cast<float>(sum), args.add);
      }
    }
  }

 private:
  struct View {
    const float* mean;
    const float* step;
    const std::int8_t* codes;
  };
  [[nodiscard]] View At(const ConstBlockView& block) const {
    const auto* mean = reinterpret_cast<const float*>(block.part[0]);
    return {mean, mean + dim_, reinterpret_cast<const std::int8_t*>(mean + 2 * dim_)};
  }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return dim_ * sizeof(float); }

  std::size_t dim_;
  std::size_t tokens_;
};

}  // namespace

const Codec kToyBlockMean{.name = "toy_block_mean",
                          .summary = "8-bit keys around each block's own mean, with a step per channel",
                          .params = {},
                          .make_keys = [](const CodecConfig& config) -> Result<std::unique_ptr<KeyCodec>> {
                            return std::unique_ptr<KeyCodec>(std::make_unique<BlockMeanKeys>(config));
                          }};

}  // namespace kvant::quantizers::test
