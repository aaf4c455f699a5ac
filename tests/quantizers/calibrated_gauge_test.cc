// Gauges that come from calibration: gains of pairs that RoPE turns, and the key projection's bias, against arithmetic in
// double.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/reference/rope.h"
#include "quantizers/unbiased_keys.h"
#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kSeed = 61;
constexpr std::size_t kDim = 64;
constexpr std::size_t kTokens = 128;
constexpr RopeSpec kHalves{RopePairing::kHalfSplit, 10000.0, 0};

/// Keys of a codec over a store with a rope.
Result<std::unique_ptr<KeyCodec>> KeysOf(const std::string& spec, const RopeSpec& rope, const Artifact* artifact) {
  const TurboQuant made{.head_dim = kDim, .artifact = artifact};
  CodecConfig config = made.Config();
  config.rope = rope;
  return MakeKeys(Registry::Builtin().Parse(spec).value(), config);
}

/// Rows turned to their positions, in double.
std::vector<double> Turned(const RopeSpec& rope, const std::vector<float>& rows, std::uint64_t position) {
  std::vector<double> turned(rows.begin(), rows.end());
  for (std::size_t t = 0; t < rows.size() / kDim; ++t) {
    kernels::reference::Rotate(rope, kDim, turned.data() + t * kDim, position + t);
  }
  return turned;
}
std::vector<float> Floats(const std::vector<double>& numbers) { return {numbers.begin(), numbers.end()}; }

/// Logits of one block at a position.
std::vector<float> Score(const KeyCodec& keys, const std::vector<float>& queries, std::size_t n, std::uint64_t position,
                         const std::byte* block) {
  AlignedBytes prepared(keys.needs(n).prepared), scratch(keys.needs(n).scratch);
  keys.Prepare({0, queries.data(), kDim, n, prepared.data(), scratch.data()});
  std::vector<float> logits(n * kTokens);
  keys.Score({.first_position = position,
              .queries = queries.data(),
              .query_stride = kDim,
              .prepared = prepared.data(),
              .n = n,
              .block = block,
              .logits = logits.data(),
              .stride = kTokens,
              .scratch = scratch.data()});
  return logits;
}

/// The mean square of what scores are off by, over |q|^2.
double ScoreError(const KeyCodec& keys, const std::vector<float>& rows, std::uint64_t position,
                  const std::vector<double>& exact, const std::vector<float>& queries) {
  const std::size_t n = queries.size() / kDim;
  AlignedBytes block(keys.block_bytes());
  EncodeBlock(keys, 0, position, RowsOf(rows, kDim), block.data()).value();
  const auto logits = Score(keys, queries, n, position, block.data());
  double error = 0, square = 0;
  for (const float q : queries) square += double{q} * double{q};
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t t = 0; t < kTokens; ++t) {
      double expected = 0;
      for (std::size_t d = 0; d < kDim; ++d) expected += double{queries[i * kDim + d]} * exact[t * kDim + d];
      error += std::pow(double{logits[i * kTokens + t]} - expected, 2);
    }
  }
  return error / (square * kTokens);
}

std::unique_ptr<const Artifact> ArtifactOf(const char* name, const std::vector<float>& numbers) {
  const std::vector<ExampleTensor> tensors{{std::string("layers.0.keys.") + name, {1, kDim}, numbers}};
  return Artifact::Make(ArtifactImage(tensors)).value();
}

/// A bias of the size that Qwen2's first layer has, in few pairs, some of which turn fast.
std::vector<float> Bias() {
  std::vector<float> bias(kDim, 0.25f);
  bias[0] = 300.0f;
  bias[32] = -120.0f;
  bias[5] = 60.0f;
  bias[63] = -200.0f;
  return bias;
}

/// Scores of unit rows behind a bias err as those of the rows alone do, at any position; the block's own mean and the plain
/// code do not manage that.
TEST(UnbiasedKeysTest, ATurnedBiasCostsNothing) {
  RopeSpec adjacent = kHalves, partial = kHalves;
  adjacent.pairing = RopePairing::kAdjacent;
  partial.rotary_dims = 32;
  const auto artifact = ArtifactOf("bias", Bias());
  for (const RopeSpec& rope : {kHalves, adjacent, partial, RopeSpec{}}) {
    for (const std::uint64_t position : {std::uint64_t{0}, std::uint64_t{3 * kTokens}, std::uint64_t{8000 * kTokens}}) {
      std::mt19937 random(kSeed);
      auto rows = NormalNumbers(kTokens * kDim, random);
      const auto queries = NormalNumbers(8 * kDim, random);
      const double alone = ScoreError(*KeysOf(TurboSpec(4), rope, nullptr).value(), Floats(Turned(rope, rows, position)),
                                      position, Turned(rope, rows, position), queries);
      for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += Bias()[i % kDim];
      const auto exact = Turned(rope, rows, position);
      const auto keys = KeysOf("gauge:kind=bias,codes=(" + TurboSpec(4) + ")", rope, artifact.get()).value();
      const double error = ScoreError(*keys, Floats(exact), position, exact, queries);
      // Another rotation than without the wrapper, so the errors are two draws of one law: 128 rows leave some 10 % of it. Rows
      // of 400 are floats: 2^-24 of that is far below.
      EXPECT_LT(error, 1.3 * alone) << "position " << position;
      if (rope.pairing == RopePairing::kNone) continue;
      const double mean = ScoreError(*KeysOf("turboquant_mse:bits=4,gauge=mean", rope, nullptr).value(), Floats(exact),
                                     position, exact, queries);
      EXPECT_GT(mean, 100 * alone) << "this test has power";
    }
  }
}

