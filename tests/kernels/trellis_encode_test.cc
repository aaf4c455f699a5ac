#include "kernels/trellis/encode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/trellis/reference/encode.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 32;

class TrellisEncodeTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(TrellisEncodeTest);

struct Encoded {
  std::size_t row = 0;  ///< where encoding stopped
  std::vector<std::uint8_t> block;
};

Encoded Encode(const TrellisTable& table, const LloydEncoding& how, const RowsView& rows) {
  GuardedBytes block(LloydBlockBytes(table.bits(), how.shape.dim, rows.count));
  GuardedBytes scratch(TrellisEncodeScratchBytes(how.shape.dim));
  Encoded encoded;
  encoded.row = TrellisEncode(table, how, rows, block.data(), scratch.raw());
  EXPECT_TRUE(scratch.Intact() && block.Intact());
  encoded.block = block.Copy();
  return encoded;
}

TEST_P(TrellisEncodeTest, CodesAndScalesAreTheScalarTwins) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {48u, 64u, 80u, 128u}) {
    const auto shape = HadamardShape::For(dim);
    const auto signs = RandomSigns(shape, 3, random);
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u}) {
      const TrellisTable& table = *FindTrellisTable(bits);
      for (const LloydLayout layout : {LloydLayout::kKeys, LloydLayout::kValues}) {
        const std::size_t tokens = LloydBlockMultiple(bits);
        auto values = RandomNormal(tokens * dim, random);
        std::fill_n(values.begin() + 3 * dim, dim, 0.0f);
        std::fill_n(values.begin() + 4 * dim, dim, 0.0f);
        values[4 * dim + 7] = 500.0f;
        const auto scale = layout == LloydLayout::kKeys ? LloydScale::kUnbiased : LloydScale::kLeastSquares;
        const LloydEncoding how{&table.plain, shape, 3, signs.data(), nullptr, layout, scale};
        const Encoded encoded = Encode(table, how, {values.data(), ElementType::kF32, tokens, dim, dim});
        ASSERT_EQ(encoded.row, tokens);
        for (std::size_t t = 0; t < tokens; ++t) {
          std::vector<std::uint32_t> codes(dim);
          std::uint16_t stored = 0;
          ASSERT_TRUE(
              reference::TrellisEncodeRow(table, how, {&values[t * dim], &values[t * dim] + dim}, codes.data(), &stored));
          for (std::size_t i = 0; i < dim; ++i) {
            ASSERT_EQ(LloydIndexAt(layout, bits, dim, tokens, encoded.block.data(), t, i), codes[i])
                << "dim " << dim << " bits " << bits << " row " << t << " number " << i << " seed " << kSeed;
          }
          ASSERT_EQ(reference::LloydScaleAt(bits, dim, tokens, encoded.block.data(), t), Ufloat16ToFloat(stored));
        }
      }
    }
  }
}

TEST_P(TrellisEncodeTest, NamesTheRowThatCannotBeStored) {
  std::mt19937 random(kSeed);
  const auto shape = HadamardShape::For(64);
  const auto signs = RandomSigns(shape, 3, random);
  const TrellisTable& table = *FindTrellisTable(3);
  for (const float bad : {std::nanf(""), INFINITY, 1e30f}) {
    auto values = RandomNormal(128 * 64, random);
    values[37 * 64 + 5] = bad;
    const LloydEncoding how{&table.plain, shape, 3, signs.data(), nullptr, LloydLayout::kKeys, LloydScale::kUnbiased};
    EXPECT_EQ(Encode(table, how, {values.data(), ElementType::kF32, 128, 64, 64}).row, 37u) << bad;
  }
}

/// A rotated row and its codes, in the order of the path.
struct Ring {
  std::vector<double> z;
  std::vector<std::uint32_t> codes;

  /// As it is read with `bits_read` of the three bits before each code.
  [[nodiscard]] double Error(const TrellisTable& table, std::size_t bits_read = kTrellisMemory) const {
    const std::size_t n = z.size();
    double error = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const auto back = [&](std::size_t b) { return b > bits_read ? 0u : codes[(i + n - b) % n]; };
      error += std::pow(z[i] - table.Level(TrellisLevel(codes[i], {back(1), back(2), back(3)})), 2);
    }
    return error;
  }
};

/// Whatever other codes: with the state kept in which the ring is cut, none is nearer. Of all rings the chosen one is the best
/// or nearly: a search through random changes, the cut among them, must not find 1 % less on average.
TEST_P(TrellisEncodeTest, NoChangeOfCodesComesNearer) {
  std::mt19937 random(kSeed);
  constexpr std::size_t kDim = 64, kTokens = 128;
  const auto shape = HadamardShape::For(kDim);
  const auto signs = RandomSigns(shape, 3, random);
  for (const std::uint32_t bits : {1u, 2u, 3u, 4u}) {
    const TrellisTable& table = *FindTrellisTable(bits);
    const auto values = RandomNormal(kTokens * kDim, random);
    const LloydEncoding how{&table.plain, shape, 3, signs.data(), nullptr, LloydLayout::kValues, LloydScale::kRaw};
    const Encoded encoded = Encode(table, how, {values.data(), ElementType::kF32, kTokens, kDim, kDim});
    double chosen = 0, found = 0;
    for (std::size_t t = 0; t < 16; ++t) {
      std::vector<float> x(&values[t * kDim], &values[t * kDim] + kDim);
      double square = 0;
      for (const float number : x) square += static_cast<double>(number) * number;
      reference::Hadamard(shape, 3, signs.data(), x.data());
      Ring ring;
      for (std::size_t i = 0; i < kDim; ++i) {
        ring.z.push_back(x[i] * static_cast<double>(LloydConstants(how).to_units) / std::sqrt(square));
        ring.codes.push_back(LloydIndexAt(LloydLayout::kValues, bits, kDim, kTokens, encoded.block.data(), t, i));
      }
      const double error = ring.Error(table);
      double least = error;
      // Read by a parity of fewer bits the row is another one: the figures above have power.
      if (bits > 1) {
        EXPECT_GT(ring.Error(table, 2), 2 * error) << bits;
      }
      for (std::size_t change = 0; change < 1500; ++change) {
        Ring other = ring;
        const std::size_t first = random() % kDim, count = 1 + random() % 5;
        bool cut = false;
        for (std::size_t i = first; i < first + count; ++i) {
          const std::size_t at = i % kDim;
          const auto code = static_cast<std::uint32_t>(random() % (1u << bits));
          cut = cut || (at + kTrellisMemory >= kDim && (code ^ ring.codes[at]) % 2 != 0);
          other.codes[at] = code;
        }
        const double changed = other.Error(table);
        if (!cut) {
          ASSERT_GE(changed, error * (1 - 1e-5)) << "bits " << bits << " row " << t << " seed " << kSeed;
        }
        least = std::min(least, changed);
      }
      chosen += error, found += least;
    }
    EXPECT_LE(chosen, found * 1.01) << bits;
  }
}

}  // namespace
}  // namespace kvant::kernels
