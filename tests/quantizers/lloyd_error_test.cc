#include "quantizers/lloyd_error.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/quantizers/lloyd_max.h"

namespace kvant::quantizers {
namespace {

struct Known {
  std::uint32_t bits;
  double distortion;
  std::vector<double> centroids;  ///< positive half; empty where only the distortion is known
};

void ExpectCodebook(const HalfLaw& law, const Known& known) {
  const test::Codebook book = test::LloydMax(law, known.bits);
  EXPECT_NEAR(book.distortion, known.distortion, 1e-7) << known.bits;
  for (std::size_t i = 0; i < known.centroids.size(); ++i)
    EXPECT_NEAR(book.centroids[i], known.centroids[i], 1e-6) << known.bits << " " << i;
}

// Max, "Quantizing for minimum distortion" (1960), table I, in more digits from an independent solver.
TEST(CodebookTest, GaussianIsMaxsTable) {
  const HalfLaw law = HalfLaw::Gaussian();
  ExpectCodebook(law, {1, .3633802276, {.797885}});
  ExpectCodebook(law, {2, .1174818478, {.452780, 1.510418}});
  ExpectCodebook(law, {3, .0345477608, {.245094, .756005, 1.343909, 2.151946}});
  ExpectCodebook(law, {4, .0095010080, {.128395, .388048, .656759, .942340, 1.256231, 1.618046, 2.069017, 2.732590}});
  ExpectCodebook(law, {5, .0025046684, {}});
  ExpectCodebook(law, {6, .0006442397, {}});
}

TEST(CodebookTest, EightBitsGaussian) {
  const test::Codebook book = test::LloydMax(HalfLaw::Gaussian(), 8);
  EXPECT_NEAR(book.distortion, .0000411851, 1e-9);
  EXPECT_NEAR(book.centroids[0], .008446, 2e-6);
  EXPECT_NEAR(book.centroids[1], .025339, 2e-6);
  EXPECT_NEAR(book.centroids[126], 4.186595, 2e-5);
  EXPECT_NEAR(book.centroids[127], 4.603536, 2e-5);
}

TEST(CodebookTest, LaplaceIsKnown) {
  const HalfLaw law = test::LaplaceLaw();
  ExpectCodebook(law, {1, .5000000000, {.707107}});
  ExpectCodebook(law, {2, .1761948811, {.419756, 1.833969}});
  ExpectCodebook(law, {3, .0544759879, {.233401, .832962, 1.672473, 3.086687}});
  ExpectCodebook(law, {4, .0153725271, {.123986, .404839, .728650, 1.110984, 1.577786, 2.177347, 3.016858, 4.431072}});
}

TEST(CodebookTest, SphereLawIsKnown) {
  ExpectCodebook(HalfLaw::Sphere(64), {2, .1145258, {.452119, 1.499975}});
  ExpectCodebook(HalfLaw::Sphere(64),
                 {4, .0091315, {.127352, .384718, .650494, .931894, 1.239404, 1.590849, 2.023310, 2.646370}});
  ExpectCodebook(HalfLaw::Sphere(80), {3, .0336201, {.244022, .751727, 1.332239, 2.119338}});
  ExpectCodebook(HalfLaw::Sphere(96), {1, .3600559, {.799965}});
  ExpectCodebook(HalfLaw::Sphere(128), {1, .3608886, {.799444}});
  ExpectCodebook(HalfLaw::Sphere(128), {2, .1160001, {.452453, 1.505193}});
  ExpectCodebook(HalfLaw::Sphere(128), {3, .0339659, {.244425, .753330, 1.336599, 2.131471}});
  ExpectCodebook(HalfLaw::Sphere(128),
                 {4, .0093148, {.127873, .386381, .653619, .937097, 1.247770, 1.604343, 2.045925, 2.688859}});
  ExpectCodebook(HalfLaw::Sphere(256),
                 {4, .0094075, {.128134, .387214, .655187, .939714, 1.251989, 1.611168, 2.057411, 2.710567}});
}

TEST(HalfLawTest, HasTotalMassAndVarianceOfOne) {
  for (const HalfLaw& law : {HalfLaw::Gaussian(), test::LaplaceLaw(), HalfLaw::Sphere(64), HalfLaw::Sphere(128)}) {
    EXPECT_NEAR(2 * law.Moment(0, law.end()), 1.0, 1e-10);
    EXPECT_NEAR(2 * law.Moment(2, law.end()), 1.0, 1e-9);
  }
}

/// E(z c) and E(c^2) of the table on N(0, 1) at so many codebook units per deviation, integrated independently of HalfLaw.
std::array<double, 2> GaussianMoments(const kernels::LloydTable& table, double unit) {
  double zc = 0.0, cc = 0.0;
  constexpr double kStep = 1e-4;
  for (double z = 0.5 * kStep; z < 9.0; z += kStep) {
    std::uint32_t i = 0;
    while (i + 1 < table.half() && z * unit >= table.thresholds[i]) ++i;
    const double mass = 2.0 * kStep * std::exp(-0.5 * z * z) / std::sqrt(2.0 * M_PI);
    zc += mass * z * table.magnitudes[i];
    cc += mass * table.magnitudes[i] * table.magnitudes[i];
  }
  return {zc, cc};
}

TEST(LloydTableTest, IntegersLoseLittleAndUnitIsTheBest) {
  const std::array<Known, 8> known = {{{1, .3633802, {}},
                                       {2, .1174820, {}},
                                       {3, .0345486, {}},
                                       {4, .0095064, {}},
                                       {5, .00250556, {}},
                                       {6, .00064482, {}},
                                       {7, .00016423, {}},
                                       {8, .0000417600, {}}}};
  for (const Known& k : known) {
    const kernels::LloydTable& table = *kernels::FindLloydTable(k.bits);
    const auto [zc, cc] = GaussianMoments(table, table.unit);
    EXPECT_NEAR(1.0 - zc * zc / cc, k.distortion, k.distortion * 1e-4) << k.bits;
    const auto raw = [&](double unit) {
      const auto [a, b] = GaussianMoments(table, unit);
      return 1.0 - 2.0 * a / unit + b / (unit * unit);
    };
    EXPECT_LT(raw(table.unit), raw(table.unit * 1.01)) << k.bits;
    EXPECT_LT(raw(table.unit), raw(table.unit * 0.99)) << k.bits;
  }
}

TEST(LloydTableTest, IntegersFollowTheRealCodebook) {
  for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u}) {
    const kernels::LloydTable& table = *kernels::FindLloydTable(bits);
    const test::Codebook real = test::LloydMax(HalfLaw::Gaussian(), bits);
    for (std::uint32_t i = 0; i < table.half(); ++i) {
      EXPECT_NEAR(table.magnitudes[i], real.centroids[i] * table.unit, bits == 8 ? 6.0 : 0.6) << bits << " " << i;
      EXPECT_EQ(table.Centroid(table.half() + i), table.magnitudes[i]);
      EXPECT_EQ(table.Centroid(table.half() - 1 - i), -table.magnitudes[i]);
    }
  }
  EXPECT_EQ(kernels::FindLloydTable(0), nullptr);
  EXPECT_EQ(kernels::FindLloydTable(9), nullptr);
}

TEST(RotatedLloydErrorTest, IsTheMeasuredErrorOnTheSphere) {
  // Monte Carlo over uniformly random unit vectors at dim 128, Lloyd's real codebook; the integer one is within 0.1 %.
  const std::array<std::pair<std::uint32_t, double>, 4> least_squares = {
      {{1, .360456}, {2, .115077}, {3, .033495}, {4, .009152}}};
  for (const auto& [bits, error] : least_squares) {
    const auto& table = *kernels::FindLloydTable(bits);
    EXPECT_NEAR(RotatedLloydError(table, 128, kernels::LloydScale::kLeastSquares), error, error * 3e-3) << bits;
  }
  const std::array<std::pair<std::uint32_t, double>, 4> raw = {{{1, .360805}, {2, .115857}, {3, .033953}, {4, .009316}}};
  for (const auto& [bits, error] : raw) {
    EXPECT_NEAR(RotatedLloydError(*kernels::FindLloydTable(bits), 128, kernels::LloydScale::kRaw), error, error * 3e-3) << bits;
  }
}

}  // namespace
}  // namespace kvant::quantizers
