#include "tools/kvantctl/codec_figures.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "tools/codec_calls.h"
#include "tools/made_codec.h"

namespace kvant::tools {
namespace {

using quantizers::Side;

constexpr std::size_t kQueries = 4;
constexpr float kBiasNorm = 605.0F;

/// What the bytes of an encoded block are (quantizers/code_form.h).
CodecForm FormOf(const quantizers::BlockCodec& codec) {
  const quantizers::CodeForm form = codec.form();
  CodecForm shown{.family = std::string(CodeFamilyName(form.family)),
                  .order = std::string(CodeOrderName(form.order)),
                  .bits = form.bits,
                  .magnitudes = {},
                  .first_level = form.first_level,
                  .level_unit = form.level_unit,
                  .scale_format = std::string(ScaleFormatName(form.scale_format)),
                  .scale_offset = form.scale_offset,
                  .rotated = form.rotated,
                  .centered = form.centered,
                  .part_bytes = {}};
  if (form.magnitudes != nullptr) shown.magnitudes.assign(form.magnitudes, form.magnitudes + (1U << (form.bits - 1U)));
  for (std::size_t p = 0; p < codec.parts(); ++p) shown.part_bytes.push_back(codec.part_bytes(p));
  return shown;
}

/// The least time of a call, in nanoseconds: rounds of some 50 us, for 5 ms.
template <typename Call>
double Time(const Call& call) {
  using Clock = std::chrono::steady_clock;
  const auto nanoseconds = [](Clock::duration d) { return std::chrono::duration<double, std::nano>(d).count(); };
  double best = INFINITY;
  std::size_t calls = 1;
  for (const auto end = Clock::now() + std::chrono::milliseconds(5); Clock::now() < end;) {
    const auto begin = Clock::now();
    for (std::size_t i = 0; i < calls; ++i) call();
    const double each = nanoseconds(Clock::now() - begin) / static_cast<double>(calls);
    best = std::min(best, each);
    calls = std::clamp<std::size_t>(static_cast<std::size_t>(50'000 / std::max(each, 1.0)), 1, 10'000);
  }
  return best;
}

std::vector<float> Normal(std::size_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> numbers(n);
  for (float& number : numbers) number = normal(random);
  return numbers;
}

/// One codec at work on one block, behind a sequence's first.
class Bench {
 public:
  Bench(const quantizers::BlockCodec& codec, const CodecShape& shape)
      : codec_(codec),
        dim_(shape.head_dim),
        tokens_(shape.block_tokens),
        rows_(Normal(tokens_ * dim_, random_)),
        queries_(Normal(kQueries * dim_, random_)),
        block_(AdjacentBytes(codec)),
        encode_scratch_(codec.needs(kQueries).encode),
        prepared_(codec.needs(kQueries).prepared),
        scratch_(codec.needs(kQueries).scratch),
        logits_(kQueries * tokens_) {}

  [[nodiscard]] Result<void> Encode(const std::vector<float>& rows) {
    return codec_.Encode({.head = 0,
                          .first_position = tokens_,
                          .rows = {rows.data(), ElementType::kF32, tokens_, dim_, dim_},
                          .block = AdjacentParts(codec_, block_.data()),
                          .scratch = encode_scratch_.data()});
  }
  [[nodiscard]] double EncodeTime() {
    return Time([&] { static_cast<void>(Encode(rows_)); }) / static_cast<double>(tokens_);
  }

  void Score(const quantizers::KeyCodec& keys) {
    keys.Score({.head = 0,
                .first_position = tokens_,
                .queries = queries_.data(),
                .query_stride = dim_,
                .prepared = prepared_.data(),
                .n = kQueries,
                .block = quantizers::AsConst(AdjacentParts(codec_, block_.data())),
                .logits = logits_.data(),
                .stride = tokens_,
                .scratch = scratch_.data()});
  }
  [[nodiscard]] double ScoreTime(const quantizers::KeyCodec& keys) {
    Prepare(keys);
    return Time([&] { Score(keys); }) / static_cast<double>(tokens_);
  }
  /// `bias` is added to every row.
  [[nodiscard]] std::optional<double> ScoreError(const quantizers::KeyCodec& keys, const std::vector<float>& bias) {
    std::vector<float> rows = rows_;
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += bias[i % dim_];
    if (!Encode(rows)) return std::nullopt;
    Prepare(keys);
    Score(keys);
    double error = 0;
    for (std::size_t i = 0; i < kQueries; ++i) {
      for (std::size_t t = 0; t < tokens_; ++t) {
        double exact = 0, query2 = 0, row2 = 0;
        for (std::size_t d = 0; d < dim_; ++d) {
          const double query = double{queries_[i * dim_ + d]}, own = double{rows_[t * dim_ + d]};
          exact += query * double{rows[t * dim_ + d]};
          query2 += query * query;
          row2 += own * own;
        }
        error += std::pow(double{logits_[i * tokens_ + t]} - exact, 2) * static_cast<double>(dim_) / (query2 * row2);
      }
    }
    return error / static_cast<double>(kQueries * tokens_);
  }

  [[nodiscard]] double SumTime(const quantizers::ValueCodec& values) {
    const std::size_t floats = values.accumulator_floats(kQueries);
    std::vector<float> sums(kQueries * floats);
    std::vector<float> weights(kQueries * tokens_, 1.0F / static_cast<float>(tokens_));
    return Time([&] {
             values.Accumulate({.head = 0,
                                .first_position = tokens_,
                                .weights = weights.data(),
                                .stride = tokens_,
                                .n = kQueries,
                                .block = quantizers::AsConst(AdjacentParts(codec_, block_.data())),
                                .acc = sums.data(),
                                .acc_stride = floats,
                                .acc_floats = floats,
                                .scratch = scratch_.data()});
           }) /
           static_cast<double>(tokens_);
  }

  /// Most of it in few channels.
  [[nodiscard]] std::vector<float> Bias() {
    std::vector<float> bias = Normal(dim_, random_);
    double square = 0;
    for (float& b : bias) {
      b = b * b * b;
      square += double{b} * double{b};
    }
    for (float& b : bias) b *= kBiasNorm / static_cast<float>(std::sqrt(square));
    return bias;
  }

 private:
  void Prepare(const quantizers::KeyCodec& keys) {
    keys.Prepare({.head = 0,
                  .queries = queries_.data(),
                  .query_stride = dim_,
                  .n = kQueries,
                  .prepared = prepared_.data(),
                  .scratch = scratch_.data()});
  }

  const quantizers::BlockCodec& codec_;
  std::size_t dim_;
  std::size_t tokens_;
  std::mt19937 random_{1};
  std::vector<float> rows_;
  std::vector<float> queries_;
  AlignedBytes block_;
  AlignedBytes encode_scratch_;
  AlignedBytes prepared_;
  AlignedBytes scratch_;
  std::vector<float> logits_;
};

std::optional<CodecMeasurement> Measure(const MadeCodec& made, const CodecShape& shape) {
  // Examples of calibration are for rows of their own; keys before RoPE are scored turned, which needs another reference.
  if (!made.mean.empty() || (made.keys != nullptr && made.keys->pre_rope())) return std::nullopt;
  Bench bench(made.codec(), shape);
  CodecMeasurement measured;
  if (made.keys != nullptr) {
    const auto error = bench.ScoreError(*made.keys, std::vector<float>(shape.head_dim));
    const auto biased = bench.ScoreError(*made.keys, bench.Bias());
    if (!error || !biased) return std::nullopt;
    measured.score_error = *error;
    measured.biased_score_error = *biased;
    measured.encode_ns = bench.EncodeTime();
    measured.attend_ns = bench.ScoreTime(*made.keys);
  } else {
    measured.encode_ns = bench.EncodeTime();
    measured.attend_ns = bench.SumTime(*made.values);
  }
  return measured;
}

}  // namespace

std::optional<CodecFigures> FiguresOf(const quantizers::Registry& registry, const std::string& spec, Side side,
                                      const CodecShape& shape) {
  const auto made = MakeWithExample(registry, spec, side, shape.head_dim, shape.block_tokens);
  if (!made) return std::nullopt;
  const quantizers::BlockCodec& codec = made->codec();
  CodecFigures figures;
  const auto bytes = static_cast<double>(codec.block_bytes());
  figures.bits_per_element = 8.0 * bytes / (static_cast<double>(shape.head_dim) * shape.block_tokens);
  figures.bytes_per_row = bytes / shape.block_tokens;
  figures.expected_error = codec.expected_error(codec.parts());
  figures.calibrated = made->artifact != nullptr;
  figures.pre_rope = made->keys != nullptr && made->keys->pre_rope();
  figures.rows_alone = codec.traits().rows_alone;
  figures.form = FormOf(codec);
  if (shape.measure) figures.measured = Measure(*made, shape);
  return figures;
}

}  // namespace kvant::tools
