#include "kernels/vector/attend.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/vector/query.h"
#include "kernels/vector/reference/attend.h"
#include "tests/kernels/vector_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 41;

class VectorAttendTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(VectorAttendTest);

VectorCodebook CodebookOf(bool odd, std::mt19937& random) { return odd ? GaussianCodebook() : RandomCodebook(random); }

TEST_P(VectorAttendTest, LogitsAreTheScalarTwinsBitForBit) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : kVectorTestDims) {
    const auto shape = HadamardShape::For(dim);
    const auto signs = RandomSigns(shape, 3, random);
    MapTables tables;
    const HadamardMap map = MapOf(shape, 3, signs, tables);
    for (const bool odd : {true, false}) {
      const VectorCodebook codebook = CodebookOf(odd, random);
      for (const auto& [n, tiles] : kQueryCounts) {
        AllowTiles(tiles);
        const std::size_t tokens = kVectorBlockMultiple * (1 + random() % 12);
        GuardedBytes block(VectorBlockBytes(dim, tokens));
        FillVectorBlock(dim, tokens, 0, 0x10000, block, random);
        auto queries = RandomNormal(n * dim, random);
        if (n > 2) std::fill(queries.begin() + dim, queries.begin() + 2 * dim, 0.0f);
        GuardedBytes prepared(VectorPreparedBytes(n, dim)), rotation(RotationScratchBytes(dim));
        VectorPrepareQueries(codebook, map, queries.data(), n, prepared.raw(), rotation.raw());
        ASSERT_TRUE(prepared.Intact() && rotation.Intact());
        const std::size_t stride = tokens + 7;
        constexpr float kUntouched = -12345.0f;
        std::vector<float> logits(n * stride, kUntouched);
        GuardedBytes scratch(ByteScoreScratchBytes(n, dim));
        VectorScore(codebook,
                    {dim, tokens, block.raw(), prepared.raw(), n, logits.data(), stride, scratch.raw(), block.raw(), 4096});
        ASSERT_TRUE(scratch.Intact());
        for (std::size_t i = 0; i < n; ++i) {
          const auto query = reference::PrepareLloydQuery({FindLloydTable(2), map, nullptr}, queries.data() + i * dim);
          for (std::size_t t = 0; t < stride; ++t) {
            const float expected =
                t < tokens ? reference::VectorLogit(codebook, dim, tokens, block.data(), t, query) : kUntouched;
            ASSERT_EQ(logits[i * stride + t], expected)
                << "dim " << dim << " odd " << odd << " query " << i << " of " << n << " token " << t << " seed " << kSeed;
          }
        }
      }
    }
  }
}

TEST_P(VectorAttendTest, SumsAreTheScalarTwinsBitForBit) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : kVectorTestDims) {
    for (const bool odd : {true, false}) {
      const VectorCodebook codebook = CodebookOf(odd, random);
      for (const auto& [n, tiles] : kQueryCounts) {
        AllowTiles(tiles);
        const std::size_t tokens = kVectorBlockMultiple * (1 + random() % 12);
        GuardedBytes block(VectorBlockBytes(dim, tokens));
        FillVectorBlock(dim, tokens, 0x7800, 0x1000, block, random);
        // As a softmax leaves them: many small, some exactly 0; one query in five has none at all.
        const std::size_t stride = tokens + 3, floats = VectorAccumulatorFloats(dim), acc_stride = floats + 5;
        auto weights = RandomNormal(n * stride, random);
        for (std::size_t i = 0; i < weights.size(); ++i) {
          weights[i] = random() % 4 == 0 || i / stride % 5 == 3 ? 0.0f : std::exp(2.0f * weights[i]);
        }
        const auto start = RandomNormal(n * acc_stride, random);
        auto acc = start;
        GuardedBytes scratch(ByteAccumulateScratchBytes(n));
        VectorAccumulate(codebook, {dim, tokens, block.raw(), weights.data(), stride, n, acc.data(), acc_stride, scratch.raw(),
                                    block.raw(), 5000});
        ASSERT_TRUE(scratch.Intact());
        for (std::size_t i = 0; i < n; ++i) {
          std::vector<float> expected(dim), row(dim);
          for (std::size_t d = 0; d < dim; ++d) expected[d] = start[i * acc_stride + VectorSumPlace(d)];
          VectorSumsInOrder(&acc[i * acc_stride], dim, row.data());
          reference::VectorAccumulate(codebook, dim, tokens, block.data(), &weights[i * stride], expected.data());
          ASSERT_EQ(row, expected) << "dim " << dim << " odd " << odd << " query " << i << " of " << n << " seed " << kSeed;
          for (std::size_t k = floats; k < acc_stride; ++k) ASSERT_EQ(acc[i * acc_stride + k], start[i * acc_stride + k]);
        }
      }
    }
  }
}

TEST_P(VectorAttendTest, LargestSumsDoNotOverflow) {
  // Every number of every word as large as it may be; queries that all become 127, weights that all become 255.
  std::vector<float> words(kVectorWords * kVectorDims, 1.0f);
  const VectorCodebook codebook = RoundCodebook(words.data());
  constexpr std::size_t kDim = 1024, kTokens = 256;
  GuardedBytes block(VectorBlockBytes(kDim, kTokens));
  std::mt19937 random(kSeed);
  FillVectorBlock(kDim, kTokens, 31u << 10, 1, block, random);  // scales of 1
  const auto shape = HadamardShape::For(kDim);
  const std::vector<std::uint32_t> signs(shape.sign_words(1));
  MapTables tables;
  std::vector<float> query(kDim, 0.0f);
  query[0] = 1.0f;  // mixes to equal numbers
  GuardedBytes prepared(VectorPreparedBytes(1, kDim)), rotation(RotationScratchBytes(kDim));
  VectorPrepareQueries(codebook, MapOf(shape, 1, signs, tables), query.data(), 1, prepared.raw(), rotation.raw());
  std::vector<float> logits(kTokens);
  VectorScore(codebook, {kDim, kTokens, block.raw(), prepared.raw(), 1, logits.data(), kTokens, nullptr, nullptr, 0});
  // A row of 1 / sqrt(dim), for its scale is 1, against the query's rotation, which is the same: rounded a few times.
  for (const float logit : logits) ASSERT_NEAR(logit, 1.0f, 1e-5f);

  const std::vector<float> weights(kTokens, 1.0f);
  std::vector<float> acc(kDim);
  GuardedBytes scratch(ByteAccumulateScratchBytes(1));
  VectorAccumulate(codebook,
                   {kDim, kTokens, block.raw(), weights.data(), kTokens, 1, acc.data(), kDim, scratch.raw(), nullptr, 0});
  for (const float sum : acc) ASSERT_NEAR(sum, 256.0f * kVectorLargest, 256.0f * kVectorLargest * 1e-6f);
}

}  // namespace
}  // namespace kvant::kernels
