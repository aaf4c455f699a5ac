// Mathematics of calibration: gauges, gains, directions, codebooks, codewords and bits against what theory says of them.
#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "quantizers/water_filling.h"
#include "tools/kvantctl/calibration/allocation.h"
#include "tools/kvantctl/calibration/codebook.h"
#include "tools/kvantctl/calibration/codewords.h"
#include "tools/kvantctl/calibration/gauge.h"
#include "tools/kvantctl/calibration/moments.h"
#include "tools/kvantctl/calibration/spectral.h"
#include "tools/kvantctl/calibration/turns.h"

namespace kvant::tools {
namespace {

using Eigen::Index;
using Floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix Normal(Index rows, Index columns, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Matrix numbers(rows, columns);
  for (Index i = 0; i < numbers.size(); ++i) numbers.data()[i] = normal(random);
  return numbers;
}

Rows AsRows(const Floats& numbers) { return {numbers.data(), numbers.rows(), numbers.cols()}; }

/// Of rows whose channels differ a hundredfold and are mixed.
Matrix Moment(Index dims, std::uint32_t seed) {
  Eigen::RowVectorXd sizes(dims);
  for (Index d = 0; d < dims; ++d) sizes(d) = std::pow(10.0, -1 + 2.0 * static_cast<double>(d) / static_cast<double>(dims - 1));
  const Matrix mixed = Normal(dims, dims, seed) * sizes.asDiagonal();
  return mixed.transpose() * mixed / static_cast<double>(dims);
}

Matrix Shrunk(const Matrix& moment) {
  return 0.98 * moment + 0.02 * moment.diagonal().mean() * Matrix::Identity(moment.rows(), moment.rows());
}

TEST(GaugeOfTest, EvensOutKeysAndQueries) {
  const Matrix keys = Moment(16, 2), queries = Moment(16, 3);
  const Gauge gauge = GaugeOf(keys, queries, 1.0);
  EXPECT_TRUE((gauge.transform * gauge.inverse).isIdentity(1e-9));
  EXPECT_TRUE(gauge.transform == gauge.transform.transpose() && gauge.inverse == gauge.inverse.transpose());
  EXPECT_NEAR((gauge.transform * keys * gauge.transform).trace(), keys.trace(), 1e-9 * keys.trace());
  const Matrix ours = gauge.transform * Shrunk(keys) * gauge.transform,
               theirs = gauge.inverse * Shrunk(queries) * gauge.inverse;
  EXPECT_TRUE((ours / ours.trace()).isApprox(theirs / theirs.trace(), 1e-9));
  // What rotated codes lose is proportional to E|k'|^2 E|q'|^2; the least that any matrix reaches is the square of the sum of
  // the roots of the eigenvalues of C Q.
  const double least = std::pow((Shrunk(keys) * Shrunk(queries)).eigenvalues().real().cwiseSqrt().sum(), 2);
  EXPECT_NEAR(ours.trace() * theirs.trace(), least, 1e-6 * least);
  EXPECT_LT(least, 0.95 * Shrunk(keys).trace() * Shrunk(queries).trace());
}

TEST(GaugeOfTest, HalfTheWayTwiceIsTheWhole) {
  const Matrix keys = Moment(16, 2), queries = Moment(16, 3);
  const Matrix whole = GaugeOf(keys, queries, 1.0).transform;
  const Gauge half = GaugeOf(keys, queries);
  EXPECT_TRUE((half.transform * half.inverse).isIdentity(1e-9));
  const Matrix twice = half.transform * half.transform;
  EXPECT_TRUE((twice / twice.trace()).isApprox(whole / whole.trace(), 1e-9));
}

TEST(GaugeOfTest, OfNothingIsTheIdentity) {
  EXPECT_TRUE(GaugeOf(Matrix::Zero(8, 8), Matrix::Identity(8, 8)).transform.isIdentity(0));
}

TEST(MomentsOfTest, TakesBlocksOffTheirMeanAndLeavesOutTheSinksOfEveryContext) {
  constexpr Index kTokens = 1024, kWindow = 512, kDim = 8;
  Floats keys = Normal(kTokens, kDim, 1).cast<float>(), values = Normal(kTokens, kDim, 2).cast<float>();
  Floats queries[2] = {Normal(kTokens, kDim, 3).cast<float>(), Normal(kTokens, kDim, 4).cast<float>()};
  Eigen::RowVectorXf value_sum = Eigen::RowVectorXf::Zero(kDim);
  double squares = 0, largest = 0;
  for (Index t = 0; t < kTokens; ++t) {
    if (t % kWindow < static_cast<Index>(kSinkTokens)) {
      keys.row(t) *= 1000;
      values.row(t) *= 1000;
    } else {
      keys.row(t).array() += 100.0F * static_cast<float>(t / 128);  // a mean that wanders between blocks
      squares += static_cast<double>(values(t, 0)) * static_cast<double>(values(t, 0));
      largest = std::max(largest, std::fabs(static_cast<double>(keys(t, 0))));
    }
  }
  const HeadMoments moments = MomentsOf({{AsRows(queries[0]), AsRows(queries[1])}, AsRows(keys), AsRows(values)}, kWindow);
  // A second moment of n numbers is off by some sqrt(2 / n): five of these.
  const double off = 5 * std::sqrt(2.0 / kTokens);
  EXPECT_TRUE((moments.key_spread - Matrix::Identity(kDim, kDim)).cwiseAbs().maxCoeff() < off);
  EXPECT_TRUE((moments.query_moment - Matrix::Identity(kDim, kDim)).cwiseAbs().maxCoeff() < off);
  EXPECT_NEAR(moments.value_mean(0), values.col(0).cast<double>().mean(), 1e-9);
  EXPECT_NEAR(moments.value_square(0), squares / (kTokens - 8), 1e-9);
  EXPECT_EQ(moments.largest_key(0), largest);
  Matrix body(0, kDim);
  for (Index t = 0; t < kTokens; ++t) {
    if (t % kWindow < static_cast<Index>(kSinkTokens)) continue;
    body.conservativeResize(body.rows() + 1, Eigen::NoChange);
    body.row(body.rows() - 1) = values.row(t).cast<double>() - moments.value_mean;
  }
  EXPECT_TRUE(moments.value_covariance.isApprox(body.transpose() * body / static_cast<double>(body.rows()), 1e-9));
}

/// Of halves, as Llama's with theta 10000.
RowsRope Halves(std::size_t dims) {
  RowsRope rope;
  rope.spec.pairing = RopePairing::kHalfSplit;
  rope.attention_factor = 1.5;
  for (std::size_t p = 0; p < dims / 2; ++p) {
    rope.radians_per_token.push_back(std::pow(10000.0, -2.0 * static_cast<double>(p) / static_cast<double>(dims)));
  }
  return rope;
}

TEST(TurnsTest, AreUndoneInEveryContext) {
  constexpr Index kTokens = 300, kDim = 16, kWindow = 200;
  const RowsRope rope = Halves(kDim);
  const Matrix plain = Normal(kTokens, kDim, 5);
  Floats turned(kTokens, kDim);
  for (Index t = 0; t < kTokens; ++t) {
    for (Index p = 0; p < kDim / 2; ++p) {
      const double angle = static_cast<double>(t % kWindow) * rope.radians_per_token[static_cast<std::size_t>(p)];
      const std::complex<double> number = std::complex(plain(t, p), plain(t, p + kDim / 2)) * std::polar(1.5, angle);
      turned(t, p) = static_cast<float>(number.real());
      turned(t, p + kDim / 2) = static_cast<float>(number.imag());
    }
  }
  const Turns turns(rope, kDim);
  // Rows are floats of up to 8.
  EXPECT_LT((turns.Undone(AsRows(turned), kWindow) - plain).cwiseAbs().maxCoeff(), 8 * std::numeric_limits<float>::epsilon());
}

TEST(TurnsTest, GainsOfPairsEvenOutKeysAndQueries) {
  const Turns turns(Halves(16), 16);
  const Eigen::RowVectorXd keys = Normal(1, 16, 2).cwiseAbs2().array() + 0.01;
  const Eigen::RowVectorXd queries = Normal(1, 16, 3).cwiseAbs2().array() + 0.01;
  const Eigen::RowVectorXd gains = PairGains(keys, queries, turns);
  EXPECT_EQ(gains.head(8), gains.tail(8));
  const Eigen::RowVectorXd k = keys.cwiseQuotient(gains.cwiseAbs2()), q = queries.cwiseProduct(gains.cwiseAbs2());
  const Eigen::RowVectorXd ratio = (k.head(8) + k.tail(8)).cwiseQuotient(q.head(8) + q.tail(8));
  EXPECT_NEAR(ratio.minCoeff(), ratio.maxCoeff(), 1e-9 * ratio.maxCoeff());
  EXPECT_NEAR(k.sum(), keys.sum(), 1e-9 * keys.sum());
  EXPECT_TRUE(PairGains(Eigen::RowVectorXd::Zero(16), queries, turns).isOnes(0));
}

TEST(AllocateTest, LosesTheLeastThereIs) {
  std::mt19937 random(4);
  std::lognormal_distribution<double> sensitivity(0, 2);
  // Lloyd-Max codes of N(0, 1), which fall convexly.
  const std::vector<double> errors{1.0, 0.36338, 0.11748, 0.03455, 0.00950};
  for (int round = 0; round < 100; ++round) {
    const std::size_t units = 1 + random() % 5, budget = random() % 20;
    Units group{{}, {0, 1, 2, 3, 4}};
    for (std::size_t u = 0; u < units; ++u) {
      const double weight = sensitivity(random);
      group.costs.emplace_back();
      for (const double error : errors) group.costs.back().push_back(weight * error);
    }
    const auto chosen = Allocate({group}, static_cast<double>(budget));
    ASSERT_TRUE(chosen);
    double ours = 0;
    std::size_t spent = 0;
    for (std::size_t u = 0; u < units; ++u) {
      ours += group.costs[u][(*chosen)[0][u]];
      spent += (*chosen)[0][u];
    }
    EXPECT_LE(spent, budget);
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t all = 0; all < static_cast<std::size_t>(std::pow(5, units)); ++all) {
      double loss = 0;
      std::size_t bits = 0;
      for (std::size_t u = 0, rest = all; u < units; ++u, rest /= 5) {
        loss += group.costs[u][rest % 5];
        bits += rest % 5;
      }
      if (bits <= budget) least = std::min(least, loss);
    }
    EXPECT_LE(ours, least * (1 + 1e-12));
  }
}

TEST(AllocateTest, StepsOverAChoiceThatSavesLittle) {
  const Units group{{{1.0, 0.99, 0.1}, {1.0, 0.6, 0.5}}, {0, 1, 2}};
  const auto chosen = Allocate({group}, 2);
  ASSERT_TRUE(chosen);
  EXPECT_EQ((*chosen)[0], (std::vector<std::size_t>{2, 0}));  // 1.1; one bit for each would lose 1.59, two for the other 1.5
}

TEST(AllocateTest, MeetsAFractionAndRefusesTheImpossible) {
  Units group{{}, {1.25, 2.25, 3.25, 4.25}};
  for (int unit = 0; unit < 64; ++unit) {
    const double weight = std::pow(100, unit / 63.0);
    group.costs.push_back({weight * 0.36338, weight * 0.11748, weight * 0.03455, weight * 0.00950});
  }
  const auto chosen = Allocate({group, group}, 2.8 * 128);
  ASSERT_TRUE(chosen);
  double bits = 0;
  for (const auto& part : *chosen) {
    for (const std::size_t choice : part) bits += group.bits[choice];
  }
  EXPECT_LE(bits, 2.8 * 128);
  EXPECT_GT(bits, 2.8 * 128 - 1);
  EXPECT_LT((*chosen)[0].front(), (*chosen)[0].back());
  const auto impossible = Allocate({group}, 79);
  ASSERT_FALSE(impossible);
  EXPECT_EQ(impossible.error().code, ErrorCode::kOutOfRange);
  EXPECT_NE(impossible.error().message.find("the least choices need 80"), std::string::npos) << impossible.error().message;
}

TEST(DirectionsOfTest, AreThoseOfTheCovariance) {
  const Matrix covariance = Moment(32, 5);
  const Directions directions = DirectionsOf(covariance);
  EXPECT_TRUE((directions.basis * directions.basis.transpose()).isIdentity(1e-12));
  const Matrix variances = directions.deviations.cwiseAbs2().asDiagonal();
  EXPECT_LT((directions.basis * covariance * directions.basis.transpose() - variances).cwiseAbs().maxCoeff(), 1e-9);
  for (Index i = 0; i < 32; ++i) {
    if (i > 0) {
      EXPECT_LE(directions.deviations(i), directions.deviations(i - 1));
    }
    Index largest = 0;
    directions.basis.row(i).cwiseAbs().maxCoeff(&largest);
    EXPECT_GT(directions.basis(i, largest), 0);
  }
}

TEST(WaterFillTest, GivesBitsInEightsToWhatLosesMost) {
  Eigen::VectorXd losses(32);
  for (Index i = 0; i < 32; ++i) losses(i) = std::pow(10.0, static_cast<double>(i) / 8);  // ascending
  const auto bits = WaterFill(losses, 2.5);
  double sum = 0;
  for (std::size_t i = 0; i < 32; ++i) {
    sum += bits[i];
    EXPECT_EQ(bits[i], bits[i / 8 * 8]);
    if (i > 0) {
      EXPECT_GE(bits[i], bits[i - 1]);
    }
  }
  EXPECT_LE(sum, 2.5 * 32);
  EXPECT_GT(sum, 2.5 * 32 - 8);
  // No other allocation to eights within as many bits loses less.
  const std::span<const double> errors = quantizers::LloydErrors();
  const auto loss = [&](const std::array<std::size_t, 4>& of_eights) {
    double all = 0;
    for (std::size_t run = 0; run < 4; ++run)
      all += losses.segment(static_cast<Index>(8 * run), 8).sum() * errors[of_eights[run]];
    return all;
  };
  const double ours = loss({bits[0], bits[8], bits[16], bits[24]});
  constexpr std::size_t kAllowed[] = {0, 1, 2, 3, 4, 8};
  for (int all = 0; all < 6 * 6 * 6 * 6; ++all) {
    const std::array<std::size_t, 4> other{kAllowed[all % 6], kAllowed[all / 6 % 6], kAllowed[all / 36 % 6],
                                           kAllowed[all / 216]};
    if (8 * static_cast<double>(other[0] + other[1] + other[2] + other[3]) <= sum) {
      EXPECT_GE(loss(other), ours * (1 - 1e-12));
    }
  }
}

TEST(CodebookOfTest, HasTheErrorThatVectorsOfFourCanHave) {
  const Floats train = Normal(1024, 64, 1).cast<float>(), fresh = Normal(1024, 64, 9).cast<float>();
  const Eigen::RowVectorXd even = Eigen::RowVectorXd::Ones(64);
  const Parts parts = PartsOf(AsRows(train), even, 1);
  const Parts words = CodebookOf(parts);
  ASSERT_EQ(words.rows(), 256);
  EXPECT_EQ(words.bottomRows(128), -words.topRows(128));
  EXPECT_EQ(CodebookOf(parts), words);
  const Parts others = PartsOf(AsRows(fresh), even, 2);
  double wrong = 0;
  for (Index i = 0; i < others.rows(); ++i) wrong += (words.rowwise() - others.row(i)).rowwise().squaredNorm().minCoeff();
  // Of the best codebook of 256 words .0970 (codecs.md 2.5); scalar codes have .1175.
  EXPECT_NEAR(wrong / others.squaredNorm(), 0.0970, 0.03 * 0.0970);
}

TEST(CodebookOfTest, RowsOfFewKindsAreItsWords) {
  Floats constant = Floats::Constant(300, 64, 2.5F), equal(300, 64), few = Normal(3, 64, 4).cast<float>();
  equal.rowwise() = Normal(1, 64, 3).cast<float>().row(0);
  for (const Floats& rows : {Floats(Floats::Zero(300, 64)), constant, equal, few}) {
    const Parts parts = PartsOf(AsRows(rows), Eigen::RowVectorXd::Ones(64), 1);
    const Parts words = CodebookOf(parts);
    ASSERT_EQ(words.rows(), 256);
    for (Index i = 0; i < parts.rows(); ++i) {
      EXPECT_LT((words.rowwise() - parts.row(i)).rowwise().norm().minCoeff(), 1e-6);
    }
  }
}

ComplexRows NormalComplex(Index rows, Index pairs, std::uint32_t seed) {
  ComplexRows out(rows, pairs);
  out.real() = Normal(rows, pairs, seed);
  out.imag() = Normal(rows, pairs, seed + 1);
  return out;
}

TEST(TrainCodewordsTest, FindsTheWordsThatRowsAreSumsOf) {
  const ComplexRows words = NormalComplex(8, 16, 3);
  std::mt19937 random(3);
  ComplexRows rows(2000, 16);
  for (Index i = 0; i < rows.rows(); ++i) {
    rows.row(i) =
        words.row(static_cast<Index>(random() % 8)) + std::complex<double>(0, 1) * words.row(static_cast<Index>(random() % 8));
  }
  const auto stages = TrainCodewords(rows.topRows(1500), 2);
  ASSERT_EQ(stages.size(), 2U);
  ASSERT_EQ(stages[0].rows(), 64);
  EXPECT_LT(CodewordError(rows.bottomRows(500), stages), 0.02);
  EXPECT_EQ(TrainCodewords(rows.topRows(1500), 2), stages);
}

TEST(TrainCodewordsTest, RowsWithoutStructureLoseWhatTwelveBitsAStageCanSave) {
  const ComplexRows rows = NormalComplex(4000, 16, 7);
  const double left = CodewordError(rows.bottomRows(1000), TrainCodewords(rows.topRows(3000), 3));
  // 36 bits for 32 numbers: rate and distortion allow 2^(-2 * 36 / 32) = .21; stages of 12 bits with 128 free words reach some
  // .45.
  EXPECT_GT(left, 0.21);
  EXPECT_LT(left, 0.6);
}

}  // namespace
}  // namespace kvant::tools
