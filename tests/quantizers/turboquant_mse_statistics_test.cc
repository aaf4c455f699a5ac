// What the codec's estimates are on average over rotations, against theory: distortion, bias, variance.
//
// Rows go through the scalar twin, whose bytes the kernels' tests prove to be the codec's, so that every row gets a rotation of
// its own.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "kernels/lloyd/reference/encode.h"
#include "quantizers/lloyd_error.h"
#include "quantizers/rotation.h"
#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kSeed = 41;

/// One row under one rotation: its codes' centroids and scale, and the rotation applied to anything else.
struct Coded {
  Rotation rotation;
  const kernels::LloydTable& table;
  std::vector<double> centroids;  ///< [dim], codebook units
  double scale = 0.0;

  Coded(const std::vector<float>& row, std::uint32_t bits, std::size_t rounds, kernels::LloydScale mode, std::uint64_t seed)
      : rotation(static_cast<std::uint32_t>(row.size()), rounds, seed), table(*kernels::FindLloydTable(bits)) {
    const kernels::LloydEncoding how{.table = &table,
                                     .shape = rotation.shape(),
                                     .rounds = rounds,
                                     .signs = rotation.signs(),
                                     .mean = nullptr,
                                     .layout = kernels::LloydLayout::kKeys,
                                     .scale = mode};
    std::vector<std::uint32_t> codes(row.size());
    std::uint16_t stored = 0;
    EXPECT_TRUE(kernels::reference::LloydEncodeRow(how, row, codes.data(), &stored));
    scale = kernels::Ufloat16ToFloat(stored);
    for (const std::uint32_t code : codes) centroids.push_back(table.Centroid(code));
  }

  [[nodiscard]] std::vector<float> Rotated(std::vector<float> x) const {
    kernels::reference::Hadamard(rotation.shape(), rotation.rounds(), rotation.signs(), x.data());
    const double gain = rotation.shape().gain(rotation.rounds());
    for (auto& v : x) v = static_cast<float>(v / gain);
    return x;
  }
  /// The estimate of <query, row>.
  [[nodiscard]] double Estimate(const std::vector<float>& query) const {
    const auto q = Rotated(query);
    double sum = 0.0;
    for (std::size_t i = 0; i < q.size(); ++i) sum += q[i] * centroids[i];
    return sum * scale / (table.unit * std::sqrt(static_cast<double>(q.size())));
  }
  /// |row - decoded|^2.
  [[nodiscard]] double SquaredError(const std::vector<float>& row) const {
    const auto y = Rotated(row);
    const double factor = scale / (table.unit * std::sqrt(static_cast<double>(y.size())));
    double sum = 0.0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += (y[i] - factor * centroids[i]) * (y[i] - factor * centroids[i]);
    return sum;
  }
};

struct Sample {
  double sum = 0.0, squares = 0.0;
  std::size_t n = 0;
  void Add(double x) { sum += x, squares += x * x, ++n; }
  [[nodiscard]] double mean() const { return sum / static_cast<double>(n); }
  [[nodiscard]] double variance() const { return squares / static_cast<double>(n) - mean() * mean(); }
  [[nodiscard]] double standard_error() const { return std::sqrt(variance() / static_cast<double>(n)); }
};

void Normalise(std::vector<float>& x) {
  const auto norm = static_cast<float>(std::sqrt(Dot(x.data(), x.data(), x.size())));
  for (auto& v : x) v /= norm;
}

std::vector<float> UnitRow(std::size_t dim, std::mt19937& random) {
  auto x = NormalNumbers(dim, random);
  Normalise(x);
  return x;
}

/// A unit vector at cosine `rho` to `x`.
std::vector<float> AtCosine(const std::vector<float>& x, double rho, std::mt19937& random) {
  auto y = UnitRow(x.size(), random);
  const double along = Dot(x.data(), y.data(), x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] -= static_cast<float>(along) * x[i];
  Normalise(y);
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(rho * x[i] + std::sqrt(1.0 - rho * rho) * y[i]);
  return y;
}

/// Unit rows that one round of mixing treats badly.
std::vector<float> AdversarialRow(int kind, std::size_t dim, std::mt19937& random) {
  std::vector<float> x(dim, kind == 1 ? 1.0f : 0.0f);
  const std::size_t a = random() % dim, b = (a + 1 + random() % (dim - 1)) % dim;
  if (kind == 0) x[a] = 1.0f;
  if (kind == 2) x[a] = 1.0f, x[b] = -0.5f;
  if (kind == 3) {
    for (auto& v : x) v = (random() & 1u) != 0 ? 1.0f : -1.0f;
    x[a] *= 100.0f;
  }
  if (kind == 4) x = NormalNumbers(dim, random);
  Normalise(x);
  return x;
}

// Optimal distortion of a coordinate of a random unit vector at bits 1..4, by numerical integration of its exact law.
const std::map<std::uint32_t, std::vector<double>> kSphereDistortion = {
    {64, {.3583874, .1145258, .0333908, .0091315}},  {80, {.3593890, .1151146, .0336201, .0092045}},
    {96, {.3600559, .1155078, .0337735, .0092534}},  {128, {.3608886, .1160001, .0339659, .0093148}},
    {256, {.3621356, .1167400, .0342560, .0094075}},
};

