#include "tests/quantizers/conformance.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>

#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include "kernels/raw/reference/rows.h"
#include "kernels/raw/rows.h"
#include "kernels/reference/rope.h"
#include "tests/quantizers/allocations.h"
#include "tests/quantizers/guarded_bytes.h"
#include "tools/codec_calls.h"

namespace kvant::quantizers::test {
namespace {

constexpr std::uint32_t kHeads = 3;
constexpr std::uint32_t kFirstHead = 1;  // the codec serves the last two: one that counts from 0 must not pass by luck
constexpr std::size_t kHead = 2;
constexpr std::uint64_t kSeed = 20240607;
// Float arithmetic of a dot product over up to 1024 numbers, relative to |a| |b|.
constexpr double kFloatError = 1e-6;
// Share of a codec's own squared error that its integer arithmetic may add.
constexpr double kHiddenShare = 0.05;

std::vector<float> Gaussian(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

RowsView View(const std::vector<float>& rows, std::size_t dim) {
  return {rows.data(), ElementType::kF32, rows.size() / dim, dim, dim};
}

/// Memory for an encoded block.
class Block {
 public:
  explicit Block(const BlockCodec& codec) : codec_(codec), bytes_(tools::AdjacentBytes(codec)) {}
  [[nodiscard]] BlockView view() { return tools::AdjacentParts(codec_, bytes_.data()); }
  [[nodiscard]] ConstBlockView first(std::size_t parts) {
    ConstBlockView block = AsConst(view());
    block.parts = parts;
    for (std::size_t p = parts; p < kMaxParts; ++p) block.part[p] = nullptr;
    return block;
  }
  /// What the codec wrote: without the padding between parts.
  [[nodiscard]] std::vector<std::byte> bytes() {
    std::vector<std::byte> all;
    const BlockView block = view();
    for (std::size_t p = 0; p < block.parts; ++p) all.insert(all.end(), block.part[p], block.part[p] + codec_.part_bytes(p));
    return all;
  }
  [[nodiscard]] bool intact() const { return bytes_.intact(); }

 private:
  const BlockCodec& codec_;
  GuardedBytes bytes_;
};

/// Encodes with scratch of the promised size, and sees that nothing else is written and nothing allocated.
Result<void> Encode(const BlockCodec& codec, std::uint64_t position, const RowsView& rows, Block& block) {
  GuardedBytes scratch(codec.needs(0).encode);
  const std::size_t before = Allocations();
  auto stored =
      codec.Encode({.head = kHead, .first_position = position, .rows = rows, .block = block.view(), .scratch = scratch.data()});
  if (stored) {
    EXPECT_EQ(Allocations(), before) << "Encode allocates";
  }
  EXPECT_TRUE(block.intact()) << "Encode writes beyond its block";
  EXPECT_TRUE(scratch.intact()) << "Encode writes beyond its scratch";
  return stored;
}

struct DecodeCall {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t row_stride = 0;
  bool add = false;
};

void DecodeInto(const BlockCodec& codec, std::uint64_t position, const ConstBlockView& block, const DecodeCall& call,
                float* rows) {
  GuardedBytes scratch(codec.needs(0).decode);
  const std::size_t before = Allocations();
  codec.Decode({.head = kHead,
                .first_position = position,
                .block = block,
                .begin = call.begin,
                .end = call.end,
                .rows = rows,
                .row_stride = call.row_stride,
                .add = call.add,
                .scratch = scratch.data()});
  EXPECT_EQ(Allocations(), before) << "Decode allocates";
  EXPECT_TRUE(scratch.intact()) << "Decode writes beyond its scratch";
}

/// Queries prepared for scoring.
class Prepared {
 public:
  Prepared(const KeyCodec& codec, const float* queries, std::size_t stride, std::size_t n)
      : codec_(codec),
        queries_(queries),
        stride_(stride),
        n_(n),
        prepared_(codec.needs(n).prepared),
        scratch_(codec.needs(n).scratch) {
    const std::size_t before = Allocations();
    codec.Prepare({.head = kHead,
                   .queries = queries,
                   .query_stride = stride,
                   .n = n,
                   .prepared = prepared_.data(),
                   .scratch = scratch_.data()});
    EXPECT_EQ(Allocations(), before) << "Prepare allocates";
    EXPECT_TRUE(prepared_.intact() && scratch_.intact()) << "Prepare writes beyond its memory";
  }

  void Score(std::uint64_t position, const ConstBlockView& block, float* logits, std::size_t stride, bool add = false,
             Ahead next = {}) {
    const std::size_t before = Allocations();
    codec_.Score({.head = kHead,
                  .first_position = position,
                  .queries = queries_,
                  .query_stride = stride_,
                  .prepared = prepared_.data(),
                  .n = n_,
                  .block = block,
                  .logits = logits,
                  .stride = stride,
                  .add = add,
                  .scratch = scratch_.data(),
                  .next = next});
    EXPECT_EQ(Allocations(), before) << "Score allocates";
    EXPECT_TRUE(prepared_.intact() && scratch_.intact()) << "Score writes beyond its memory";
  }

 private:
  const KeyCodec& codec_;
  const float* queries_;
  std::size_t stride_;
  std::size_t n_;
  GuardedBytes prepared_;
  GuardedBytes scratch_;
};

/// Accumulators of n queries with room between them.
class Sums {
 public:
  Sums(const ValueCodec& codec, std::size_t n, std::size_t queries_of_call)
      : codec_(codec),
        n_(n),
        floats_(codec.accumulator_floats(queries_of_call)),
        stride_(floats_ + 2),
        acc_(n * stride_, 0.0f),
        scratch_(codec.needs(n).scratch) {}

  void Add(const float* weights, std::size_t stride, const ConstBlockView& block, Ahead next = {}) {
    const std::size_t before = Allocations();
    codec_.Accumulate({.head = kHead,
                       .first_position = 0,
                       .weights = weights,
                       .stride = stride,
                       .n = n_,
                       .block = block,
                       .acc = acc_.data(),
                       .acc_stride = stride_,
                       .acc_floats = floats_,
                       .scratch = scratch_.data(),
                       .next = next});
    EXPECT_EQ(Allocations(), before) << "Accumulate allocates";
    EXPECT_TRUE(scratch_.intact()) << "Accumulate writes beyond its scratch";
  }

  void Finish(const float* weight_sums, float* rows, std::size_t row_stride, bool add = false) {
    const std::size_t before = Allocations();
    codec_.Finish({.head = kHead,
                   .acc = acc_.data(),
                   .acc_stride = stride_,
                   .acc_floats = floats_,
                   .weight_sums = weight_sums,
                   .n = n_,
                   .rows = rows,
                   .row_stride = row_stride,
                   .add = add,
                   .scratch = scratch_.data()});
    EXPECT_EQ(Allocations(), before) << "Finish allocates";
    EXPECT_TRUE(scratch_.intact()) << "Finish writes beyond its scratch";
  }

  [[nodiscard]] std::vector<float> Of(std::size_t query) const {
    const auto begin = acc_.begin() + static_cast<std::ptrdiff_t>(query * stride_);
    return {begin, begin + static_cast<std::ptrdiff_t>(floats_)};
  }

 private:
  const ValueCodec& codec_;
  std::size_t n_;
  std::size_t floats_;
  std::size_t stride_;
  std::vector<float> acc_;
  GuardedBytes scratch_;
};

CodecConfig Config(const Registry& registry, std::uint32_t kv_heads, std::size_t head_dim, std::size_t tokens) {
  return {.layer = 0,
          .kv_heads = kv_heads,
          .head_begin = 0,
          .head_end = kv_heads,
          .head_dim = static_cast<std::uint32_t>(head_dim),
          .block_tokens = static_cast<std::uint32_t>(tokens),
          .model = "model",
          .registry = &registry};
}

Example ExampleFor(const ParsedSpec& parsed, CodecConfig config, Side side) {
  if (side == Side::kKeys ? parsed.codec->make_keys == nullptr : parsed.codec->make_values == nullptr) return {};
  config.side = side;
  return ExampleOf(parsed, config);
}

std::string SideName(Side side) { return side == Side::kKeys ? "keys" : "values"; }

}  // namespace

std::vector<std::byte> ExampleArtifact(const Registry& registry, const std::string& spec, std::uint32_t kv_heads,
                                       std::size_t head_dim) {
  const ParsedSpec parsed = registry.Parse(spec).value();
  std::vector<ExampleTensor> tensors;
  for (const Side side : {Side::kKeys, Side::kValues}) {
    for (ExampleTensor& tensor : ExampleFor(parsed, Config(registry, kv_heads, head_dim, 128), side).tensors) {
      const bool known =
          std::any_of(tensors.begin(), tensors.end(), [&](const ExampleTensor& other) { return other.name == tensor.name; });
      if (!known) tensors.push_back(std::move(tensor));
    }
  }
  return tensors.empty() ? std::vector<std::byte>() : ArtifactImage(tensors);
}

ConformanceCase::ConformanceCase(const Registry& registry, const std::string& spec, std::size_t head_dim, const RopeSpec& rope)
    : spec_(spec), dim_(head_dim), rope_(rope) {
  const ParsedSpec parsed = registry.Parse(spec).value();
  while (tokens_ % BlockMultiple(parsed) != 0) tokens_ += 16;
  if (const auto image = ExampleArtifact(registry, spec, kHeads, dim_); !image.empty()) {
    artifact_ = std::move(Artifact::Make(image)).value();
  }
  CodecConfig config = Config(registry, kHeads, dim_, tokens_);
  for (const Side side : {Side::kKeys, Side::kValues}) {
    std::vector<float>& mean = means_[static_cast<std::size_t>(side)];
    const Example example = ExampleFor(parsed, config, side);
    mean.assign(dim_, 0.0f);
    if (!example.mean.empty())
      std::copy_n(example.mean.begin() + static_cast<std::ptrdiff_t>(kHead * dim_), dim_, mean.begin());
  }
  config.head_begin = kFirstHead;
  config.rope = rope_;
  config.artifact = artifact_.get();
  if (parsed.codec->make_keys != nullptr) {
    auto made = MakeKeys(parsed, config);
    if (made) keys_ = *std::move(made);
    if (!made) {
      EXPECT_EQ(made.error().code, ErrorCode::kUnsupported) << made.error().message;
    }
  }
  if (parsed.codec->make_values != nullptr) {
    auto made = MakeValues(parsed, config);
    if (made) values_ = *std::move(made);
    if (!made) {
      EXPECT_EQ(made.error().code, ErrorCode::kUnsupported) << made.error().message;
    }
  }
}

const BlockCodec& ConformanceCase::codec(Side side) const {
  if (side == Side::kKeys) return *keys_;
  return *values_;
}

/// A block of independent rows of N(mean, 1): what the codec is made for.
std::vector<float> ConformanceCase::NormalRows(Side side, std::uint64_t seed) const {
  auto rows = Gaussian(tokens_ * dim_, seed);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += means_[static_cast<std::size_t>(side)][i % dim_];
  return rows;
}

std::vector<float> ConformanceCase::Decode(Side side, std::uint64_t position, const ConstBlockView& block) const {
  std::vector<float> rows(tokens_ * dim_);
  DecodeInto(codec(side), position, block, {.begin = 0, .end = tokens_, .row_stride = dim_}, rows.data());
  return rows;
}

void ConformanceCase::CheckAll() const {
  for (const Side side : {Side::kKeys, Side::kValues}) {
    if (side == Side::kKeys ? keys_ == nullptr : values_ == nullptr) continue;
    SCOPED_TRACE(spec_ + " " + SideName(side) + " head_dim " + std::to_string(dim_) + " block_tokens " +
                 std::to_string(tokens_));
    ASSERT_GE(codec(side).parts(), 1u);
    ASSERT_LE(codec(side).parts(), kMaxParts);
    CheckRoundTrip(side);
    CheckDecodeOfRanges(side);
    CheckInputForms(side);
    CheckRefusals(side);
    CheckSpecialRows(side);
  }
  SCOPED_TRACE(spec_ + " head_dim " + std::to_string(dim_) + " block_tokens " + std::to_string(tokens_));
  if (keys_ != nullptr) CheckScores();
  if (values_ != nullptr) CheckSums();
}

void ConformanceCase::CheckRoundTrip(Side side) const {
  const std::vector<float>& mean = means_[static_cast<std::size_t>(side)];
  for (std::size_t parts = 1; parts <= codec(side).parts(); ++parts) {
    Block block(codec(side));
    // Enough rows for a few thousand numbers' worth of statistics, in whole blocks.
    const std::size_t blocks = std::max<std::size_t>(2, 1024 / tokens_);
    double sum = 0;
    double sum_of_squares = 0;
    for (std::size_t b = 0; b < blocks; ++b) {
      const auto rows = NormalRows(side, kSeed + b);
      const auto stored = Encode(codec(side), b * tokens_, View(rows, dim_), block);
      ASSERT_TRUE(stored) << stored.error().message;
      const auto decoded = Decode(side, b * tokens_, block.first(parts));
      for (std::size_t t = 0; t < tokens_; ++t) {
        double error = 0;
        double norm = 0;
        for (std::size_t k = 0; k < dim_; ++k) {
          const double x = rows[t * dim_ + k];
          error += std::pow(x - static_cast<double>(decoded[t * dim_ + k]), 2);
          norm += std::pow(x - static_cast<double>(mean[k]), 2);
        }
        sum += error / norm;
        sum_of_squares += std::pow(error / norm, 2);
      }
    }
    const std::optional<double> declared = codec(side).expected_error(parts);
    if (!declared) continue;
    const auto n = static_cast<double>(blocks * tokens_);
    const double average = sum / n;
    const double standard_error = std::sqrt(std::max(0.0, sum_of_squares / n - average * average) / n);
    // Five standard errors, and what a formula leaves out: 2 %, more for tiny heads, whose rows are far from N(0,1) once
    // normalised. The mean is in floats.
    const double slack = dim_ >= 64 ? 0.02 : 0.4;
    EXPECT_NEAR(average, *declared, 5 * standard_error + slack * *declared + kFloatError * kFloatError) << parts << " parts";
  }
}

void ConformanceCase::CheckDecodeOfRanges(Side side) const {
  Block block(codec(side));
  ASSERT_TRUE(Encode(codec(side), 0, View(NormalRows(side, kSeed), dim_), block));
  for (std::size_t parts = 1; parts <= codec(side).parts(); ++parts) {
    const ConstBlockView read = block.first(parts);
    const auto all = Decode(side, 0, read);
    for (const auto& [begin, end] :
         {std::pair<std::size_t, std::size_t>{0, 0}, {0, 1}, {3, 3}, {5, 14}, {tokens_ - 1, tokens_}}) {
      for (const std::size_t stride : {dim_, dim_ + 5}) {
        for (const bool add : {false, true}) {
          std::vector<float> rows((end - begin) * stride + 1, 7.0f);
          DecodeInto(codec(side), 0, read, {begin, end, stride, add}, rows.data());
          for (std::size_t i = 0; i < rows.size(); ++i) {
            const std::size_t t = begin + i / stride, k = i % stride;
            const float expected = t >= end || k >= dim_ ? 7.0f : (add ? 7.0f : 0.0f) + all[t * dim_ + k];
            // Adding rounds; a codec may round in another order, by a few units of the last place.
            const float slack = add ? 4e-6f * (7.0f + std::fabs(expected)) : 0.0f;
            ASSERT_NEAR(rows[i], expected, slack) << begin << ".." << end << " stride " << stride << (add ? " added" : "");
          }
        }
      }
    }
  }
}

void ConformanceCase::CheckInputForms(Side side) const {
  for (const ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
    const auto numbers = NormalRows(side, kSeed + 1);
    std::vector<std::byte> typed(numbers.size() * ElementBytes(type));
    kernels::StoreRow(numbers.data(), numbers.size(), type, typed.data());
    std::vector<float> same(numbers.size());
    kernels::LoadRow(typed.data(), type, numbers.size(), same.data());
    Block expected(codec(side));
    ASSERT_TRUE(Encode(codec(side), 0, View(same, dim_), expected));

    // Rows apart from each other, NaN between them, at an address aligned to the element only.
    const std::size_t stride = dim_ + 7;
    std::vector<std::byte> spread((tokens_ * stride + 1) * ElementBytes(type), std::byte{0xff});
    std::byte* base = spread.data() + ElementBytes(type);
    for (std::size_t t = 0; t < tokens_; ++t) {
      std::memcpy(base + t * stride * ElementBytes(type), typed.data() + t * dim_ * ElementBytes(type),
                  dim_ * ElementBytes(type));
    }
    for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      Block block(codec(side));
      const auto stored = Encode(codec(side), 0, {base, type, tokens_, dim_, stride}, block);
      hwy::SetSupportedTargetsForTest(0);
      ASSERT_TRUE(stored) << stored.error().message;
      EXPECT_EQ(block.bytes(), expected.bytes()) << ElementTypeName(type) << " on " << hwy::TargetName(target);
    }
  }
}

void ConformanceCase::CheckRefusals(Side side) const {
  Block block(codec(side));
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  std::mt19937_64 random(kSeed + 2);
  for (const float value : bad) {
    for (int repeat = 0; repeat < 5; ++repeat) {
      auto rows = NormalRows(side, kSeed + 3);
      const std::size_t at = repeat == 0 ? 0 : repeat == 1 ? rows.size() - 1 : random() % rows.size();
      rows[at] = value;
      const auto stored = Encode(codec(side), 0, View(rows, dim_), block);
      ASSERT_FALSE(stored) << value << " at " << at;
      EXPECT_EQ(stored.error().code, ErrorCode::kNotFinite);
      EXPECT_NE(stored.error().message.find("row " + std::to_string(at / dim_)), std::string::npos) << stored.error().message;
    }
  }
}

void ConformanceCase::CheckSpecialRows(Side side) const {
  const CodecTraits traits = codec(side).traits();
  Block block(codec(side));
  const auto encode = [&](const std::vector<float>& rows) { return Encode(codec(side), 0, View(rows, dim_), block); };
  const auto decoded = [&] { return Decode(side, 0, AsConst(block.view())); };
  const auto finite = [&] {
    const auto rows = decoded();
    return std::all_of(rows.begin(), rows.end(), [](float x) { return std::isfinite(x); });
  };
  std::vector<float> rows(tokens_ * dim_, 0.0f);
  ASSERT_TRUE(encode(rows));
  EXPECT_TRUE(finite());
  if (traits.exact_zero) {
    EXPECT_EQ(decoded(), rows);
  }
  // A zero row among others.
  auto mixed = NormalRows(side, kSeed + 4);
  std::fill_n(mixed.begin(), dim_, 0.0f);
  ASSERT_TRUE(encode(mixed));
  EXPECT_TRUE(finite());

  std::fill(rows.begin(), rows.end(), 1e-42f);
  ASSERT_TRUE(encode(rows));
  EXPECT_TRUE(finite());
  std::fill(rows.begin(), rows.end(), -2.5f);  // all rows equal, all numbers equal
  ASSERT_TRUE(encode(rows));
  EXPECT_TRUE(finite());
  // The largest rows: equal numbers, and one number that has all of the norm.
  EXPECT_GE(traits.largest_norm, 65504.0f) << "less than f16 holds";
  std::fill(rows.begin(), rows.end(), 0.999f * traits.largest_norm / std::sqrt(static_cast<float>(dim_)));
  const auto equal = encode(rows);
  EXPECT_TRUE(equal && finite()) << (equal ? "not finite" : equal.error().message);
  std::fill(rows.begin(), rows.end(), 0.0f);
  for (std::size_t t = 0; t < tokens_; ++t) rows[t * dim_ + t % dim_] = 0.999f * traits.largest_norm;
  const auto single = encode(rows);
  EXPECT_TRUE(single && finite()) << (single ? "not finite" : single.error().message);
  std::fill(rows.begin(), rows.end(), std::numeric_limits<float>::max());
  const auto huge = encode(rows);
  EXPECT_TRUE(huge ? finite() : huge.error().code == ErrorCode::kNotFinite);
}

void ConformanceCase::CheckScores() const {
  const std::uint64_t position = 3 * tokens_;
  const auto original = NormalRows(Side::kKeys, kSeed + 5);
  Block encoded(*keys_);
  ASSERT_TRUE(Encode(*keys_, position, View(original, dim_), encoded));
  // Rows as they meet the query: after RoPE where the codec stores them before it.
  const auto turned = [&](const std::vector<float>& rows) {
    std::vector<double> out(rows.begin(), rows.end());
    for (std::size_t t = 0; t < tokens_ && keys_->pre_rope(); ++t)
      kernels::reference::Rotate(rope_, dim_, out.data() + t * dim_, position + t);
    return out;
  };
  const auto original_rows = turned(original);
  // Queries apart from each other, NaN between them.
  const std::size_t query_stride = dim_ + 3;
  const auto queries = Gaussian(kMaxQueries * dim_, kSeed + 6);
  std::vector<float> spread(kMaxQueries * query_stride, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t i = 0; i < queries.size(); ++i) spread[i / dim_ * query_stride + i % dim_] = queries[i];

  for (std::size_t parts = 1; parts <= keys_->parts(); ++parts) {
    const ConstBlockView block = encoded.first(parts);
    const auto expected_rows = turned(Decode(Side::kKeys, position, block));
    for (const std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{4}, std::size_t{7}, kMaxQueries}) {
      Prepared prepared(*keys_, spread.data(), query_stride, n);
      const std::size_t stride = tokens_ + 3;
      std::vector<float> logits(n * stride, -77.0f);
      prepared.Score(position, block, logits.data(), stride);
      double hidden = 0;
      double own = 0;
      double scale = 0;
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t t = 0; t < tokens_; ++t) {
          double expected = 0;
          double exact = 0;
          double row_norm = 0;
          double query_norm = 0;
          for (std::size_t k = 0; k < dim_; ++k) {
            const double q = queries[i * dim_ + k];
            expected += q * expected_rows[t * dim_ + k];
            exact += q * original_rows[t * dim_ + k];
            row_norm += original_rows[t * dim_ + k] * original_rows[t * dim_ + k];
            query_norm += q * q;
          }
          hidden += std::pow(static_cast<double>(logits[i * stride + t]) - expected, 2);
          own += std::pow(expected - exact, 2);
          scale += row_norm * query_norm;
        }
        for (std::size_t t = tokens_; t < stride; ++t)
          ASSERT_EQ(logits[i * stride + t], -77.0f) << "Score writes beyond the block's tokens";
      }
      EXPECT_LE(hidden, kHiddenShare * own + kFloatError * kFloatError * scale) << n << " queries, own squared error " << own;

