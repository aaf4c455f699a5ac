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
#include "quantizers/attention/aligned_buffer.h"

namespace kvant::quantizers::test {
namespace {

constexpr std::uint32_t kHeads = 2;
constexpr std::size_t kHead = 1;  // not 0: a codec that ignores the head must not pass by luck
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

/// An encoded block in aligned memory with a canary behind it.
class Block {
 public:
  explicit Block(const BlockCodec& codec) : bytes_(codec.block_bytes()) {
    memory_.Reserve(bytes_ + kCanary);
    std::memset(memory_.data(), 0x5a, bytes_ + kCanary);
  }
  [[nodiscard]] std::byte* data() { return memory_.data(); }
  [[nodiscard]] std::vector<std::byte> bytes() { return {memory_.data(), memory_.data() + bytes_}; }
  [[nodiscard]] bool canary_intact() {
    return std::all_of(memory_.data() + bytes_, memory_.data() + bytes_ + kCanary,
                       [](std::byte b) { return b == std::byte{0x5a}; });
  }

 private:
  static constexpr std::size_t kCanary = 64;
  std::size_t bytes_;
  AlignedBuffer memory_;
};

std::vector<float> DecodeAll(const BlockCodec& codec, std::uint64_t position, Block& block, std::size_t tokens,
                             std::size_t dim) {
  std::vector<float> rows(tokens * dim);
  codec.Decode(kHead, position, block.data(), 0, tokens, rows.data());
  return rows;
}

std::string SideName(Side side) { return side == Side::kKeys ? "keys" : "values"; }

}  // namespace

ConformanceCase::ConformanceCase(const Registry& registry, const std::string& spec, std::size_t head_dim, const RopeSpec& rope,
                                 const std::vector<std::byte>& artifact)
    : spec_(spec), dim_(head_dim), rope_(rope) {
  auto parsed = registry.Parse(spec);
  if (!parsed) throw std::invalid_argument(parsed.error().message);
  parsed_ = *parsed;
  const std::size_t multiple = parsed_.codec->block_multiple == nullptr ? 1 : parsed_.codec->block_multiple(parsed_.params);
  tokens_ = 16;
  while (tokens_ % multiple != 0) tokens_ += 16;
  if (!artifact.empty()) {
    auto made = Artifact::Make(artifact);
    if (!made) throw std::invalid_argument(made.error().message);
    artifact_ = *std::move(made);
  }
  CodecConfig config{Side::kKeys,
                     0,
                     kHeads,
                     static_cast<std::uint32_t>(dim_),
                     static_cast<std::uint32_t>(tokens_),
                     "model",
                     rope_,
                     parsed_.params,
                     artifact_.get()};
  if (parsed_.codec->make_keys != nullptr) {
    auto made = parsed_.codec->make_keys(config);
    if (made) keys_ = *std::move(made);
    if (!made) {
      EXPECT_EQ(made.error().code, ErrorCode::kUnsupported) << made.error().message;
    }
  }
  config.side = Side::kValues;
  if (parsed_.codec->make_values != nullptr) {
    auto made = parsed_.codec->make_values(config);
    if (made) values_ = *std::move(made);
    if (!made) {
      EXPECT_EQ(made.error().code, ErrorCode::kUnsupported) << made.error().message;
    }
  }
}

const BlockCodec& ConformanceCase::Side_(Side side) const {
  if (side == Side::kKeys) return *keys_;
  return *values_;
}

bool ConformanceCase::centred() const { return spec_.find("center=1") != std::string::npos; }

void ConformanceCase::CheckAll() const {
  for (const Side side : {Side::kKeys, Side::kValues}) {
    if (side == Side::kKeys ? keys_ == nullptr : values_ == nullptr) continue;
    SCOPED_TRACE(spec_ + " " + SideName(side) + " head_dim " + std::to_string(dim_) + " block_tokens " +
                 std::to_string(tokens_));
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
  const BlockCodec& codec = Side_(side);
  Block block(codec);
  // Enough rows for a few thousand numbers' worth of statistics, in whole blocks.
  const std::size_t blocks = std::max<std::size_t>(2, 1024 / tokens_);
  double sum = 0;
  double sum_of_squares = 0;
  for (std::size_t b = 0; b < blocks; ++b) {
    const auto rows = Gaussian(tokens_ * dim_, kSeed + b);
    const auto stored = codec.Encode(kHead, b * tokens_, View(rows, dim_), block.data());
    ASSERT_TRUE(stored) << stored.error().message;
    ASSERT_TRUE(block.canary_intact()) << "Encode writes beyond block_bytes()";
    const auto decoded = DecodeAll(codec, b * tokens_, block, tokens_, dim_);
    for (std::size_t t = 0; t < tokens_; ++t) {
      double error = 0;
      double norm = 0;
      for (std::size_t k = t * dim_; k < (t + 1) * dim_; ++k) {
        error += std::pow(static_cast<double>(rows[k]) - static_cast<double>(decoded[k]), 2);
        norm += std::pow(static_cast<double>(rows[k]), 2);
      }
      sum += error / norm;
      sum_of_squares += std::pow(error / norm, 2);
    }
  }
  const auto n = static_cast<double>(blocks * tokens_);
  const double mean = sum / n;
  const double standard_error = std::sqrt(std::max(0.0, sum_of_squares / n - mean * mean) / n);
  const double declared = parsed_.codec->gaussian_error(side, static_cast<std::uint32_t>(dim_), parsed_.params);
  // Five standard errors, and what a formula leaves out: 2 %, more for tiny heads, whose rows are far from N(0,1) once
  // normalised. A centred codec takes means away that these rows do not have.
  const double slack = dim_ >= 64 ? 0.02 : 0.4;
  if (centred()) {
    EXPECT_GE(mean, declared * 0.9);
  } else {
    EXPECT_NEAR(mean, declared, 5 * standard_error + slack * declared);
  }
}

void ConformanceCase::CheckDecodeOfRanges(Side side) const {
  const BlockCodec& codec = Side_(side);
  Block block(codec);
  ASSERT_TRUE(codec.Encode(kHead, 0, View(Gaussian(tokens_ * dim_, kSeed), dim_), block.data()));
  const auto all = DecodeAll(codec, 0, block, tokens_, dim_);
  for (const auto& [begin, end] :
       {std::pair<std::size_t, std::size_t>{0, 0}, {0, 1}, {3, 3}, {5, 14}, {tokens_ - 1, tokens_}}) {
    std::vector<float> rows((end - begin) * dim_ + 1, 7.0f);
    codec.Decode(kHead, 0, block.data(), begin, end, rows.data());
    EXPECT_TRUE(std::equal(rows.begin(), rows.end() - 1, all.begin() + static_cast<std::ptrdiff_t>(begin * dim_)))
        << begin << ".." << end;
    EXPECT_EQ(rows.back(), 7.0f);
  }
}

void ConformanceCase::CheckInputForms(Side side) const {
  const BlockCodec& codec = Side_(side);
  for (const ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
    const auto numbers = Gaussian(tokens_ * dim_, kSeed + 1);
    std::vector<std::byte> typed(numbers.size() * ElementBytes(type));
    kernels::StoreRow(numbers.data(), numbers.size(), type, typed.data());
    std::vector<float> same(numbers.size());
    kernels::LoadRow(typed.data(), type, numbers.size(), same.data());
    Block expected(codec);
    ASSERT_TRUE(codec.Encode(kHead, 0, View(same, dim_), expected.data()));

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
      Block block(codec);
      const auto stored = codec.Encode(kHead, 0, {base, type, tokens_, dim_, stride}, block.data());
      hwy::SetSupportedTargetsForTest(0);
      ASSERT_TRUE(stored) << stored.error().message;
      EXPECT_EQ(block.bytes(), expected.bytes()) << ElementTypeName(type) << " on " << hwy::TargetName(target);
    }
  }
}

void ConformanceCase::CheckRefusals(Side side) const {
  const BlockCodec& codec = Side_(side);
  Block block(codec);
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  std::mt19937_64 random(kSeed + 2);
  for (const float value : bad) {
    for (int repeat = 0; repeat < 5; ++repeat) {
      auto rows = Gaussian(tokens_ * dim_, kSeed + 3);
      const std::size_t at = repeat == 0 ? 0 : repeat == 1 ? rows.size() - 1 : random() % rows.size();
      rows[at] = value;
      const auto stored = codec.Encode(kHead, 0, View(rows, dim_), block.data());
      ASSERT_FALSE(stored) << value << " at " << at;
      EXPECT_EQ(stored.error().code, ErrorCode::kNotFinite);
      EXPECT_NE(stored.error().message.find("row " + std::to_string(at / dim_)), std::string::npos) << stored.error().message;
    }
  }
}

void ConformanceCase::CheckSpecialRows(Side side) const {
  const BlockCodec& codec = Side_(side);
  Block block(codec);
  const auto encode = [&](const std::vector<float>& rows) { return codec.Encode(kHead, 0, View(rows, dim_), block.data()); };
  const auto finite = [&] {
    const auto decoded = DecodeAll(codec, 0, block, tokens_, dim_);
    return std::all_of(decoded.begin(), decoded.end(), [](float x) { return std::isfinite(x); });
  };
  std::vector<float> rows(tokens_ * dim_, 0.0f);
  ASSERT_TRUE(encode(rows));
  EXPECT_TRUE(finite());
  if (!centred()) {
    EXPECT_EQ(DecodeAll(codec, 0, block, tokens_, dim_), rows);
  }
  // A zero row among others.
  auto mixed = Gaussian(tokens_ * dim_, kSeed + 4);
  std::fill_n(mixed.begin(), dim_, 0.0f);
  ASSERT_TRUE(encode(mixed));
  EXPECT_TRUE(finite());

  std::fill(rows.begin(), rows.end(), 1e-42f);
  ASSERT_TRUE(encode(rows));
  EXPECT_TRUE(finite());
  std::fill(rows.begin(), rows.end(), -2.5f);  // all rows equal, all numbers equal
  ASSERT_TRUE(encode(rows));
  EXPECT_TRUE(finite());
  // Norms f16 cannot hold: only f16 itself may refuse them.
  std::fill(rows.begin(), rows.end(), 1e5f);
  const auto large = encode(rows);
  EXPECT_EQ(static_cast<bool>(large), spec_ != "f16") << (large ? "" : large.error().message);
  EXPECT_TRUE(!large || finite());
  std::fill(rows.begin(), rows.end(), std::numeric_limits<float>::max());
  const auto huge = encode(rows);
  EXPECT_TRUE(huge ? finite() : huge.error().code == ErrorCode::kNotFinite);
}

void ConformanceCase::CheckScores() const {
  const std::uint64_t position = 3 * tokens_;
  const auto original = Gaussian(tokens_ * dim_, kSeed + 5);
  Block block(*keys_);
  ASSERT_TRUE(keys_->Encode(kHead, position, View(original, dim_), block.data()));
  const auto decoded = DecodeAll(*keys_, position, block, tokens_, dim_);
  // Rows as they meet the query: after RoPE where the codec stores them before it.
  const auto turned = [&](const std::vector<float>& rows) {
    std::vector<double> out(rows.begin(), rows.end());
    for (std::size_t t = 0; t < tokens_ && keys_->pre_rope(); ++t)
      kernels::reference::Rotate(rope_, dim_, out.data() + t * dim_, position + t);
    return out;
  };
  const auto expected_rows = turned(decoded);
  const auto original_rows = turned(original);

  const auto queries = Gaussian(kMaxQueries * dim_, kSeed + 6);
  std::vector<std::vector<float>> alone;
  for (const std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{4}, std::size_t{7}, kMaxQueries}) {
    AlignedBuffer prepared;
    prepared.Reserve(keys_->prepared_bytes(n));
    keys_->PrepareQueries(kHead, queries.data(), n, prepared.data());
    const std::size_t stride = tokens_ + 3;
    std::vector<float> logits(n * stride, -77.0f);
    keys_->Score(kHead, position, prepared.data(), n, block.data(), logits.data(), stride, nullptr, 0);
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

    // A query's scores do not depend on its company, nor on the prefetch hint.
    AlignedBuffer single;
    single.Reserve(keys_->prepared_bytes(1));
    std::vector<float> one(tokens_);
    keys_->PrepareQueries(kHead, queries.data() + (n - 1) * dim_, 1, single.data());
    keys_->Score(kHead, position, single.data(), 1, block.data(), one.data(), tokens_, block.data(), keys_->block_bytes());
    EXPECT_TRUE(std::equal(one.begin(), one.end(), logits.begin() + static_cast<std::ptrdiff_t>((n - 1) * stride))) << n;
  }
  AlignedBuffer nothing;
  nothing.Reserve(64);
  keys_->PrepareQueries(kHead, queries.data(), 0, nothing.data());
  keys_->Score(kHead, position, nothing.data(), 0, block.data(), nullptr, tokens_, nullptr, 0);
  // All-zero queries (a scale of 0) score 0.
  const std::vector<float> zeros(dim_, 0.0f);
  std::vector<float> logits(tokens_, 1.0f);
  AlignedBuffer prepared;
  prepared.Reserve(keys_->prepared_bytes(1));
  keys_->PrepareQueries(kHead, zeros.data(), 1, prepared.data());
  keys_->Score(kHead, position, prepared.data(), 1, block.data(), logits.data(), tokens_, nullptr, 0);
  for (const float x : logits) EXPECT_EQ(x, 0.0f);
}