/// With f32 codes nothing is lost but the rounding of what is taken off and put back.
TEST(UnbiasedKeysTest, RowsComeBack) {
  const auto artifact = ArtifactOf("bias", Bias());
  const auto keys = KeysOf("gauge:kind=bias,codes=(f32)", kHalves, artifact.get()).value();
  std::mt19937 random(kSeed + 1);
  const auto rows = NormalNumbers(kTokens * kDim, random);
  AlignedBytes block(keys->block_bytes());
  const std::uint64_t position = 5 * kTokens;
  EncodeBlock(*keys, 0, position, RowsOf(rows, kDim), block.data()).value();
  std::vector<float> back(rows.size());
  DecodeBlock(*keys, 0, position, block.data(), 0, kTokens, back.data(), kDim);
  for (std::size_t i = 0; i < rows.size(); ++i) ASSERT_NEAR(back[i], rows[i], 400 * 0x1p-23) << i;
}

/// Codes that take keys before RoPE lose the bias before it, and scores get it turned.
TEST(UnbiasedKeysTest, KeysBeforeRopeLoseItUnturned) {
  const TurboQuant shape{.head_dim = kDim};
  CodecConfig config = shape.Config();
  config.rope = kHalves;
  const ParsedSpec spec = Registry::Builtin().Parse("gauge:kind=bias,codes=(commvq)").value();
  Example example = ExampleOf(spec, config);
  for (ExampleTensor& tensor : example.tensors) {
    if (tensor.name.ends_with("bias")) tensor.values = Bias();
  }
  const auto artifact = Artifact::Make(ArtifactImage(example.tensors)).value();
  config.artifact = artifact.get();
  const auto keys = MakeKeys(spec, config).value();
  ASSERT_TRUE(keys->pre_rope());
  std::mt19937 random(kSeed + 2);
  auto rows = NormalNumbers(kTokens * kDim, random);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += Bias()[i % kDim];
  const auto queries = NormalNumbers(4 * kDim, random);
  const std::uint64_t position = 7 * kTokens;
  AlignedBytes block(keys->block_bytes());
  EncodeBlock(*keys, 0, position, RowsOf(rows, kDim), block.data()).value();
  std::vector<float> back(rows.size());
  DecodeBlock(*keys, 0, position, block.data(), 0, kTokens, back.data(), kDim);
  double error = 0;  // random codewords leave a good part of N(0, 1), but nothing of a bias of 300
  for (std::size_t i = 0; i < rows.size(); ++i) error += std::pow(double{rows[i]} - double{back[i]}, 2);
  EXPECT_LT(error, 1.5 * static_cast<double>(rows.size()));
  const auto exact = Turned(kHalves, back, position);
  const auto logits = Score(*keys, queries, 4, position, block.data());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    double expected = 0;
    for (std::size_t d = 0; d < kDim; ++d) expected += double{queries[i / kTokens * kDim + d]} * exact[i % kTokens * kDim + d];
    ASSERT_NEAR(logits[i], expected, 1e-5 * 400 * 8) << i;  // sums of 64 floats of up to 400
  }
}

/// Keys of pairs of unlike size, looked at by queries of the inverse size: with gains (K/Q)^(1/4) both are alike, and scores
/// err as those of unit rows.
TEST(PairGainsTest, TheErrorIsThatOfEvenRows) {
  std::vector<float> size(kDim);
  for (std::size_t d = 0; d < kDim; ++d) size[d] = d % 32 < 4 ? 16.0f : d % 32 < 8 ? 0.0625f : 1.0f;
  const auto artifact = ArtifactOf("pair_gains", size);  // K = size^2, Q = size^-2
  std::mt19937 random(kSeed + 3);
  auto rows = NormalNumbers(kTokens * kDim, random);
  auto queries = NormalNumbers(8 * kDim, random);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] *= size[i % kDim];
  for (std::size_t i = 0; i < queries.size(); ++i) queries[i] /= size[i % kDim];
  const std::vector<double> exact(rows.begin(), rows.end());
  double square = 0;
  for (const float q : queries) square += double{q} * double{q};
  const auto error = [&](const char* spec) {
    return ScoreError(*KeysOf(spec, kHalves, artifact.get()).value(), rows, 0, exact, queries) * square;
  };
  const double declared = TurboQuant{.spec = TurboSpec(3), .head_dim = kDim}.Declared(Side::kKeys);
  EXPECT_LT(error("gauge:kind=pair,codes=(turboquant_mse:bits=3,gauge=none)"), 1.2 * declared * 8 * kDim);
  EXPECT_GT(error("turboquant_mse:bits=3,gauge=mean"), 5 * declared * 8 * kDim) << "this test has power";
}

