// The mathematics of commvq: codewords that turn with RoPE, scores at far positions, the greedy choice, sizes, refusals
// (codecs.md T12).
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/commvq/commvq.h"
#include "kernels/reference/rope.h"
#include "quantizers/artifact.h"
#include "quantizers/codec.h"
#include "quantizers/plan.h"
#include "quantizers/registry.h"
#include "tools/codec_calls.h"

namespace kvant::quantizers {
namespace {

constexpr std::size_t kTokens = 64;
const RopeSpec kRopes[] = {{RopePairing::kHalfSplit, 10000.0, 0},
                           {RopePairing::kAdjacent, 500000.0, 0},
                           {RopePairing::kHalfSplit, 10000.0, 32},
                           {RopePairing::kAdjacent, 10000.0, 32}};

std::vector<float> Normal(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

/// A codec with its example's codewords.
struct Made {
  Registry registry = Registry::Builtin();
  ParsedSpec spec;
  CodecConfig config;
  std::vector<ExampleTensor> tensors;
  std::unique_ptr<const Artifact> artifact;
  std::unique_ptr<KeyCodec> keys;

  Made(const std::string& text, std::uint32_t dim, const RopeSpec& rope)
      : spec(registry.Parse(text).value()),
        config{.kv_heads = 2, .head_end = 2, .head_dim = dim, .block_tokens = kTokens, .model = "m", .rope = rope},
        tensors(ExampleOf(spec, config).tensors),
        artifact(std::move(Artifact::Make(ArtifactImage(tensors))).value()) {
    config.artifact = artifact.get();
    keys = std::move(MakeKeys(spec, config)).value();
  }

  [[nodiscard]] tools::AlignedBytes Encoded(const std::vector<float>& rows, std::size_t head) const {
    tools::AlignedBytes block(keys->block_bytes());
    EXPECT_TRUE(tools::EncodeBlock(*keys, head, 0, {rows.data(), ElementType::kF32, kTokens, config.head_dim, config.head_dim},
                                   block.data()));
    return block;
  }
};

TEST(CommVqTest, TurningASumOfCodewordsIsSummingTurnedOnes) {
  // C R_t = R_t C: the codec sums, then turns; here each codeword is turned by itself.
  for (const RopeSpec& rope : kRopes) {
    constexpr std::size_t kDim = 64;
    const Made made("commvq:stages=6", kDim, rope);
    const auto rows = Normal(kTokens * kDim, 1);
    auto block = made.Encoded(rows, 1);
    std::vector<float> back(rows.size());
    tools::DecodeBlock(*made.keys, 1, 0, block.data(), 0, kTokens, back.data(), kDim);
    const std::vector<float>& words = made.tensors[0].values;
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(block.data());
    // Which numbers of a row the model turns together.
    const std::size_t pairs = (rope.rotary_dims == 0 ? kDim : rope.rotary_dims) / 2;
    for (const std::uint64_t position : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{4097}, std::uint64_t{1000000}}) {
      for (std::size_t t = 0; t < kTokens; t += 7) {
        std::vector<double> turned(back.begin() + static_cast<std::ptrdiff_t>(t * kDim),
                                   back.begin() + static_cast<std::ptrdiff_t>((t + 1) * kDim));
        kernels::reference::Rotate(rope, kDim, turned.data(), position + t);
        std::vector<double> sum(kDim, 0.0);
        for (std::size_t r = 0; r < 6; ++r) {
          const auto code = kernels::CommVqCodeAt(bytes, kTokens, r, t);
          for (const bool second : {false, true}) {
            const float* word = &words[((6 + r) * 64 + (second ? code.b : code.a)) * kDim];
            std::vector<double> row(kDim);
            for (std::size_t p = 0; p < kDim / 2; ++p) {
              const double x = word[p], y = word[kDim / 2 + p];
              const bool half = rope.pairing == RopePairing::kHalfSplit;
              const std::size_t rest = kDim / 2 - pairs;
              const std::size_t real = !half ? 2 * p : p < pairs ? p : pairs + p;
              const std::size_t imaginary = !half ? 2 * p + 1 : p < pairs ? p + pairs : pairs + p + rest;
              row[real] = second ? -y : x;
              row[imaginary] = second ? x : y;
            }
            kernels::reference::Rotate(rope, kDim, row.data(), position + t);
            for (std::size_t i = 0; i < kDim; ++i) sum[i] += row[i];
          }
        }
        double scale = 0, square = 0;  // what the sum is multiplied with
        for (std::size_t i = 0; i < kDim; ++i) scale += turned[i] * sum[i], square += sum[i] * sum[i];
        scale /= square;
        for (std::size_t i = 0; i < kDim; ++i) {
          EXPECT_NEAR(turned[i], scale * sum[i], 1e-6 * scale * std::sqrt(square)) << position + t << " " << i;
        }
      }
    }
  }
}

TEST(CommVqTest, ScoresAreThoseOfDecodedTurnedRowsUpToAMillionTokens) {
  for (const RopeSpec& rope : kRopes) {
    constexpr std::size_t kDim = 128;
    const Made made("commvq:bits=1", kDim, rope);
    const auto rows = Normal(kTokens * kDim, 2), queries = Normal(3 * kDim, 3);
    auto block = made.Encoded(rows, 0);
    std::vector<float> back(rows.size());
    tools::DecodeBlock(*made.keys, 0, 0, block.data(), 0, kTokens, back.data(), kDim);
    for (const std::uint64_t position : {std::uint64_t{0}, std::uint64_t{65536}, std::uint64_t{1000000} / kTokens * kTokens}) {
      tools::AlignedBytes prepared(made.keys->needs(3).prepared), scratch(made.keys->needs(3).scratch);
      made.keys->Prepare(
          {.queries = queries.data(), .query_stride = kDim, .n = 3, .prepared = prepared.data(), .scratch = scratch.data()});
      std::vector<float> logits(3 * kTokens);
      made.keys->Score({.first_position = position,
                        .queries = queries.data(),
                        .query_stride = kDim,
                        .prepared = prepared.data(),
                        .n = 3,
                        .block = AsConst(block.data()),
                        .logits = logits.data(),
                        .stride = kTokens,
                        .scratch = scratch.data()});
      for (std::size_t t = 0; t < kTokens; ++t) {
        std::vector<double> row(back.begin() + static_cast<std::ptrdiff_t>(t * kDim),
                                back.begin() + static_cast<std::ptrdiff_t>((t + 1) * kDim));
        kernels::reference::Rotate(rope, kDim, row.data(), position + t);
        for (std::size_t i = 0; i < 3; ++i) {
          double dot = 0, key = 0, query = 0;
          for (std::size_t k = 0; k < kDim; ++k) {
            const double q = queries[i * kDim + k];
            dot += q * row[k], key += row[k] * row[k], query += q * q;
          }
          EXPECT_NEAR(logits[i * kTokens + t], dot, 1e-4 * std::sqrt(key * query)) << position + t;
        }
      }
    }
  }
}

TEST(CommVqTest, EachStageTakesTheNearestOfAllItsCodes) {
  constexpr std::size_t kDim = 32, kStages = 3;
  const Made made("commvq:stages=3", kDim, kRopes[1]);
  const auto rows = Normal(kTokens * kDim, 4);
  auto block = made.Encoded(rows, 0);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(block.data());
  for (std::size_t t = 0; t < kTokens; t += 5) {
    std::vector<double> left(kDim);  // planar, of norm 1
    double square = 0;
    for (std::size_t i = 0; i < kDim; ++i) square += std::pow(static_cast<double>(rows[t * kDim + i]), 2);
    for (std::size_t i = 0; i < kDim; ++i) left[i % 2 * (kDim / 2) + i / 2] = rows[t * kDim + i] / std::sqrt(square);
    for (std::size_t r = 0; r < kStages; ++r) {
      const float* words = &made.tensors[0].values[r * 64 * kDim];
      const auto without = [&](std::size_t a, std::size_t b) {
        std::vector<double> rest = left;
        for (std::size_t p = 0; p < kDim / 2; ++p) {
          rest[p] -= static_cast<double>(words[a * kDim + p]) - static_cast<double>(words[b * kDim + kDim / 2 + p]);
          rest[kDim / 2 + p] -= static_cast<double>(words[a * kDim + kDim / 2 + p]) + static_cast<double>(words[b * kDim + p]);
        }
        return rest;
      };
      const auto norm = [](const std::vector<double>& x) {
        double sum = 0;
        for (const double v : x) sum += v * v;
        return sum;
      };
      double least = 1e300;
      for (std::size_t a = 0; a < 64; ++a) {
        for (std::size_t b = 0; b < 64; ++b) least = std::min(least, norm(without(a, b)));
      }
      const auto code = kernels::CommVqCodeAt(bytes, kTokens, r, t);
      left = without(code.a, code.b);
      EXPECT_NEAR(norm(left), least, 1e-6) << t << " " << r;
    }
  }
}

TEST(CommVqTest, MoreStagesLeaveLessAndAKeysOwnProductIsExact) {
  constexpr std::size_t kDim = 128;
  double before = 1;
  for (const std::string spec : {"commvq:bits=1", "commvq:bits=2", "commvq:stages=42"}) {
    const Made made(spec, kDim, kRopes[0]);
    for (const double bias : {0.0, 605.0}) {
      auto rows = Normal(kTokens * kDim, 5);
      for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += static_cast<float>(bias) * (i % kDim == 3 ? 1.0F : 0.0F);
      for (std::size_t k = 0; k < kDim; ++k) rows[k] = 0.0F;
      auto block = made.Encoded(rows, 1);
      std::vector<float> back(rows.size());
      tools::DecodeBlock(*made.keys, 1, 0, block.data(), 0, kTokens, back.data(), kDim);
      double all = 0;
      for (std::size_t t = 0; t < kTokens; ++t) {
        double error = 0, square = 0, product = 0;
        for (std::size_t k = 0; k < kDim; ++k) {
          const double x = rows[t * kDim + k], y = back[t * kDim + k];
          error += (x - y) * (x - y), square += x * x, product += x * y;
        }
        if (t == 0) {
          EXPECT_EQ(error, 0) << "a row of zeros";
          continue;
        }
        all += error / square / (kTokens - 1);
        // Random codewords keep a row of one number badly: then the scale stops at twice the norm.
        EXPECT_LE(product, 1.001 * square);
        if (bias == 0 && spec != "commvq:bits=1") {
          EXPECT_NEAR(product, square, 1e-3 * square);
        }
      }
      if (bias == 0) {
        EXPECT_LT(all, spec == "commvq:bits=1" ? 2 : .9 * before) << spec;
        before = all;
        RecordProperty("error_" + spec, std::to_string(all));
      }
    }
  }
}

TEST(CommVqTest, TakesExactlyItsBits) {
  const struct {
    std::uint32_t dim;
    std::size_t one, two;
  } sizes[] = {{64, 5, 11}, {80, 7, 13}, {96, 8, 16}, {128, 11, 21}, {256, 21, 43}};
  for (const auto& size : sizes) {
    for (const std::size_t bits : {1U, 2U}) {
      const Made made("commvq:bits=" + std::to_string(bits), size.dim, kRopes[0]);
      EXPECT_EQ(8 * made.keys->block_bytes(), kTokens * (12 * (bits == 1 ? size.one : size.two) + 16)) << size.dim;
    }
  }
}

TEST(CommVqTest, SaysWhatItLacks) {
  const Registry registry = Registry::Builtin();
  StoreSpec spec;
  spec.name = "keys";
  spec.model = "model";
  spec.tokenizer = "bytes";
  spec.layers = 1;
  spec.kv_heads = 2;
  spec.head_dim = 64;
  spec.plan.keys = "commvq:stages=4";
  spec.plan.values = "f16";
  const auto refused = [&](const std::string& what) {
    const auto plan = Plan::Make(registry, spec);
    ASSERT_FALSE(plan) << what;
    EXPECT_NE(plan.error().message.find(what), std::string::npos) << plan.error().message;
  };
  refused("the store's rope has no pairing");
  spec.rope = kRopes[0];
  refused("needs the tensor layers.0.keys.commvq [2, 4, 64, 2, 32]");
  spec.plan.artifact = ArtifactImage(std::vector<ExampleTensor>{{"layers.0.keys.commvq", {2, 4}, std::vector<float>(8)}});
  refused("has shape [2, 4], want [2, 4, 64, 2, 32]");
  spec.plan.artifact = ArtifactImage(Made("commvq:stages=4", 64, kRopes[0]).tensors);
  refused("needs key_stage before_rope, the store has after_rope");
  spec.key_stage = KeyStage::kBeforeRope;
  EXPECT_TRUE(Plan::Make(registry, spec));
}

}  // namespace
}  // namespace kvant::quantizers
