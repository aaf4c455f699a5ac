// The codec contract carries codecs of other kinds: each toy is added by one registration, passes the conformance suite and
// serves attention.
#include "tests/quantizers/toy_codecs.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quantizers/plan.h"
#include "tests/quantizers/attention_case.h"
#include "tests/quantizers/conformance.h"
#include "tools/codec_calls.h"

namespace kvant::quantizers {
namespace {

Registry WithToys() {
  Registry registry = Registry::Builtin();
  for (const Codec* toy : {&test::kToyChannel, &test::kToyCodebook, &test::kToyPreRope, &test::kToyOutlier,
                           &test::kToyBlockMean, &test::kToySigns, &test::kToyNibbles, &test::kToyPlanes}) {
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
  const Registry registry = WithToys();
  const bool has_values = registry.Parse(GetParam())->codec->make_values != nullptr;
  std::uint64_t seed = 1;
  for (const std::string& values : {has_values ? GetParam() : "f16", std::string("int8")}) {
    for (const std::size_t group : {1, 3}) {
      test::CaseShape shape{.keys = GetParam(), .values = values, .group = group, .tail = 90, .queries = 7};
      shape.rope = kRope;
      shape.key_stage = GetParam() == "toy_pre_rope" ? KeyStage::kBeforeRope : KeyStage::kAfterRope;
      shape.artifact = test::ExampleArtifact(registry, GetParam(), 2, shape.head_dim);
      test::ExpectMatchesReference(registry, shape, seed++);
      shape.raw_type = ElementType::kBF16;
      shape.raw_pieces = 2;
      shape.window = 200;
      shape.softcap = 3.0f;
      shape.sink_logits = true;
      shape.rope = {RopePairing::kAdjacent, 500000.0, 32};
      test::ExpectMatchesReference(registry, shape, seed++);
      shape.queries = 70;  // more than one tile
      test::ExpectMatchesReference(registry, shape, seed++);
    }
  }
}

const auto kToys =
    testing::Values("toy_channel", "toy_codebook", "toy_pre_rope", "toy_outlier",
                    "toy_outlier:channels=16,hot=(f16),rest=(toy_outlier:rest=(turboquant_mse:bits=4))",
                    "toy_outlier:hot=(int8),rest=(toy_codebook)", "toy_block_mean", "toy_signs", "toy_nibbles", "toy_planes");
INSTANTIATE_TEST_SUITE_P(Toys, ToyConformanceTest, kToys);
INSTANTIATE_TEST_SUITE_P(Toys, ToyAttentionTest, kToys);

TEST(ToyCacheTest, BlocksDemotedInPlaceAreReadAtLowerQuality) {
  // Some blocks have lost their second section, which is then garbage; runs of several tiles, and a prompt.
  test::CaseShape shape{.keys = "toy_planes", .values = "toy_planes", .group = 2, .sealed_blocks = 9};
  for (const std::vector<std::uint8_t>& sections : {std::vector<std::uint8_t>{1}, {2, 1, 1}, {1, 2}}) {
    shape.sections = sections;
    test::ExpectMatchesReference(WithToys(), shape, 71);
    shape.values = "turboquant_mse:bits=4";  // only one side has a second part
    test::ExpectMatchesReference(WithToys(), shape, 72);
    shape.values = "toy_planes";
  }
}

TEST(ToyCacheTest, ManyQueriesMayHaveAnotherAccumulator) {
  // 100 tokens of 3 heads: more than kMaxHistograms of the toy, in several tiles; and a batch of few and many.
  test::CaseShape shape{.keys = "f16", .values = "toy_codebook", .group = 3, .sealed_blocks = 40, .tail = 120, .queries = 100};
  shape.artifact = test::ExampleArtifact(WithToys(), "toy_codebook", 2, shape.head_dim);
  test::ExpectMatchesReference(WithToys(), shape, 73);
  shape.queries = 4;
  test::ExpectMatchesReference(WithToys(), shape, 74);
}

TEST(ToyCacheTest, KvHeadsOfALayerMayHaveTheirOwnCodecs) {
  test::CaseShape shape{.keys = "int8", .values = "toy_planes", .kv_heads = 5, .group = 2, .sealed_blocks = 40, .tail = 60};
  shape.overrides = {{0, 0, "turboquant_mse:bits=4", "f16", 1, 2}, {0, 0, "toy_signs", "toy_codebook", 4, 4}};
  shape.artifact = test::ExampleArtifact(WithToys(), "toy_codebook", 5, shape.head_dim);
  for (const std::size_t queries : {1, 30}) {
    shape.queries = queries;
    shape.sections = {2, 1};
    test::ExpectMatchesReference(WithToys(), shape, 75 + queries);
  }
}

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
  other.plan.artifact = ArtifactImage(std::vector<ExampleTensor>{{"toy.codebook", {4, 4}, std::vector<float>(16)}});
  refused(other, "has shape [4, 4], want [256, 4]");
  refused(Spec("f16", "toy_channel"), "not offered");
  refused(Spec("toy_pre_rope", "f16"), "rope");
  StoreSpec turned = Spec("toy_pre_rope", "f16");
  turned.rope = kRope;
  refused(turned, "layer 0 keys: codec toy_pre_rope@1 needs key_stage before_rope, the store has after_rope");
  turned.layers = 3;
  turned.key_stage = KeyStage::kBeforeRope;
  turned.plan.overrides = {{2, 2, "int8", "f16"}};
  refused(turned, "layer 2 keys: codec int8@1 needs key_stage after_rope, the store has before_rope");
  refused(Spec("toy_outlier:channels=64", "f16"), "channels=64");
  refused(Spec("toy_outlier:hot=(toy_planes)", "f16"), "blocks of one part");
  refused(Spec("f16", "toy_outlier:rest=(toy_signs)"), "codec toy_signs is not offered for values");
  StoreSpec mixed = Spec("f16", "f16");
  mixed.kv_heads = 2;
  mixed.rope = kRope;
  mixed.plan.overrides = {{0, 0, "toy_pre_rope", "f16", 1, 1}};
  refused(mixed, "layer 0 keys: codec toy_pre_rope@1 needs key_stage before_rope");
  StoreSpec small = Spec("toy_channel", "f16");
  small.block_tokens = 48;
  refused(small, "multiples of 32");
}

TEST(ToyPlanTest, SectionsHoldThePartsOfAllCodecs) {
  StoreSpec spec = Spec("toy_planes", "int8");
  spec.layers = 2;
  spec.kv_heads = 3;
  spec.plan.overrides = {{1, 1, "int8", "toy_planes"}};
  const auto plan = Plan::Make(WithToys(), spec);
  ASSERT_TRUE(plan) << plan.error().message;
  const Plan& p = **plan;
  ASSERT_EQ(p.sections(), 2u);
  std::size_t end = 0;
  for (std::size_t section = 0; section < 2; ++section) {
    for (std::size_t layer = 0; layer < 2; ++layer) {
      for (std::size_t head = 0; head < 3; ++head) {
        for (const Side side : {Side::kKeys, Side::kValues}) {
          const Place place = p.place(layer, head, side);
          ASSERT_EQ(place.parts, p.codec(layer, head, side).parts());
          if (section >= place.parts) continue;
          EXPECT_EQ(place.offset[section], end);
          EXPECT_EQ(place.bytes[section], p.codec(layer, head, side).part_bytes(section));
          end += place.room[section];
        }
      }
    }
    EXPECT_EQ(p.section_end(section), end);
  }
  EXPECT_EQ(p.payload_bytes(), end);
}

TEST(ToyPlanTest, CodecsInsideACodecDrawOtherRotations) {
  // Equal rows in both halves: with one rotation for both their codes would be the same bytes.
  const Registry registry = WithToys();
  const auto spec = registry.Parse("toy_outlier:channels=64,hot=(turboquant_mse:bits=4),rest=(turboquant_mse:bits=4)");
  ASSERT_TRUE(spec) << spec.error().message;
  const CodecConfig config{
      .kv_heads = 1, .head_end = 1, .head_dim = 128, .block_tokens = 32, .model = "m", .registry = &registry};
  const auto keys = std::move(MakeKeys(*spec, config)).value();
  std::vector<float> rows(32 * 128);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = std::sin(static_cast<float>(i / 128 * 64 + i % 64));
  tools::AlignedBytes block(keys->block_bytes());
  ASSERT_TRUE(tools::EncodeBlock(*keys, 0, 0, {rows.data(), ElementType::kF32, 32, 128, 128}, block.data()));
  const std::size_t half = keys->block_bytes() / 2;
  EXPECT_FALSE(std::equal(block.data(), block.data() + half, block.data() + half));
}

/// f16 values that count how often somebody asks for their error.
class CountingValues final : public ValueCodec {
 public:
  static inline int errors_asked = 0;