TEST(CalibratedGaugeTest, BytesOfSideInformation) {
  const auto gains = ArtifactOf("pair_gains", std::vector<float>(kDim, 1.0f));
  const auto bias = ArtifactOf("bias", std::vector<float>(kDim, 1.0f));
  const auto bytes = [](const char* spec, const Artifact* artifact) {
    return KeysOf(spec, kHalves, artifact).value()->block_bytes();
  };
  const std::size_t plain = bytes("turboquant_mse:bits=3,gauge=none", nullptr);
  EXPECT_EQ(bytes("gauge:kind=pair,codes=(turboquant_mse:bits=3,gauge=none)", gains.get()), plain + 2 * kDim);
  EXPECT_EQ(bytes("gauge:kind=bias,codes=(turboquant_mse:bits=3,gauge=none)", bias.get()), plain);
}

/// FNV-1a of a block's bytes: what is stored must mean the same tomorrow.
std::uint64_t Hash(const KeyCodec& keys, const std::vector<float>& rows, std::uint64_t position) {
  AlignedBytes block(keys.block_bytes());
  EncodeBlock(keys, 0, position, RowsOf(rows, kDim), block.data()).value();
  std::uint64_t hash = 14695981039346656037u;
  for (std::size_t i = 0; i < keys.block_bytes(); ++i)
    hash = (hash ^ std::to_integer<std::uint64_t>(block.data()[i])) * 1099511628211u;
  return hash;
}

TEST(CalibratedGaugeTest, GoldenBytes) {
  std::vector<float> rows(kTokens * kDim), gains(kDim);
  std::uint32_t state = 12345;
  for (float& x : rows) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<float>(static_cast<std::int32_t>(state >> 8) - (1 << 23)) * 0x1p-21f;
  }
  for (std::size_t d = 0; d < kDim; ++d) gains[d] = static_cast<float>(1 + d % 32 % 3);
  const auto pair = ArtifactOf("pair_gains", gains), bias = ArtifactOf("bias", Bias());
  EXPECT_EQ(Hash(*KeysOf("gauge:kind=pair,codes=(int8)", kHalves, pair.get()).value(), rows, 0), 973835576954958426u);
  EXPECT_EQ(Hash(*KeysOf("gauge:kind=bias,codes=(int8)", kHalves, bias.get()).value(), rows, 1000 * kTokens),
            2921921258664086509u);
  EXPECT_EQ(Hash(*KeysOf("gauge:kind=channels,codes=(int8)", kHalves, nullptr).value(), rows, 0), 12315642453175534019u);
}

void ExpectRefused(const char* spec, const Artifact* artifact, const std::string& what) {
  const auto keys = KeysOf(spec, kHalves, artifact);
  ASSERT_FALSE(keys) << spec;
  EXPECT_NE(keys.error().message.find(what), std::string::npos) << keys.error().message;
}

TEST(CalibratedGaugeTest, WhatCannotWorkIsRefusedByName) {
  ExpectRefused("gauge:kind=pair", nullptr, "gauge=pair needs tensor layers.0.keys.pair_gains");
  ExpectRefused("gauge:kind=bias", nullptr, "kind=bias needs tensor layers.0.keys.bias");
  std::vector<float> gains(kDim, 1.0f);
  gains[3] = 2.0f;
  ExpectRefused("gauge:kind=pair", ArtifactOf("pair_gains", gains).get(), "two gains for channels 3 and 35");
  gains[3] = gains[35] = -1.0f;
  ExpectRefused("gauge:kind=pair", ArtifactOf("pair_gains", gains).get(), "channel 3: -1.000000 is not between");
  auto bias = Bias();
  bias[9] = 2e6f;
  ExpectRefused("gauge:kind=bias", ArtifactOf("bias", bias).get(), "layers.0.keys.bias holds numbers beyond 1e6");
  const TurboQuant shape{.head_dim = kDim};
  CodecConfig config = shape.Config();
  config.rope = kHalves;
  const auto words =
      Artifact::Make(ArtifactImage(ExampleOf(Registry::Builtin().Parse("commvq").value(), config).tensors)).value();
  ExpectRefused("gauge:kind=mean,codes=(commvq)", words.get(), "kind=mean is of keys after RoPE");
}

}  // namespace
}  // namespace kvant::quantizers
