#include "quantizers/plan.h"

#include <malloc.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace kvant::quantizers {
namespace {

StoreSpec Good() {
  StoreSpec spec;
  spec.name = "model/v1.0:a=b,c-d_e";
  spec.model = "digest";
  spec.tokenizer = "bytes";
  spec.layers = 4;
  spec.kv_heads = 3;
  spec.head_dim = 72;
  spec.block_tokens = 48;
  spec.plan.keys = "int8";
  spec.plan.values = "f16";
  return spec;
}

TEST(PlanTest, EveryDistinctCodecIsListedOnceWithItsHeads) {
  StoreSpec spec = Good();  // 4 layers of 3 heads
  spec.plan.overrides = {{1, 3, "f32", "int8"}, {2, 2, "int8", "f16", 1, 1}};
  const auto plan = Plan::Make(Registry::Builtin(), spec);
  ASSERT_TRUE(plan) << plan.error().message;
  std::vector<std::string> listed;
  for (const UsedCodec& used : (*plan)->used_codecs()) {
    const std::string side = used.side == Side::kKeys ? "keys " : "values ";
    listed.push_back(side + used.spec + " " + std::to_string(used.heads));
    const BlockCodec* expected = nullptr;  // of the first place that holds such blocks
    for (std::size_t layer = 4; layer-- > 0;) {
      for (std::size_t head = 3; head-- > 0;) {
        const BlockCodec& codec = (*plan)->codec(layer, head, used.side);
        if (codec.block_bytes() == used.codec->block_bytes()) expected = &codec;
      }
    }
    EXPECT_EQ(used.codec, expected) << listed.back();
  }
  EXPECT_EQ(listed, (std::vector<std::string>{"keys int8@1 4", "keys f32@1 8", "values f16@1 4", "values int8@1 8"}));
}

/// Bytes that the allocator has handed out.
std::size_t Allocated() {
  const auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

TEST(PlanTest, TakesNoMoreMemoryThanItSaysAndWhatItSaysBeforeIsMore) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers have allocators of their own";
#endif
  const Registry registry = Registry::Builtin();
  struct Case {
    std::uint32_t layers, kv_heads, head_dim;
    const char* codec;
    std::uint32_t overrides;
  };
  for (const Case& each :
       {Case{32, 8, 128, "turboquant_mse:bits=4", 0}, Case{32, 8, 128, "int8", 0}, Case{1024, 1, 8, "f16", 0},
        Case{128, 64, 64, "turboquant_mse:bits=4", 0}, Case{64, 1024, 8, "turboquant_mse:bits=2", 0},
        Case{8, 8, 1024, "turboquant_mse:bits=4", 0}, Case{128, 64, 64, "turboquant_mse:bits=4", 4096},
        Case{1024, 1, 16, "outlier", 0}, Case{64, 512, 16, "outlier", 0}, Case{1024, 1, 8, "kivi", 0}}) {
    StoreSpec spec = Good();
    spec.layers = each.layers;
    spec.kv_heads = each.kv_heads;
    spec.head_dim = each.head_dim;
    spec.block_tokens = 64;
    spec.plan.keys = spec.plan.values = each.codec;
    for (std::uint32_t i = 0; i < each.overrides; ++i) {
      const std::uint32_t layer = i % each.layers, head = 2 * (i / each.layers) % each.kv_heads;
      spec.plan.overrides.push_back({layer, layer, "int8", "f16", head, head});
    }
    ASSERT_TRUE(Plan::Make(registry, spec)) << "and with it what is made once";
    const std::size_t before = Allocated();
    const auto plan = Plan::Make(registry, spec);
    const std::size_t taken = Allocated() - before;
    const std::string what = std::to_string(each.layers) + " layers of " + std::to_string(each.kv_heads) + " of " +
                             std::to_string(each.head_dim) + " " + each.codec + ": " + std::to_string(taken);
    EXPECT_LE(taken, (*plan)->memory_bytes()) << what;
    EXPECT_LE((*plan)->memory_bytes(), PlanBytes(registry, spec)) << what;
    EXPECT_LE((*plan)->memory_bytes(), 4 * taken + (std::size_t{1} << 20)) << what;
  }
}

TEST(PlanTest, LaysOutLayersHeadsAndSidesWithoutOverlap) {
  StoreSpec spec = Good();
  spec.plan.overrides = {{1, 3, "f32", "int8"}, {2, 2, "bf16", "bf16"}};
  const auto plan = Plan::Make(Registry::Builtin(), spec);
  ASSERT_TRUE(plan) << plan.error().message;
  const Plan& p = **plan;
  ASSERT_EQ(p.layers(), 4u);
  std::size_t end = 0;
  for (std::size_t l = 0; l < p.layers(); ++l) {
    for (std::size_t h = 0; h < 3; ++h) {
      for (const Side side : {Side::kKeys, Side::kValues}) {
        const Place place = p.place(l, h, side);
        EXPECT_EQ(place.parts, 1u);
        EXPECT_EQ(place.offset[0], end) << l << " " << h;
        EXPECT_EQ(place.offset[0] % 64, 0u);
        EXPECT_EQ(place.bytes[0], p.codec(l, h, side).block_bytes());
        EXPECT_GE(place.room[0], place.bytes[0]);
        EXPECT_LT(place.room[0], place.bytes[0] + 64);
        end += place.room[0];
      }
    }
  }
  EXPECT_EQ(p.payload_bytes(), end);
  EXPECT_EQ(p.logical_bytes(), 2u * 2 * 48 * 4 * 3 * 72);
  // Later overrides win.
  EXPECT_EQ(p.codec(0, 0, Side::kKeys).block_bytes(), 48u * 72 + 48 * 2);
  EXPECT_EQ(p.codec(1, 0, Side::kKeys).block_bytes(), 48u * 72 * 4);
  EXPECT_EQ(p.codec(2, 0, Side::kKeys).block_bytes(), 48u * 72 * 2);
  EXPECT_EQ(p.codec(3, 0, Side::kValues).block_bytes(), 48u * 72 + 48 * 2);
  EXPECT_EQ(p.canonical(),
            "layer 0 keys int8@1 values f16@1\nlayer 1 keys f32@1 values int8@1\n"
            "layer 2 keys bf16@1 values bf16@1\nlayer 3 keys f32@1 values int8@1\n");
}

TEST(PlanTest, KvHeadsOfALayerMayHaveTheirOwnCodecs) {
  StoreSpec spec = Good();
  spec.plan.overrides = {
      {1, 2, "f32", "f32", 1, 1}, {2, 2, "bf16", "int8", 1, LayerPlan::kLastHead}, {3, 3, "int8", "f16", 0, 0}};
  const auto plan = Plan::Make(Registry::Builtin(), spec);
  ASSERT_TRUE(plan) << plan.error().message;
  const Plan& p = **plan;
  // Runs with the same codecs are one, so that a plan has one text however it was written.
  EXPECT_EQ(p.canonical(),
            "layer 0 keys int8@1 values f16@1\n"
            "layer 1 heads 0..0 keys int8@1 values f16@1\nlayer 1 heads 1..1 keys f32@1 values f32@1\n"
            "layer 1 heads 2..2 keys int8@1 values f16@1\n"
            "layer 2 heads 0..0 keys int8@1 values f16@1\nlayer 2 heads 1..2 keys bf16@1 values int8@1\n"
            "layer 3 keys int8@1 values f16@1\n");
  std::size_t end = 0;
  double bits = 0;
  for (std::size_t l = 0; l < 4; ++l) {
    for (std::size_t h = 0; h < 3; ++h) {
      for (const Side side : {Side::kKeys, Side::kValues}) {
        const Place place = p.place(l, h, side);
        EXPECT_EQ(place.offset[0], end) << l << " " << h;
        EXPECT_EQ(place.bytes[0], p.codec(l, h, side).block_bytes());
        end += place.room[0];
        if (side == Side::kKeys) bits += 8.0 * static_cast<double>(place.bytes[0]);
      }
    }
  }
  EXPECT_EQ(p.payload_bytes(), end);
  EXPECT_DOUBLE_EQ(p.bits_per_element(Side::kKeys), bits / (4 * 3 * 48 * 72));
  EXPECT_EQ(p.codec(1, 1, Side::kKeys).block_bytes(), 48u * 72 * 4);
  EXPECT_EQ(p.codec(2, 1, Side::kKeys).block_bytes(), 48u * 72 * 2);
  EXPECT_EQ(p.codec(2, 2, Side::kValues).block_bytes(), 48u * 72 + 48 * 2);
}

TEST(PlanTest, OverridesAreLimited) {
  StoreSpec spec = Good();
  spec.layers = 1024;
  spec.plan.overrides.assign(kMaxOverrides + 1, {0, 0, "f16", "f16"});
  auto plan = Plan::Make(Registry::Builtin(), spec);
  ASSERT_FALSE(plan);
  EXPECT_NE(plan.error().message.find("plan.overrides has 4097 entries, at most 4096"), std::string::npos);
  spec.plan.overrides.assign(17, {0, 1023, "f16", "f16"});
  plan = Plan::Make(Registry::Builtin(), spec);
  ASSERT_FALSE(plan);
  EXPECT_NE(plan.error().message.find("name more than 16384 layers"), std::string::npos) << plan.error().message;
  // Many runs of heads: the text is limited before any codec is made.
  spec.kv_heads = 64;
  spec.head_dim = 8;
  spec.plan.overrides.clear();
  for (std::uint32_t head = 0; head < 16; ++head) spec.plan.overrides.push_back({0, 1023, "f16", "f16", 4 * head, 4 * head});
  plan = Plan::Make(Registry::Builtin(), spec);
  ASSERT_FALSE(plan);
  EXPECT_NE(plan.error().message.find("the plan's text has more than"), std::string::npos) << plan.error().message;
}

TEST(PlanTest, TheArtifactsDigestIsPartOfTheIdentity) {
  StoreSpec spec = Good();
  spec.plan.artifact = ArtifactImage(std::vector<ExampleTensor>{{"a", {1}, {1.0f}}});
  const auto one = Plan::Make(Registry::Builtin(), spec);
  spec.plan.artifact = ArtifactImage(std::vector<ExampleTensor>{{"a", {1}, {2.0f}}});
  const auto two = Plan::Make(Registry::Builtin(), spec);
  ASSERT_TRUE(one && two);
  EXPECT_NE((*one)->canonical(), (*two)->canonical());
  EXPECT_EQ((*one)->canonical().find("artifact "), 0u);
}

TEST(PlanTest, EveryFieldHasItsError) {
  const auto refused = [](const std::function<void(StoreSpec&)>& change, const std::string& what) {
    StoreSpec spec = Good();
    change(spec);
    const auto plan = Plan::Make(Registry::Builtin(), spec);
    ASSERT_FALSE(plan) << what;
    EXPECT_NE(plan.error().message.find(what), std::string::npos) << plan.error().message;
  };
  refused([](StoreSpec& s) { s.name.clear(); }, "name has 0");
  refused([](StoreSpec& s) { s.name.assign(129, 'a'); }, "name has 129");
  refused([](StoreSpec& s) { s.name = "a b"; }, "code 32");
  refused([](StoreSpec& s) { s.name = std::string("a\0b", 3); }, "code 0");
  refused([](StoreSpec& s) { s.name = "\xc3\xa9"; }, "code 195");
  refused([](StoreSpec& s) { s.model.clear(); }, "model is empty");
  refused([](StoreSpec& s) { s.tokenizer.clear(); }, "tokenizer is empty");
  refused([](StoreSpec& s) { s.layers = 0; }, "layers 0");
  refused([](StoreSpec& s) { s.layers = 1025; }, "layers 1025");
  refused([](StoreSpec& s) { s.kv_heads = 0; }, "kv_heads 0");
  refused([](StoreSpec& s) { s.kv_heads = 4'000'000'000; }, "kv_heads 4000000000");
  refused([](StoreSpec& s) { s.head_dim = 0; }, "head_dim 0");
  refused([](StoreSpec& s) { s.head_dim = 100; }, "head_dim 100");
  refused([](StoreSpec& s) { s.head_dim = 1032; }, "head_dim 1032");
  refused([](StoreSpec& s) { s.block_tokens = 8; }, "block_tokens 8");
  refused([](StoreSpec& s) { s.block_tokens = 40; }, "block_tokens 40");
  refused([](StoreSpec& s) { s.block_tokens = 2048; }, "block_tokens 2048");
  refused([](StoreSpec& s) { s.sink_tokens = 49; }, "sink_tokens 49");
  refused([](StoreSpec& s) { s.dtype = static_cast<ElementType>(9); }, "dtype 9");
  refused([](StoreSpec& s) { s.layers = s.kv_heads = s.head_dim = 1024; }, "layers * kv_heads * head_dim is 1073741824");
  refused([](StoreSpec& s) { s.rope = {RopePairing::kAdjacent, 0.0, 0}; }, "rope.theta");
  refused([](StoreSpec& s) { s.rope = {RopePairing::kAdjacent, std::nan(""), 0}; }, "rope.theta");
  refused(
      [](StoreSpec& s) {
        s.rope = {RopePairing::kHalfSplit, 1e4, 7};
      },
      "rope.rotary_dims 7 is not an even number in 2..72");
  refused([](StoreSpec& s) { s.rope = {RopePairing::kHalfSplit, 1e4, 74}; }, "rope.rotary_dims 74");
  refused([](StoreSpec& s) { s.rope.pairing = static_cast<RopePairing>(5); }, "rope.pairing 5");
  refused([](StoreSpec& s) { s.rope.scaling = RopeLinear{2.0}; }, "rope.scaling of a model without rotary positions");
  refused([](StoreSpec& s) { s.rope = {RopePairing::kHalfSplit, 1e4, 0, RopeLinear{0.5}}; }, "store spec: rope.factor 0.5");
  refused([](StoreSpec& s) { s.key_stage = static_cast<KeyStage>(3); }, "key_stage 3");
  refused([](StoreSpec& s) { s.key_stage = KeyStage::kBeforeRope; }, "key_stage before_rope needs rotary positions");
  refused([](StoreSpec& s) { s.plan.keys = "nope"; }, "plan.keys: unknown codec \"nope\"");
  refused([](StoreSpec& s) { s.plan.values = "f16:x=1"; }, "plan.values");
  refused([](StoreSpec& s) { s.plan.keys = "turboquant_mse:bits=4"; }, "multiples of 32, not 48");
  refused([](StoreSpec& s) { s.plan.overrides = {{2, 1, "f16", "f16"}}; }, "overrides[0]: layers 2..1");
  refused([](StoreSpec& s) { s.plan.overrides = {{0, 1, "f16", "f16"}, {3, 4, "f16", "f16"}}; }, "overrides[1]: layers 3..4");
  refused([](StoreSpec& s) { s.plan.overrides = {{0, 1, "f16", "bad"}}; }, "overrides[0].values");
  refused([](StoreSpec& s) { s.plan.overrides = {{0, 1, "f16", "f16", 2, 1}}; }, "overrides[0]: KV heads 2..1");
  refused([](StoreSpec& s) { s.plan.overrides = {{0, 1, "f16", "f16", 0, 3}}; }, "overrides[0]: KV heads 0..3");
  refused([](StoreSpec& s) { s.plan.artifact.assign(3, std::byte{1}); }, "artifact");
}

TEST(PlanTest, AcceptsTheLimits) {
  StoreSpec spec = Good();
  spec.head_dim = 1024;
  spec.block_tokens = 1024;
  spec.sink_tokens = 1024;
  spec.layers = 1;
  EXPECT_TRUE(Plan::Make(Registry::Builtin(), spec));
  spec.head_dim = 8;
  spec.block_tokens = 16;
  spec.sink_tokens = 0;
  spec.layers = 1024;
  spec.kv_heads = 256;
  EXPECT_TRUE(Plan::Make(Registry::Builtin(), spec));
}

}  // namespace
}  // namespace kvant::quantizers