TEST(TurboQuantMseStatisticsTest, AdversarialRowsHaveTheDistortionOfTheSphere) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {40u, 64u, 72u, 80u, 96u, 128u, 256u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u}) {
      const auto& table = *kernels::FindLloydTable(bits);
      const double expected = kSphereDistortion.count(dim) != 0 ? kSphereDistortion.at(dim)[bits - 1]
                                                                : RotatedLloydError(table, dim, kernels::LloydScale::kRaw);
      for (int kind = 0; kind < 5; ++kind) {
        Sample error;
        for (int i = 0; i < 800; ++i) {
          const auto row = AdversarialRow(kind, dim, random);
          error.Add(Coded(row, bits, RotationRounds(dim), kernels::LloydScale::kRaw, random()).SquaredError(row));
        }
        EXPECT_NEAR(error.mean(), expected, 0.01 * expected + 3.5 * error.standard_error())
            << "dim " << dim << " bits " << bits << " kind " << kind << " seed " << kSeed;
        // Shannon's lower bound, and the limit of Panter and Dite from below.
        EXPECT_GT(error.mean(), std::pow(4.0, -static_cast<double>(bits)));
        EXPECT_LT(error.mean(), 2.7207 * std::pow(4.0, -static_cast<double>(bits)));
      }
    }
  }
}

/// |x - decoded|^2 / |x|^2 of a row's codes and scale.
double RowError(const kernels::LloydEncoding& how, const std::vector<float>& row, const std::vector<std::uint32_t>& codes,
                std::uint16_t stored) {
  std::vector<float> y = row;
  kernels::reference::Hadamard(how.shape, how.rounds, how.signs, y.data());
  const double gain = how.shape.gain(how.rounds);
  const double factor = kernels::Ufloat16ToFloat(stored) / (how.table->unit * std::sqrt(static_cast<double>(row.size())));
  double error = 0.0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double difference = y[i] / gain - factor * how.table->Centroid(codes[i]);
    error += difference * difference;
  }
  return error / Dot(row.data(), row.data(), row.size());
}

TEST(TurboQuantMseStatisticsTest, RotatingInIntegersCostsLessThanAHundredthOfTheError) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {64u, 128u, 256u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u}) {
      for (int kind = 0; kind < 5; ++kind) {
        double integers = 0.0, floats = 0.0;
        Sample difference;
        for (int i = 0; i < 300; ++i) {
          const auto row = AdversarialRow(kind, dim, random);
          const Rotation rotation(dim, RotationRounds(dim), random());
          const kernels::LloydEncoding how{.table = kernels::FindLloydTable(bits),
                                           .shape = rotation.shape(),
                                           .rounds = rotation.rounds(),
                                           .signs = rotation.signs(),
                                           .mean = nullptr,
                                           .layout = kernels::LloydLayout::kValues,
                                           .scale = kernels::LloydScale::kLeastSquares};
          std::vector<std::uint32_t> codes(dim);
          std::uint16_t stored = 0;
          ASSERT_TRUE(kernels::reference::LloydEncodeRowInIntegers(how, row, codes.data(), &stored));
          const double in_integers = RowError(how, row, codes, stored);
          ASSERT_TRUE(kernels::reference::LloydEncodeRowInFloats(how, row, codes.data(), &stored));
          const double in_floats = RowError(how, row, codes, stored);
          integers += in_integers, floats += in_floats;
          difference.Add(in_integers - in_floats);
        }
        EXPECT_LT(integers, 1.01 * floats) << "dim " << dim << " bits " << bits << " kind " << kind << " seed " << kSeed;
        // The pairs make the comparison sharper than the errors' own scatter.
        EXPECT_LT(4.0 * difference.standard_error() * 300, 0.01 * floats)
            << "dim " << dim << " bits " << bits << " kind " << kind;
      }
    }
  }
}

TEST(TurboQuantMseStatisticsTest, OneHotRowsOfFewDimsNeedTheFourthRound) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {40u, 64u, 80u}) {
    for (const std::size_t rounds : {3u, 4u}) {
      Sample error;
      for (int i = 0; i < 4000; ++i) {
        const auto row = AdversarialRow(0, dim, random);
        error.Add(Coded(row, 4, rounds, kernels::LloydScale::kRaw, random()).SquaredError(row));
      }
      const double expected = RotatedLloydError(*kernels::FindLloydTable(4), dim, kernels::LloydScale::kRaw);
      if (rounds == 4) {
        EXPECT_NEAR(error.mean(), expected, 0.01 * expected + 3.5 * error.standard_error()) << dim << " seed " << kSeed;
      } else {
        EXPECT_GT(error.mean(), expected * 1.01) << dim << " seed " << kSeed;  // why RotationRounds gives them four
      }
    }
  }
}

