// What holds of trellis codes beyond what every codec promises (conformance_test.cc): their error on rows of any kind, no bias
// of keys, their size.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {
namespace {

constexpr std::size_t kTokens = 128;

std::string Spec(std::uint32_t bits) { return "turboquant_tcq:bits=" + std::to_string(bits) + ",gauge=none"; }

TEST(TurboQuantTcqTest, ARowTakesItsBitsAndAScale) {
  for (const std::uint32_t dim : {48u, 64u, 80u, 96u, 128u, 256u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u}) {
      const TurboQuant codec{.spec = Spec(bits), .head_dim = dim};
      EXPECT_EQ(codec.Keys()->block_bytes(), kTokens * (dim * bits / 8 + 2));
      EXPECT_EQ(codec.Values()->block_bytes(), kTokens * (dim * bits / 8 + 2));
    }
  }
}

TEST(TurboQuantTcqTest, RefusesHeadSizesThatThePathDoesNotFit) {
  for (const std::uint32_t dim : {16u, 32u, 40u, 72u}) {
    const auto keys = TurboQuant{.spec = Spec(3), .head_dim = dim}.TryKeys();
    ASSERT_FALSE(keys) << dim;
    EXPECT_EQ(keys.error().code, ErrorCode::kUnsupported);
    EXPECT_NE(keys.error().message.find("head_dim " + std::to_string(dim)), std::string::npos) << keys.error().message;
  }
}

/// Unit rows of one kind: normal, one number, all alike, two numbers, one number far above the others.
std::vector<float> RowsOfKind(std::size_t kind, std::size_t dim, std::mt19937& random) {
  std::vector<float> rows = kind == 0 || kind == 4 ? NormalNumbers(kTokens * dim, random) : std::vector<float>(kTokens * dim);
  for (std::size_t t = 0; t < kTokens; ++t) {
    float* row = &rows[t * dim];
    if (kind == 1) row[t % dim] = 1.0f;
    if (kind == 2) std::fill(row, row + dim, t % 2 == 0 ? 1.0f : -1.0f);
    if (kind == 3) row[t % dim] = 1.0f, row[(t * 7 + 3) % dim] += 0.5f;
    if (kind == 4) row[t % dim] = 100.0f;
  }
  return rows;
}

/// T2 of the acceptance tests for this code: the declared error on rows that a rotation must make normal first, between the
/// bound of the rate (4^-bits) and 0.8 of Lloyd-Max's, which a code without the parity has.
TEST(TurboQuantTcqTest, ErrorIsTheDeclaredOneOnRowsOfEveryKind) {
  constexpr double kLloyd[] = {1, .3634, .1175, .03455, .009501};
  std::mt19937 random(5);
  for (const std::uint32_t dim : {64u, 128u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u}) {
      for (std::size_t kind = 0; kind < 5; ++kind) {
        double sum = 0, squares = 0;
        std::size_t n = 0;
        const double declared = TurboQuant{.spec = Spec(bits), .head_dim = dim}.Declared(Side::kValues);
        for (const char* model : {"a", "b", "c", "d"}) {
          const auto values = TurboQuant{.spec = Spec(bits), .head_dim = dim, .model = model}.Values();
          const auto rows = RowsOfKind(kind, dim, random);
          const auto read = RoundTrip(*values, 0, rows, dim);
          for (std::size_t t = 0; t < kTokens; ++t) {
            double error = 0, norm = 0;
            for (std::size_t i = t * dim; i < (t + 1) * dim; ++i) {
              error += std::pow(static_cast<double>(rows[i] - read[i]), 2);
              norm += std::pow(static_cast<double>(rows[i]), 2);
            }
            sum += error / norm, squares += std::pow(error / norm, 2), ++n;
          }
        }
        const double mean = sum / static_cast<double>(n);
        const double deviation = std::sqrt(squares / static_cast<double>(n) - mean * mean);
        // Rows that are alike have one error for each rotation: as many independent figures as there are rotations and rows.
        const double independent = kind == 2 ? 8 : kind == 0 ? static_cast<double>(n) : 4.0 * 16;
        EXPECT_NEAR(mean, declared, 5 * deviation / std::sqrt(independent) + .01 * declared)
            << dim << " dims, " << bits << " bits, kind " << kind;
        EXPECT_GT(mean, std::pow(4.0, -static_cast<double>(bits)));
        EXPECT_LT(declared, (bits == 1 ? .84 : .73) * kLloyd[bits]);
      }
    }
  }
}

/// T3: over rotations, scores have no bias, for rows along the query and for sparse ones.
TEST(TurboQuantTcqTest, ScoresHaveNoBias) {
  std::mt19937 random(6);
  constexpr std::size_t kDim = 128, kModels = 40;
  for (const std::uint32_t bits : {1u, 2u, 4u}) {
    double sum = 0, squares = 0, n = 0;
    for (std::size_t m = 0; m < kModels; ++m) {
      const auto keys = TurboQuant{.spec = Spec(bits), .head_dim = kDim, .model = "model " + std::to_string(m)}.Keys();
      const auto query = NormalNumbers(kDim, random);
      auto rows = NormalNumbers(kTokens * kDim, random);
      for (std::size_t t = 0; t < kTokens; ++t) {
        for (std::size_t i = 0; i < kDim; ++i) rows[t * kDim + i] = t % 2 == 0 ? rows[t * kDim + i] + query[i] : query[i];
      }
      const auto read = RoundTrip(*keys, 0, rows, kDim);
      double error = 0, square = 0;
      for (std::size_t t = 0; t < kTokens; ++t) {
        for (std::size_t i = 0; i < kDim; ++i) {
          error += static_cast<double>(query[i]) * static_cast<double>(read[t * kDim + i] - rows[t * kDim + i]);
          square += static_cast<double>(query[i]) * static_cast<double>(query[i]);
        }
      }
      const double bias = error / square;
      sum += bias, squares += bias * bias, n += 1;
    }
    const double mean = sum / n, deviation = std::sqrt(squares / n - mean * mean);
    EXPECT_NEAR(mean, 0.0, 4 * deviation / std::sqrt(n) + 1e-4) << bits << " bits";
    EXPECT_LT(deviation / std::sqrt(n), .01) << "this test has power: a least-squares scale is off by D, .0066 and more";
  }
}

}  // namespace
}  // namespace kvant::quantizers
