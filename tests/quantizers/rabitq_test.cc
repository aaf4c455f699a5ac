// RaBitQ codes against their theory: the signs, the best direction on the grid, the bound and how often it fails (codecs.md
// T7).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/lloyd/reference/encode.h"
#include "quantizers/best_grid.h"
#include "quantizers/rabitq.h"
#include "quantizers/rotation.h"
#include "tests/quantizers/inner_products.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kSeed = 61;

std::string RabitqSpec(int bits, const std::string& more = "") { return "rabitq:bits=" + std::to_string(bits) + more; }

TEST(RabitqTest, TakesBitsAndOneOrTwoNumbersPerRow) {
  for (const std::uint32_t dim : {64u, 80u, 96u, 128u, 256u}) {
    for (const int bits : {1, 2, 3, 4}) {
      for (const int numbers : {1, 2}) {
        const auto spec = RabitqSpec(bits, ",bound=" + std::to_string(numbers - 1));
        const auto bytes = static_cast<double>(TurboQuant{.spec = spec, .head_dim = dim}.Keys()->block_bytes());
        EXPECT_EQ(8.0 * bytes / (128.0 * dim), bits + 16.0 * numbers / dim) << spec << " " << dim;
      }
    }
  }
}

TEST(RabitqTest, OneBitIsTheSignPlaneOfTheLloydCode) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {40u, 80u, 96u, 128u}) {
    auto rows = NormalNumbers(128 * dim, random);
    std::fill_n(rows.begin(), dim, 0.0f);  // sign(0) is +1
    const auto keys = TurboQuant{.spec = RabitqSpec(1), .head_dim = dim}.Keys();
    AlignedBytes block(keys->block_bytes());
    ASSERT_TRUE(EncodeBlock(*keys, 0, 0, RowsOf(rows, dim), block.data()));
    const Rotation rotation(dim, RotationRounds(dim), RotationSeed({"rabitq", 1, "test", 0, 0, Side::kKeys}));
    const kernels::LloydEncoding how{.table = kernels::FindLloydTable(1),
                                     .shape = rotation.shape(),
                                     .rounds = rotation.rounds(),
                                     .signs = rotation.signs(),
                                     .layout = kernels::LloydLayout::kKeys,
                                     .scale = kernels::LloydScale::kUnbiased};
    const auto* codes = reinterpret_cast<const std::uint8_t*>(block.data());
    for (std::size_t t = 0; t < 128; ++t) {
      std::vector<std::uint32_t> expected(dim);
      std::uint16_t scale = 0;
      const std::vector<float> row(&rows[t * dim], &rows[t * dim] + dim);
      ASSERT_TRUE(kernels::reference::LloydEncodeRowInFloats(how, row, expected.data(), &scale));
      for (std::size_t i = 0; i < dim; ++i) {
        ASSERT_EQ(kernels::LloydIndexAt(kernels::LloydLayout::kKeys, 1, dim, 128, codes, t, i), expected[i]) << t << " " << i;
      }
      const double stored = kernels::reference::LloydScaleAt(1, dim, 128, codes, t);
      EXPECT_NEAR(stored, kernels::Ufloat16ToFloat(scale), 0x1p-10 * stored) << t;
    }
  }
}

double Cosine2(const std::vector<float>& row, const std::vector<std::uint8_t>& index) {
  double dot = 0, square = 0, norm = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double c = 2.0 * index[i] + 1.0;
    dot += row[i] * c, square += c * c, norm += static_cast<double>(row[i]) * row[i];
  }
  return dot * dot / (square * norm);
}

TEST(RabitqTest, NoFixedStepIsCloserThanTheBest) {
  std::mt19937 random(kSeed);
  for (const std::size_t dim : {8u, 128u}) {
    for (const std::uint32_t top : {0u, 1u, 3u, 7u}) {
      std::vector<std::byte> scratch(BestGridScratchBytes(dim, top) + 8);
      for (int repeat = 0; repeat < 40; ++repeat) {
        auto row = NormalNumbers(dim, random);
        for (float& v : row) v = std::fabs(v);
        if (repeat == 0) std::fill(row.begin(), row.end(), 0.25f);                       // all equal
        if (repeat == 1) std::fill(row.begin() + 1, row.end(), 0.0f), row[0] = 1000.0f;  // one number
        std::vector<std::uint8_t> best(dim), fixed(dim);
        const GridFit fit = BestGrid(row.data(), dim, top, best.data(), scratch.data());
        const double norm = Dot(row.data(), row.data(), dim);
        EXPECT_NEAR(fit.dot * fit.dot / (fit.square * norm), Cosine2(row, best), 1e-9);
        for (double t = 0.0; t < 40.0; t += 0.01) {
          for (std::size_t i = 0; i < dim; ++i) {
            fixed[i] = static_cast<std::uint8_t>(std::min<double>(top, std::floor(t * row[i])));
          }
          ASSERT_GE(Cosine2(row, best), Cosine2(row, fixed) - 1e-12) << dim << " " << top << " t " << t;
        }
      }
    }
  }
}