/// Errors of the unbiased estimate of <q, x> for fixed x and q over rotations.
Sample EstimateErrors(const std::vector<float>& x, const std::vector<float>& q, std::uint32_t bits, std::size_t rounds, int n,
                      std::mt19937& random) {
  Sample errors;
  const double truth = Dot(x.data(), q.data(), x.size());
  for (int i = 0; i < n; ++i) {
    errors.Add(Coded(x, bits, rounds, kernels::LloydScale::kUnbiased, random()).Estimate(q) - truth);
  }
  return errors;
}

/// x ~ e_3 + e_64 / 2 and q = e_64 in 128 dims: one round always answers 0 at 1 bit.
std::pair<std::vector<float>, std::vector<float>> SparsePair() {
  std::vector<float> x(128), q(128);
  x[3] = 1.0f;
  x[64] = 0.5f;
  q[64] = 1.0f;
  Normalise(x);
  return {x, q};
}

TEST(TurboQuantMseStatisticsTest, SixRoundsAreUnbiased) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t bits : {1u, 2u, 4u}) {
    for (const double rho : {0.0, 0.5, 1.0}) {
      const auto x = UnitRow(128, random);
      const Sample errors = EstimateErrors(x, AtCosine(x, rho, random), bits, 6, 6000, random);
      // The 16-bit scale rounds by at most 2^-11, without a sign of its own.
      EXPECT_LT(std::fabs(errors.mean()), 4 * errors.standard_error() + 1e-5) << bits << " " << rho << " seed " << kSeed;
    }
    const auto [x, q] = SparsePair();
    const Sample errors = EstimateErrors(x, q, bits, 6, 6000, random);
    EXPECT_LT(std::fabs(errors.mean()), 4 * errors.standard_error()) << bits << " seed " << kSeed;
  }
}

TEST(TurboQuantMseStatisticsTest, ThreeRoundsAreNearlyUnbiasedEvenOnSparseRows) {
  std::mt19937 random(kSeed);
  const auto [x, q] = SparsePair();
  for (const auto& [bits, bound] : std::map<std::uint32_t, double>{{1, .005}, {2, .002}, {4, .0005}}) {
    const Sample sparse = EstimateErrors(x, q, bits, RotationRounds(128), 20000, random);
    EXPECT_LT(std::fabs(sparse.mean()), bound) << bits << " seed " << kSeed;
    const auto dense = UnitRow(128, random);
    const Sample errors = EstimateErrors(dense, AtCosine(dense, 0.5, random), bits, RotationRounds(128), 10000, random);
    EXPECT_LT(std::fabs(errors.mean()), 4 * errors.standard_error()) << bits << " seed " << kSeed;
  }
}

TEST(TurboQuantMseStatisticsTest, OneRoundIsSeenToBeBiased) {
  // Guards the power of the two tests above.
  std::mt19937 random(kSeed);
  const auto [x, q] = SparsePair();
  EXPECT_NEAR(EstimateErrors(x, q, 1, 1, 2000, random).mean(), -.4472, 1e-3) << "seed " << kSeed;
  const Sample two_bits = EstimateErrors(x, q, 2, 1, 10000, random);
  EXPECT_GT(std::fabs(two_bits.mean()), 4 * two_bits.standard_error()) << "seed " << kSeed;
}

TEST(TurboQuantMseStatisticsTest, RawScaleShrinksByTheDistortion) {
  std::mt19937 random(kSeed);
  for (const auto& [bits, slope] : std::map<std::uint32_t, double>{{1, .6391}, {2, .8840}, {3, .9660}, {4, .9907}}) {
    Sample estimates;
    for (int i = 0; i < 3000; ++i) {
      const auto x = UnitRow(128, random);
      estimates.Add(Coded(x, bits, RotationRounds(128), kernels::LloydScale::kRaw, random()).Estimate(x));
    }
    EXPECT_NEAR(estimates.mean() / slope, 1.0, 0.003) << bits << " seed " << kSeed;
  }
}

TEST(TurboQuantMseStatisticsTest, EstimatesOfUnitVectorsVaryAsTheorySays) {
  std::mt19937 random(kSeed);
  // dim * Var = E[1 / cos^2 - 1] * dim / (dim - 1) at dim 128.
  for (const auto& [bits, expected] : std::map<std::uint32_t, double>{{1, .571}, {2, .132}, {3, .0349}, {4, .0093}}) {
    for (const double rho : {0.0, 0.5}) {
      Sample errors;
      // Two queries for each of 15000 rows: the relative standard error of the variance is sqrt(2 / 30000) = 0.8 %.
      for (int i = 0; i < 15000; ++i) {
        const auto x = UnitRow(128, random);
        const Coded coded(x, bits, RotationRounds(128), kernels::LloydScale::kUnbiased, random());
        errors.Add(coded.Estimate(AtCosine(x, rho, random)) - rho);
        errors.Add(coded.Estimate(AtCosine(x, rho, random)) - rho);
      }
      EXPECT_NEAR(128.0 * errors.variance() / (expected * (1.0 - rho * rho)), 1.0, 0.03)
          << bits << " " << rho << " seed " << kSeed;
    }
  }
}

}  // namespace
}  // namespace kvant::quantizers