void ConformanceCase::CheckSums() const {
  const auto original = Gaussian(tokens_ * dim_, kSeed + 7);
  Block block(*values_);
  ASSERT_TRUE(values_->Encode(kHead, 0, View(original, dim_), block.data()));
  const auto decoded = DecodeAll(*values_, 0, block, tokens_, dim_);
  const std::size_t floats = values_->accumulator_floats();
  for (const std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{4}, std::size_t{7}, kMaxQueries}) {
    // Softmax weights: a few large ones, many small ones, a third of them masked.
    const std::size_t stride = tokens_ + 5;
    auto weights = Gaussian(n * stride, kSeed + 8);
    std::vector<float> sums(n, 0.0f);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t t = 0; t < stride; ++t) {
        float& w = weights[i * stride + t];
        w = t >= tokens_ ? std::numeric_limits<float>::quiet_NaN() : t % 3 == 1 ? 0.0f : std::exp(2 * w);
        if (t < tokens_) sums[i] += w;
      }
    }
    const std::size_t acc_stride = floats + 2;
    std::vector<float> acc(n * acc_stride, 0.0f);
    AlignedBuffer scratch;
    scratch.Reserve(values_->accumulate_scratch_bytes(n) + 1);
    values_->Accumulate(kHead, weights.data(), stride, n, block.data(), acc.data(), acc_stride, scratch.data(), nullptr, 0);
    std::vector<float> rows(n * dim_);
    values_->Finish(kHead, acc.data(), acc_stride, sums.data(), n, rows.data());
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

    // Weights of 0 add nothing, and a query's sum does not depend on its company.
    const std::vector<float> zeros(n * tokens_, 0.0f);
    auto unchanged = acc;
    values_->Accumulate(kHead, zeros.data(), tokens_, n, block.data(), unchanged.data(), acc_stride, scratch.data(), nullptr,
                        0);
    EXPECT_EQ(unchanged, acc);
    std::vector<float> alone(floats, 0.0f);
    values_->Accumulate(kHead, weights.data() + (n - 1) * stride, stride, 1, block.data(), alone.data(), floats, scratch.data(),
                        block.data(), values_->block_bytes());
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), acc.begin() + static_cast<std::ptrdiff_t>((n - 1) * acc_stride))) << n;
  }
}

std::vector<std::string> CoveringSpecs(const Registry& registry) {
  std::vector<std::string> specs;
  for (const Codec* codec : registry.codecs()) {
    const std::string name(codec->name);
    specs.push_back(name);
    for (const ParamSpec& param : codec->params) {
      std::vector<std::int64_t> values(param.allowed.begin(), param.allowed.end());
      if (values.empty()) values = {param.min, param.max};
      for (const std::int64_t value : values) {
        if (value != param.default_value) specs.push_back(name + ":" + std::string(param.name) + "=" + std::to_string(value));
      }
    }
  }
  return specs;
}

}  // namespace kvant::quantizers::test