TEST(RabitqTest, CosinesAreThoseOfTheory) {
  std::mt19937 random(kSeed);
  // One bit: Gamma(d/2) sqrt(d) / (sqrt(pi) Gamma((d+1)/2)).
  EXPECT_NEAR(MeanCosine(RabitqSpec(1), 128, 20, random), .799444, .002);
  // Best t: figures of a simulation, good to 1.5 %; Lloyd's levels have 0.0334 at three bits.
  const double sines[] = {.1165, .0350, .0098};
  for (const int bits : {2, 3, 4}) {
    const double cosine = MeanCosine(RabitqSpec(bits), 128, 20, random);
    EXPECT_NEAR((1.0 - cosine * cosine) / sines[bits - 2], 1.0, .02) << bits << " seed " << kSeed;
  }
}

// codecs.md T3 and T4 and section 2.6.
TEST(RabitqTest, ScoresAreUnbiasedWithTheVarianceOfTheory) {
  std::mt19937 random(kSeed);
  const double variances[] = {.574, .1332, .0361, .0099};
  for (const int bits : {1, 2, 3, 4}) {
    for (const double rho : {0.0, 0.5}) {
      // 30000 pairs: the standard error of the variance is 0.8 % of it.
      const Sample errors = InnerProductErrors(RabitqSpec(bits), 128, rho, 235, random);
      EXPECT_LT(std::fabs(errors.mean()), 4 * errors.standard_error()) << bits << " rho " << rho << " seed " << kSeed;
      EXPECT_NEAR(128.0 * errors.variance() / (variances[bits - 1] * (1.0 - rho * rho)), 1.0, 0.035) << bits << " rho " << rho;
    }
  }
}

TEST(RabitqTest, TheBoundFailsAsOftenAsANormalNumberExceedsIt) {
  std::mt19937 random(kSeed);
  constexpr std::size_t kDim = 128;
  for (const int bits : {1, 2, 4}) {
    std::size_t pairs = 0, beyond_1_9 = 0, beyond_3 = 0, beyond_4 = 0;
    for (int b = 0; b < 200; ++b) {
      const auto keys =
          TurboQuant{.spec = RabitqSpec(bits, ",bound=1"), .head_dim = kDim, .model = "model " + std::to_string(b)}.Keys();
      Pairs drawn(kRowsOfBlock, kDim, 0.0, random);
      for (std::size_t t = 0; t < kRowsOfBlock; ++t) {
        for (std::size_t i = 0; i < kDim; ++i) drawn.rows[t * kDim + i] *= static_cast<float>(1 + t % 7);  // any norm
      }
      AlignedBytes block(keys->block_bytes());
      ASSERT_TRUE(EncodeBlock(*keys, 0, 0, RowsOf(drawn.rows, kDim), block.data()));
      const std::vector<float> queries(drawn.queries.begin(), drawn.queries.begin() + kMaxQueries * kDim);
      const auto logits = ScoreBlock(*keys, 0, queries, kMaxQueries, block.data(), kRowsOfBlock);
      for (std::size_t i = 0; i < kMaxQueries; ++i) {
        for (std::size_t t = 0; t < kRowsOfBlock; ++t) {
          const double exact = Dot(&queries[i * kDim], &drawn.rows[t * kDim], kDim);
          const double error = std::fabs(logits[i * kRowsOfBlock + t] - exact);
          const double factor = RabitqErrorFactor(block.data(), static_cast<std::uint32_t>(bits), kDim, kRowsOfBlock, t);
          ++pairs;
          beyond_1_9 += error > 1.9 * factor ? 1 : 0;
          beyond_3 += error > 3.0 * factor ? 1 : 0;
          beyond_4 += error > 4.0 * factor ? 1 : 0;
        }
      }
    }
    const auto share = [&](std::size_t count) { return static_cast<double>(count) / static_cast<double>(pairs); };
    EXPECT_NEAR(share(beyond_1_9), .057, .007) << bits << " seed " << kSeed;
    EXPECT_LE(share(beyond_3), .004) << bits << " seed " << kSeed;
    EXPECT_LE(share(beyond_4), .0002) << bits << " seed " << kSeed;
    EXPECT_GT(beyond_3, 0u) << "a bound that never fails is too wide";
  }
}

TEST(RabitqTest, BytesAreTheSameWithTheBoundBehindThem) {
  std::mt19937 random(kSeed);
  const auto rows = NormalNumbers(128 * 128, random);
  const auto plain = TurboQuant{.spec = RabitqSpec(3)}.Keys(), bound = TurboQuant{.spec = RabitqSpec(3, ",bound=1")}.Keys();
  AlignedBytes a(plain->block_bytes()), b(bound->block_bytes());
  ASSERT_TRUE(EncodeBlock(*plain, 0, 0, RowsOf(rows, 128), a.data()));
  ASSERT_TRUE(EncodeBlock(*bound, 0, 0, RowsOf(rows, 128), b.data()));
  EXPECT_TRUE(std::equal(a.data(), a.data() + plain->block_bytes(), b.data()));
}

}  // namespace
}  // namespace kvant::quantizers