      // A query's scores do not depend on its company, its stride, nor on the prefetch hint.
      Prepared single(*keys_, queries.data() + (n - 1) * dim_, dim_, 1);
      std::vector<float> one(tokens_);
      single.Score(position, block, one.data(), tokens_, false, {block.part[0], keys_->part_bytes(0)});
      EXPECT_TRUE(std::equal(one.begin(), one.end(), logits.begin() + static_cast<std::ptrdiff_t>((n - 1) * stride))) << n;

      // Added, they stand on top of what was there.
      std::vector<float> sums(n * stride, 3.0f);
      prepared.Score(position, block, sums.data(), stride, /*add=*/true);
      for (std::size_t i = 0; i < sums.size(); ++i) {
        const float expected = i % stride < tokens_ ? 3.0f + logits[i] : 3.0f;
        ASSERT_NEAR(sums[i], expected, 4e-6f * (3.0f + std::fabs(expected))) << n << " queries, added";
      }
    }
    Prepared nothing(*keys_, queries.data(), dim_, 0);
    nothing.Score(position, block, nullptr, tokens_);
    // All-zero queries (a scale of 0) score 0.
    const std::vector<float> zeros(dim_, 0.0f);
    std::vector<float> logits(tokens_, 1.0f);
    Prepared(*keys_, zeros.data(), dim_, 1).Score(position, block, logits.data(), tokens_);
    for (const float x : logits) EXPECT_EQ(x, 0.0f);
  }
}

