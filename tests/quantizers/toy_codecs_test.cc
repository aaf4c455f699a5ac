// The codec contract carries codecs of other kinds: each toy is added by one registration, passes the conformance suite and
// serves attention.
#include "tests/quantizers/toy_codecs.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quantizers/plan.h"
#include "tests/quantizers/attention_case.h"
#include "tests/quantizers/conformance.h"
#include "tests/quantizers/safetensors_image.h"

namespace kvant::quantizers {
namespace {

Registry WithToys() {
  Registry registry = Registry::Builtin();
  for (const Codec* toy : {&test::kToyChannel, &test::kToyCodebook, &test::kToyPreRope}) {
    const auto added = registry.Add(*toy);
    EXPECT_TRUE(added) << added.error().message;
  }
  return registry;
}

const RopeSpec kRope{RopePairing::kHalfSplit, 10000.0, 0};

class ToyConformanceTest : public testing::TestWithParam<std::string> {};

TEST_P(ToyConformanceTest, HoldsTheContract) {
  for (const std::size_t dim : {64, 72, 128}) {
    for (const RopeSpec& rope : {kRope, RopeSpec{RopePairing::kAdjacent, 500000.0, 32}}) {
      const test::ConformanceCase codec(WithToys(), GetParam(), dim, rope);
      ASSERT_TRUE(codec.supported());
      codec.CheckAll();
    }
  }
}

class ToyAttentionTest : public testing::TestWithParam<std::string> {};

TEST_P(ToyAttentionTest, MatchesBruteForce) {
  const bool has_values = GetParam() == "toy_codebook";
  std::uint64_t seed = 1;
  for (const std::string values : {has_values ? "toy_codebook" : "f16", "int8"}) {
    for (const std::size_t group : {1, 3}) {
      test::CaseShape shape{.keys = GetParam(), .values = values, .group = group, .tail = 90, .queries = 7};
      shape.rope = kRope;
      shape.artifact = test::ExampleArtifact(WithToys(), "toy_codebook", 2, shape.head_dim);
      test::ExpectMatchesReference(WithToys(), shape, seed++);
      shape.raw_type = ElementType::kBF16;
      shape.raw_pieces = 2;
      shape.window = 200;
      shape.softcap = 3.0f;
      shape.sink_logits = true;
      shape.rope = {RopePairing::kAdjacent, 500000.0, 32};
      test::ExpectMatchesReference(WithToys(), shape, seed++);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Toys, ToyConformanceTest, testing::Values("toy_channel", "toy_codebook", "toy_pre_rope"));
INSTANTIATE_TEST_SUITE_P(Toys, ToyAttentionTest, testing::Values("toy_channel", "toy_codebook", "toy_pre_rope"));

StoreSpec Spec(const std::string& keys, const std::string& values) {
  StoreSpec spec;
  spec.name = "toys";
  spec.model = "model";
  spec.tokenizer = "bytes";
  spec.layers = 1;
  spec.kv_heads = 1;
  spec.head_dim = 64;
  spec.plan.keys = keys;
  spec.plan.values = values;
  return spec;
}

TEST(ToyPlanTest, StatesWhatACodecLacks) {
  const Registry registry = WithToys();
  const auto refused = [&](const StoreSpec& spec, const std::string& what) {
    const auto plan = Plan::Make(registry, spec);
    ASSERT_FALSE(plan) << what;
    EXPECT_NE(plan.error().message.find(what), std::string::npos) << plan.error().message;
  };
  refused(Spec("toy_codebook", "f16"), "toy.codebook");
  StoreSpec other = Spec("toy_codebook", "f16");
  other.plan.artifact = test::SafetensorsImage({{"toy.codebook", {4, 4}, std::vector<float>(16)}});
  refused(other, "has shape [4, 4], want [256, 4]");
  refused(Spec("f16", "toy_channel"), "not offered");
  refused(Spec("toy_pre_rope", "f16"), "rope");
  StoreSpec small = Spec("toy_channel", "f16");
  small.block_tokens = 48;
  refused(small, "multiples of 32");
}

TEST(ToyPlanTest, ANameIsTakenOnce) {
  Registry registry = WithToys();
  EXPECT_FALSE(registry.Add(test::kToyChannel));
}

}  // namespace
}  // namespace kvant::quantizers
