#include "kernels/rotation/hadamard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/rotation/paley.h"
#include "kernels/rotation/reference/hadamard.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kDims[] = {8, 16, 24, 40, 48, 56, 64, 72, 80, 88, 96, 112, 120, 128, 160, 192, 256, 1000, 1024};
constexpr std::uint32_t kSeed = 20240501;

class HadamardTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(HadamardTest);

TEST_P(HadamardTest, EveryLaneIsTheScalarTwinBitForBit) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : kDims) {
    const auto shape = HadamardShape::For(dim);
    for (const std::size_t rounds : {std::size_t{1}, std::size_t{3}}) {
      const auto signs = RandomSigns(shape, rounds, random);
      GuardedBytes memory(dim * kLanes * sizeof(float));
      auto* columns = reinterpret_cast<float*>(memory.data());
      const auto values = RandomNormal(dim * kLanes, random);
      for (const bool inverse : {false, true}) {
        std::copy(values.begin(), values.end(), columns);
        inverse ? HadamardInverse(shape, rounds, signs.data(), columns) : Hadamard(shape, rounds, signs.data(), columns);
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
          std::vector<float> row(dim);
          for (std::size_t i = 0; i < dim; ++i) row[i] = values[i * kLanes + lane];
          inverse ? reference::HadamardInverse(shape, rounds, signs.data(), row.data())
                  : reference::Hadamard(shape, rounds, signs.data(), row.data());
          for (std::size_t i = 0; i < dim; ++i)
            ASSERT_EQ(columns[i * kLanes + lane], row[i]) << dim << " " << i << " seed " << kSeed;
        }
        ASSERT_TRUE(memory.Intact());
      }
    }
  }
}

/// The matrix a transform applies, by unit vectors in double precision steps: columns of Q scaled by the gain.
std::vector<double> MatrixOf(const HadamardShape& shape, std::size_t rounds, const std::vector<std::uint32_t>& signs,
                             bool inverse) {
  std::vector<double> matrix(shape.dim * shape.dim);
  std::vector<float> memory(shape.dim * kLanes + 16);
  float* columns = memory.data();
  while (reinterpret_cast<std::uintptr_t>(columns) % 64 != 0) ++columns;
  for (std::size_t first = 0; first < shape.dim; first += kLanes) {
    std::fill(columns, columns + shape.dim * kLanes, 0.0f);
    for (std::size_t lane = 0; lane < kLanes && first + lane < shape.dim; ++lane)
      columns[(first + lane) * kLanes + lane] = 1.0f;
    inverse ? HadamardInverse(shape, rounds, signs.data(), columns) : Hadamard(shape, rounds, signs.data(), columns);
    for (std::size_t lane = 0; lane < kLanes && first + lane < shape.dim; ++lane) {
      for (std::size_t i = 0; i < shape.dim; ++i)
        matrix[i * shape.dim + first + lane] = columns[i * kLanes + lane] / shape.gain(rounds);
    }
  }
  return matrix;
}

TEST_P(HadamardTest, IsOrthogonalAndInverseIsItsTranspose) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {8u, 24u, 40u, 72u, 80u, 96u, 128u}) {
    const auto shape = HadamardShape::For(dim);
    const auto signs = RandomSigns(shape, 3, random);
    const auto forward = MatrixOf(shape, 3, signs, false);
    const auto backward = MatrixOf(shape, 3, signs, true);
    // Each of 3 * log2(dim) stages rounds relative to a norm of 1: 2^-24 each, on dim entries of a dot product.
    const double tolerance = 3 * 11 * 0x1p-24 * 4;
    for (std::size_t i = 0; i < dim; ++i) {
      for (std::size_t j = 0; j < dim; ++j) {
        double dot = 0.0;
        for (std::size_t k = 0; k < dim; ++k) dot += forward[k * dim + i] * forward[k * dim + j];
        ASSERT_NEAR(dot, i == j ? 1.0 : 0.0, tolerance) << dim;
        ASSERT_NEAR(forward[i * dim + j], backward[j * dim + i], tolerance) << dim;
      }
    }
  }
}

TEST_P(HadamardTest, OneRoundOfAHadamardSizeSpreadsAUnitVectorEvenly) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {8u, 16u, 24u, 40u, 80u, 96u, 128u, 160u, 192u, 256u}) {
    const auto shape = HadamardShape::For(dim);
    ASSERT_NE(shape.core, 0u) << dim;
    for (const double entry : MatrixOf(shape, 1, RandomSigns(shape, 1, random), false)) {
      ASSERT_NEAR(std::fabs(entry), 1.0 / std::sqrt(static_cast<double>(dim)), 1e-7) << dim;
    }
  }
}

template <std::size_t kOrder>
void ExpectHadamardMatrix(const PaleyPatterns<kOrder>& patterns) {
  const auto entry = [&](std::size_t i, std::size_t j) { return (patterns.forward[i][j / 4] >> (j % 4) & 1) != 0 ? -1 : 1; };
  for (std::size_t i = 0; i < kOrder; ++i) {
    for (std::size_t j = 0; j < kOrder; ++j) {
      int dot = 0;
      for (std::size_t k = 0; k < kOrder; ++k) dot += entry(i, k) * entry(j, k);
      EXPECT_EQ(dot, i == j ? static_cast<int>(kOrder) : 0);
      EXPECT_EQ(entry(i, j), (patterns.transposed[j][i / 4] >> (i % 4) & 1) != 0 ? -1 : 1);
    }
  }
}

TEST(PaleyTest, RowsAreOrthogonal) {
  ExpectHadamardMatrix<12>(kPaley12);
  ExpectHadamardMatrix<20>(kPaley20);
}

}  // namespace
}  // namespace kvant::kernels
