#include "kernels/lloyd/planes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/lloyd/plane_table.h"
#include "kernels/lloyd/query.h"
#include "kernels/lloyd/reference/planes.h"
#include "kernels/lloyd/reference/query.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 77;
constexpr float kUntouched = -12345.0f;

class LloydPlanesTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(LloydPlanesTest);

const LloydTable& LloydPlaneTable(std::uint32_t bits, std::uint32_t count, LloydScale scale) {
  return LloydPlaneTables(bits, scale)[count - 1];
}

/// Planes of any bytes, each in memory of its own, and scales of all sizes.
struct Planes {
  std::vector<GuardedBytes> memory;
  GuardedBytes scales;
  LloydPlanes view;

  Planes(std::uint32_t count, std::size_t dim, std::size_t tokens, std::mt19937& random) : scales(tokens * 2) {
    view.count = count;
    memory.reserve(count);
    for (std::uint32_t p = 0; p < count; ++p) {
      GuardedBytes& plane = memory.emplace_back(dim * tokens / 8);
      for (std::size_t i = 0; i < dim * tokens / 8; ++i) plane.data()[i] = static_cast<std::uint8_t>(random());
      view.plane[p] = plane.data();
    }
    for (std::size_t i = 0; i < 2 * tokens; ++i) scales.data()[i] = static_cast<std::uint8_t>(random());
  }
};

TEST_P(LloydPlanesTest, LogitsAreTheScalarTwinsBitForBit) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {8u, 64u, 72u, 128u}) {
    const auto shape = HadamardShape::For(dim);
    MapTables tables;
    const auto signs = RandomSigns(shape, 3, random);
    const auto mean = RandomNormal(dim, random);
    for (const auto& [bits, count] : {std::pair{1u, 1u}, {2u, 1u}, {3u, 2u}, {4u, 3u}, {5u, 5u}, {8u, 4u}, {8u, 8u}}) {
      for (const std::size_t n : {1u, 2u, 4u, 9u}) {
        const std::size_t tokens = 128 * (1 + random() % 2);
        Planes planes(count, dim, tokens, random);
        const auto queries = RandomNormal(n * dim, random);
        const LloydQueryConfig config{&LloydPlaneTable(bits, bits, LloydScale::kUnbiased), MapOf(shape, 3, signs, tables),
                                      n % 2 == 0 ? nullptr : mean.data()};
        GuardedBytes prepared((n + kLanes - 1) / kLanes * LloydQueryBatchBytes(8, dim)), rotation(RotationScratchBytes(dim));
        LloydPrepareQueries(config, queries.data(), n, prepared.raw(), rotation.raw());
        const LloydTable& levels = LloydPlaneTable(bits, count, LloydScale::kUnbiased);
        const std::size_t stride = tokens + 7;
        std::vector<float> logits(n * stride, kUntouched);
        GuardedBytes scratch(ByteScoreScratchBytes(n, dim));
        const auto* scales = reinterpret_cast<const std::byte*>(planes.scales.data());
        LloydPlanesScore(levels, planes.view,
                         {.dim = dim,
                          .tokens = tokens,
                          .prepared = prepared.raw(),
                          .queries = n,
                          .logits = logits.data(),
                          .stride = stride,
                          .scratch = scratch.raw(),
                          .scales = scales});
        ASSERT_TRUE(scratch.Intact());
        for (std::size_t i = 0; i < n; ++i) {
          const auto query = reference::PrepareLloydQuery(config, queries.data() + i * dim);
          for (std::size_t t = 0; t < stride; ++t) {
            const float expected =
                t < tokens ? reference::LloydPlanesLogit(levels, dim, planes.view, scales, t, query) : kUntouched;
            ASSERT_EQ(logits[i * stride + t], expected)
                << "dim " << dim << " planes " << count << " of " << bits << " query " << i << " of " << n << " token " << t;
          }
        }
      }
    }
  }
}

TEST_P(LloydPlanesTest, WeightedSumsAreTheScalarTwinsBitForBit) {
  std::mt19937 random(kSeed + 1);
  for (const std::uint32_t dim : {8u, 40u, 64u, 128u}) {
    for (const auto& [bits, count] : {std::pair{1u, 1u}, {2u, 2u}, {4u, 2u}, {6u, 5u}, {8u, 3u}, {8u, 8u}}) {
      for (const std::size_t n : {1u, 2u, 4u, 9u}) {
        const std::size_t tokens = 128 * (1 + random() % 2);
        Planes planes(count, dim, tokens, random);
        const LloydTable& levels = LloydPlaneTable(bits, count, LloydScale::kLeastSquares);
        std::vector<float> weights(n * tokens);
        for (float& w : weights) w = random() % 4 == 0 ? 0.0f : static_cast<float>(random() % 1000) * 1e-3f;
        std::vector<float> acc(n * dim, 0.25f), expected(acc);
        GuardedBytes scratch(ByteAccumulateScratchBytes(n));
        const auto* scales = reinterpret_cast<const std::byte*>(planes.scales.data());
        LloydPlanesAccumulate(levels, planes.view,
                              {.dim = dim,
                               .tokens = tokens,
                               .weights = weights.data(),
                               .stride = tokens,
                               .queries = n,
                               .acc = acc.data(),
                               .acc_stride = dim,
                               .scratch = scratch.raw(),
                               .scales = scales});
        ASSERT_TRUE(scratch.Intact());
        for (std::size_t i = 0; i < n; ++i) {
          reference::LloydPlanesAccumulate(levels, dim, tokens, planes.view, scales, weights.data() + i * tokens,
                                           expected.data() + i * dim);
        }
        ASSERT_EQ(acc, expected) << "dim " << dim << " planes " << count << " of " << bits << ", " << n << " queries";
      }
    }
  }
}

