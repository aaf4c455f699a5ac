// Conformance of both sides: what Encode takes and refuses, and what Decode gives back.
#include "tests/quantizers/conformance.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include "kernels/raw/rows.h"
#include "tests/quantizers/conformance_calls.h"

namespace kvant::quantizers::test {

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

void ConformanceCase::CheckFewerParts(Side side) const {
  const std::size_t parts = codec(side).parts();
  const auto rows = NormalRows(side, kSeed + 10);
  Block all(codec(side));
  ASSERT_TRUE(Encode(codec(side), 0, View(rows, dim_), all));
  for (std::size_t kept = 1; kept < parts; ++kept) {
    Block few(codec(side));
    GuardedBytes scratch(codec(side).needs(0).encode);
    BlockView block = few.view();
    const std::vector<std::byte> before = few.bytes();
    block.parts = kept;
    ASSERT_TRUE(codec(side).Encode(
        {.head = kHead, .first_position = 0, .rows = View(rows, dim_), .block = block, .scratch = scratch.data()}));
    std::size_t end = 0;
    for (std::size_t p = 0; p < kept; ++p) end += codec(side).part_bytes(p);
    const std::vector<std::byte> whole = all.bytes(), cut = few.bytes();
    const auto at = static_cast<std::ptrdiff_t>(end);
    EXPECT_TRUE(std::equal(cut.begin(), cut.begin() + at, whole.begin())) << kept << " parts are others than the first";
    EXPECT_TRUE(std::equal(cut.begin() + at, cut.end(), before.begin() + at)) << kept << " parts: others were written";
    EXPECT_TRUE(few.intact());
  }
}

void ConformanceCase::CheckRowsAlone(Side side) const {
  Block block(codec(side));
  auto rows = NormalRows(side, kSeed + 9);
  ASSERT_TRUE(Encode(codec(side), tokens_, View(rows, dim_), block));
  const auto before = Decode(side, tokens_, block.first(codec(side).parts()));
  const std::size_t changed = tokens_ / 2;
  for (std::size_t k = 0; k < dim_; ++k) rows[changed * dim_ + k] = k % 3 == 0 ? 90.0f : -40.0f;
  ASSERT_TRUE(Encode(codec(side), tokens_, View(rows, dim_), block));
  const auto after = Decode(side, tokens_, block.first(codec(side).parts()));
  bool same = true;
  for (std::size_t i = 0; i < rows.size(); ++i) same = same && (i / dim_ == changed || before[i] == after[i]);
  EXPECT_EQ(same, codec(side).traits().rows_alone);
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

}  // namespace kvant::quantizers::test