  explicit CountingValues(const CodecConfig& config)
      : raw_(std::move(MakeValues(config.registry->Parse("f16").value(), config)).value()) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t part) const noexcept override { return raw_->part_bytes(part); }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override { return raw_->needs(n); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t parts) const override {
    ++errors_asked;
    return raw_->expected_error(parts);
  }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return raw_->Encode(args); }
  void Decode(const DecodeArgs& args) const override { raw_->Decode(args); }
  [[nodiscard]] std::size_t accumulator_floats(std::size_t queries) const noexcept override {
    return raw_->accumulator_floats(queries);
  }
  void Accumulate(const AccumulateArgs& args) const override { raw_->Accumulate(args); }
  void Finish(const FinishArgs& args) const override { raw_->Finish(args); }

 private:
  std::unique_ptr<ValueCodec> raw_;
};

constexpr ParamSpec kNumber[] = {{.name = "number", .default_value = "1", .meaning = "any", .min = 1, .max = 9}};
const Codec kCounting{.name = "toy_counting",
                      .summary = "counts",
                      .params = kNumber,
                      .make_values = [](const CodecConfig& config) -> Result<std::unique_ptr<ValueCodec>> {
                        return std::unique_ptr<ValueCodec>(std::make_unique<CountingValues>(config));
                      }};

TEST(ToyPlanTest, TheErrorIsAskedOncePerCodecNotPerLayer) {
  StoreSpec spec = Spec("f16", "toy_counting");
  spec.layers = 30;
  spec.plan.overrides = {{3, 5, "f16", "toy_counting:number=2"}};
  Registry registry = WithToys();
  ASSERT_TRUE(registry.Add(kCounting));
  CountingValues::errors_asked = 0;
  ASSERT_TRUE(Plan::Make(registry, spec));
  EXPECT_EQ(CountingValues::errors_asked, 2);
}

}  // namespace
}  // namespace kvant::quantizers