TEST(LloydSplitPlanesTest, PlanesAreTheTopBitsOfEveryIndex) {
  std::mt19937 random(kSeed + 2);
  constexpr std::size_t kDim = 24, kTokens = 256;
  for (const LloydLayout layout : {LloydLayout::kKeys, LloydLayout::kValues}) {
    for (std::uint32_t bits = 1; bits <= 8; ++bits) {
      std::vector<std::uint8_t> codes(LloydCodesBytes(bits, kDim, kTokens));
      for (auto& byte : codes) byte = static_cast<std::uint8_t>(random());
      for (std::uint32_t count = 1; count <= bits; ++count) {
        std::vector<GuardedBytes> memory;
        memory.reserve(count);
        std::uint8_t* to[8] = {};
        LloydPlanes planes;
        planes.count = count;
        for (std::uint32_t p = 0; p < count; ++p) {
          planes.plane[p] = to[p] = memory.emplace_back(kDim * kTokens / 8).data();
        }
        LloydSplitPlanes(layout, bits, kDim, kTokens, codes.data(), to, count);
        for (GuardedBytes& plane : memory) ASSERT_TRUE(plane.Intact());
        for (std::size_t t = 0; t < kTokens; ++t) {
          for (std::size_t d = 0; d < kDim; ++d) {
            ASSERT_EQ(LloydTopBitsAt(layout, kDim, planes, t, d),
                      LloydIndexAt(layout, bits, kDim, kTokens, codes.data(), t, d) >> (bits - count))
                << bits << " " << count << " " << t << " " << d;
          }
        }
      }
    }
  }
}

/// E(z - c)^2 of the first planes on N(0, 1), by the trapezoid rule: cells are those of the code's thresholds.
double Distortion(std::uint32_t bits, std::uint32_t count) {
  const LloydTable& code = *FindLloydTable(bits);
  const LloydTable& levels = LloydPlaneTable(bits, count, LloydScale::kRaw);
  constexpr double kStep = 1e-4;
  double sum = 0;
  for (double z = 0.5 * kStep; z < 9.0; z += kStep) {
    std::uint32_t i = 0;
    while (i + 1 < code.half() && z * code.unit >= code.thresholds[i]) ++i;
    const std::uint32_t byte = (code.half() + i) << (8 - bits) >> (8 - count) << (8 - count);
    const double c = levels.Centroid(byte) / double{levels.unit};
    sum += 2 * kStep * std::exp(-0.5 * z * z) / std::sqrt(2 * M_PI) * (z - c) * (z - c);
  }
  return sum;
}

// Of the top planes of Lloyd's codes, from an independent computation with real centroids; integers cost less than 1.5 %.
TEST(LloydPlaneTableTest, FewerPlanesHaveTheDistortionOfTheirCells) {
  const struct {
    std::uint32_t bits, count;
    double distortion;
  } known[] = {{2, 1, .363380}, {3, 1, .363380},   {3, 2, .118449},  {4, 1, .363380},   {4, 2, .120294},   {4, 3, .0348524},
               {5, 2, .121916}, {5, 4, .00956109}, {6, 3, .0357534}, {6, 5, .00251428}, {7, 4, .00971945}, {7, 6, .00064562},
               {8, 1, .363380}, {8, 2, .123984},   {8, 3, .0361441}, {8, 4, .00976033}, {8, 5, .00253797}, {8, 7, .000163665}};
  for (const auto& each : known) {
    EXPECT_NEAR(Distortion(each.bits, each.count), each.distortion, each.distortion * 0.015)
        << each.count << " planes of " << each.bits;
  }
}

TEST(LloydPlaneTableTest, AllPlanesAreTheCodeItself) {
  for (std::uint32_t bits = 1; bits <= 8; ++bits) {
    for (const LloydScale scale : {LloydScale::kRaw, LloydScale::kLeastSquares, LloydScale::kUnbiased}) {
      const LloydTable& code = *FindLloydTable(bits);
      const LloydTable& levels = LloydPlaneTable(bits, bits, scale);
      EXPECT_EQ(levels.unit, code.unit * static_cast<float>(LloydPlaneUnits(bits)));
      for (std::uint32_t byte = 0; byte < 256; ++byte) {
        ASSERT_EQ(levels.Centroid(byte), code.Centroid(byte >> (8 - bits)) * LloydPlaneUnits(bits)) << bits << " " << byte;
      }
    }
  }
}

// Levels are what stored blocks mean: they never change.
TEST(LloydPlaneTableTest, LevelsArePinned) {
  std::uint64_t digest = 0xCBF29CE484222325u;
  for (std::uint32_t bits = 1; bits <= 8; ++bits) {
    for (std::uint32_t count = 1; count <= bits; ++count) {
      for (std::uint32_t scale = 1; scale <= 4; ++scale) {
        for (const std::int16_t level : LloydPlaneTable(bits, count, static_cast<LloydScale>(scale)).centroids) {
          digest = (digest ^ static_cast<std::uint16_t>(level)) * 0x100000001B3u;
        }
      }
    }
  }
  EXPECT_EQ(digest, 0x408B0DFF1A4FEF35u);
}

}  // namespace
}  // namespace kvant::kernels