void ConformanceCase::CheckSums() const {
  const auto original = NormalRows(Side::kValues, kSeed + 7);
  Block encoded(*values_);
  ASSERT_TRUE(Encode(*values_, 0, View(original, dim_), encoded));
  for (std::size_t parts = 1; parts <= values_->parts(); ++parts) {
    const ConstBlockView block = encoded.first(parts);
    const auto decoded = Decode(Side::kValues, 0, block);
    // As many queries in a call of attention as in one call of the codec, and far more.
    for (const std::size_t call : {std::size_t{1}, std::size_t{4096}}) {
      for (const std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{4}, std::size_t{7}, kMaxQueries}) {
        // Softmax weights: a few large ones, many small ones, a third of them masked.
        const std::size_t stride = tokens_ + 5;
        auto weights = Gaussian(n * stride, kSeed + 8);
        std::vector<float> totals(n, 0.0f);
        for (std::size_t i = 0; i < n; ++i) {
          for (std::size_t t = 0; t < stride; ++t) {
            float& w = weights[i * stride + t];
            w = t >= tokens_ ? std::numeric_limits<float>::quiet_NaN() : t % 3 == 1 ? 0.0f : std::exp(2 * w);
            if (t < tokens_) totals[i] += w;
          }
        }
        Sums sums(*values_, n, call);
        sums.Add(weights.data(), stride, block);
        std::vector<float> rows(n * dim_);
        sums.Finish(totals.data(), rows.data(), dim_);
        double hidden = 0;
        double own = 0;
        double norm = 0;
        for (std::size_t i = 0; i < n; ++i) {
          for (std::size_t k = 0; k < dim_; ++k) {
            double expected = 0;
            double exact = 0;
            double magnitude = 0;
            for (std::size_t t = 0; t < tokens_; ++t) {
              const double w = weights[i * stride + t];
              expected += w * static_cast<double>(decoded[t * dim_ + k]);
              exact += w * static_cast<double>(original[t * dim_ + k]);
              magnitude += std::pow(w * static_cast<double>(original[t * dim_ + k]), 2);
            }
            hidden += std::pow(static_cast<double>(rows[i * dim_ + k]) - expected, 2);
            own += std::pow(expected - exact, 2);
            norm += magnitude;
          }
        }
        EXPECT_LE(hidden, kHiddenShare * own + kFloatError * kFloatError * norm) << n << " queries, own squared error " << own;

        // With strides, overwritten or added to.
        const std::size_t row_stride = dim_ + 3;
        for (const bool add : {false, true}) {
          std::vector<float> spread(n * row_stride, 5.0f);
          sums.Finish(totals.data(), spread.data(), row_stride, add);
          for (std::size_t i = 0; i < spread.size(); ++i) {
            const std::size_t k = i % row_stride;
            const float expected = k >= dim_ ? 5.0f : (add ? 5.0f : 0.0f) + rows[i / row_stride * dim_ + k];
            ASSERT_NEAR(spread[i], expected, add ? 4e-6f * (5.0f + std::fabs(expected)) : 0.0f) << (add ? "added" : "");
          }
        }

        // Weights of 0 add nothing, and a query's sum does not depend on its company.
        const auto before = sums.Of(n - 1);
        const std::vector<float> zeros(n * tokens_, 0.0f);
        sums.Add(zeros.data(), tokens_, block);
        EXPECT_EQ(sums.Of(n - 1), before);
        Sums alone(*values_, 1, call);
        alone.Add(weights.data() + (n - 1) * stride, stride, block, {block.part[0], values_->part_bytes(0)});
        EXPECT_EQ(alone.Of(0), before) << n;
      }
    }
  }
}

std::vector<std::string> CoveringSpecs(const Registry& registry) {
  std::vector<std::string> specs;
  for (const Codec* codec : registry.codecs()) {
    const std::string name(codec->name);
    specs.push_back(name);
    for (const ParamSpec& param : codec->params) {
      std::vector<std::string> values;
      if (param.kind == ParamKind::kSpec) continue;
      for (const std::string_view choice : param.choices) values.emplace_back(choice);
      for (const std::int64_t value : param.allowed) values.push_back(std::to_string(value));
      if (values.empty() && param.kind == ParamKind::kInteger) {
        for (const double end : {param.min, param.max}) values.push_back(std::to_string(static_cast<std::int64_t>(end)));
      }
      if (values.empty()) values = {std::to_string(param.min), std::to_string(param.max)};
      for (const std::string& value : values) {
        if (value != param.default_value) specs.push_back(name + ":" + std::string(param.name) + "=" + value);
      }
    }
  }
  return specs;
}

}  // namespace kvant::quantizers::test
