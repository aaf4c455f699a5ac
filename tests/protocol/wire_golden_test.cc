// Messages as the schema compiler's own tool wrote them (tests/golden/make_wire.sh), read by our code: pins every ordinal they
// use.
#include <cstdint>
#include <fstream>
#include <string>
#include <variant>
#include <vector>

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>
#include <kvant/kvant.capnp.h>

#include "protocol/wire.h"

namespace kvant {
namespace {

class Golden {
 public:
  explicit Golden(const std::string& name) {
    std::ifstream file(std::string(KVANT_SOURCE_DIR "/tests/golden/") + name + ".capnp.hex");
    std::vector<std::uint8_t> bytes;
    for (unsigned byte = 0; file >> std::hex >> byte;) bytes.push_back(static_cast<std::uint8_t>(byte));
    words_ = kj::heapArray<capnp::word>(bytes.size() / sizeof(capnp::word));
    std::copy(bytes.begin(), bytes.end(), words_.asBytes().begin());
    message_ = std::make_unique<capnp::FlatArrayMessageReader>(words_);
  }
  template <typename T>
  typename T::Reader Root() {
    return message_->getRoot<T>();
  }

 private:
  kj::Array<capnp::word> words_;
  std::unique_ptr<capnp::FlatArrayMessageReader> message_;
};

TEST(WireGoldenTest, Hello) {
  Golden golden("wire_hello");
  const auto hello = golden.Root<wire::Hello>();
  EXPECT_EQ(hello.getProtocolVersion(), 1u);
  EXPECT_EQ(hello.getSegmentLayoutVersion(), 2u);
  EXPECT_EQ(hello.getBootToken(), 0x1122334455667788u);
  EXPECT_STREQ(hello.getClientName().cStr(), "golden");
}

TEST(WireGoldenTest, AttendItem) {
  Golden golden("wire_attend");
  const auto item = golden.Root<wire::AttendItem>();
  EXPECT_EQ(item.getSequence(), 0x0102030405060708u);
  EXPECT_EQ(item.getLayer(), 9u);
  EXPECT_EQ(item.getNewTokens(), 10u);
  const auto q = item.getQ();
  EXPECT_EQ(q.getArena(), 1u);
  EXPECT_EQ(q.getElementType(), wire::ElementType::BF16);
  EXPECT_EQ(q.getOffset(), 4096u);
  EXPECT_EQ(q.getTokens(), 2u);
  EXPECT_EQ(q.getHeads(), 3u);
  EXPECT_EQ(q.getDim(), 4u);
  EXPECT_EQ(q.getTokenStride(), 12u);
  EXPECT_EQ(q.getHeadStride(), 5u);
  EXPECT_EQ(item.getOut().getArena(), 6u);
  EXPECT_EQ(item.getOut().getElementType(), wire::ElementType::F16);
  EXPECT_EQ(item.getLse().getArena(), 11u);
  EXPECT_EQ(item.getLse().getOffset(), 12288u);
  EXPECT_EQ(item.getLse().getBytes(), 24u);
  EXPECT_EQ(item.getSinkLogits().getArena(), 13u);
  EXPECT_EQ(item.getScale(), 0.5f);
  EXPECT_EQ(item.getSoftcap(), 30.0f);
  EXPECT_EQ(item.getWindow(), 14u);
}

TEST(WireGoldenTest, StoreSpec) {
  Golden golden("wire_store_spec");
  const auto from = golden.Root<wire::StoreSpec>();
  const auto spec = wire::ReadStoreSpec(from);
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->name + spec->model + spec->tokenizer + spec->adapter + spec->salt, "nmtas");
  EXPECT_EQ(spec->rope.pairing, RopePairing::kHalfSplit);
  EXPECT_EQ(spec->rope.theta, 10000.0);
  EXPECT_EQ(spec->rope.rotary_dims, 16u);
  const auto& yarn = std::get<RopeYarn>(spec->rope.scaling);
  EXPECT_EQ(yarn.factor, 4);
  EXPECT_EQ(yarn.original_positions, 8192u);
  EXPECT_EQ(yarn.beta_fast, 32);
  EXPECT_EQ(yarn.beta_slow, 1);
  EXPECT_TRUE(yarn.truncate);
  EXPECT_EQ(yarn.attention_factor, 1.25);
  EXPECT_EQ(spec->key_stage, KeyStage::kBeforeRope);
  EXPECT_EQ(spec->layers, 2u);
  EXPECT_EQ(spec->kv_heads, 3u);
  EXPECT_EQ(spec->head_dim, 64u);
  EXPECT_EQ(spec->dtype, ElementType::kBF16);
  EXPECT_EQ(spec->block_tokens, 32u);
  EXPECT_EQ(spec->sink_tokens, 4u);
  EXPECT_EQ(spec->plan.keys + spec->plan.values, "kv");
  ASSERT_EQ(spec->plan.overrides.size(), 1u);
  EXPECT_EQ(spec->plan.overrides[0].first_layer, 1u);
  EXPECT_EQ(spec->plan.overrides[0].last_layer, 2u);
  EXPECT_EQ(spec->plan.overrides[0].first_head, 3u);
  EXPECT_EQ(spec->plan.overrides[0].last_head, 4u);
  EXPECT_EQ(spec->plan.overrides[0].keys, "f16");
  EXPECT_EQ(spec->plan.overrides[0].values, "f32");
  EXPECT_EQ(from.getArtifact().getArena(), 5u);
  EXPECT_EQ(from.getArtifact().getOffset(), 6u);
  EXPECT_EQ(from.getArtifact().getBytes(), 7u);
}

TEST(WireGoldenTest, RopeScalings) {
  Golden long_message("wire_rope_long");
  const auto rope = long_message.Root<wire::Rope>();
  EXPECT_EQ(rope.getPairing(), wire::RopePairing::ADJACENT);
  EXPECT_EQ(rope.getTheta(), 20000);
  EXPECT_EQ(rope.getRotaryDims(), 4u);
  const auto longrope = rope.getScaling().getLong();
  EXPECT_EQ(longrope.getFactor(), 2);
  EXPECT_EQ(longrope.getOriginalPositions(), 3u);
  EXPECT_EQ(longrope.getContextTokens(), 5u);
  EXPECT_EQ(longrope.getShortFactors()[1], 1.5);
  EXPECT_EQ(longrope.getLongFactors()[1], 2.5);
  EXPECT_EQ(longrope.getAttentionFactor(), 1.125);

  Golden llama3_message("wire_rope_llama3");
  const auto llama3 = llama3_message.Root<wire::Rope>().getScaling().getLlama3();
  EXPECT_EQ(llama3.getFactor(), 8);
  EXPECT_EQ(llama3.getOriginalPositions(), 8192u);
  EXPECT_EQ(llama3.getLowFreqFactor(), 1);
  EXPECT_EQ(llama3.getHighFreqFactor(), 4);

  Golden dynamic_message("wire_rope_dynamic");
  const auto dynamic = dynamic_message.Root<wire::Rope>().getScaling().getDynamic();
  EXPECT_EQ(dynamic.getFactor(), 2);
  EXPECT_EQ(dynamic.getOriginalPositions(), 4096u);
  EXPECT_EQ(dynamic.getContextTokens(), 16384u);
}

TEST(WireGoldenTest, Advanced) {
  Golden golden("wire_advanced");
  const auto advanced = golden.Root<wire::Advanced>();
  EXPECT_EQ(advanced.getLength(), 100u);
  EXPECT_EQ(advanced.getSwitchedBlocks(), 3u);
  EXPECT_EQ(advanced.getTable().getFirst(), 2u);
  ASSERT_EQ(advanced.getTable().getBlocks().size(), 1u);
  EXPECT_EQ(advanced.getTable().getBlocks()[0].getSlab(), 4u);
  EXPECT_EQ(advanced.getTable().getBlocks()[0].getSlot(), 5u);
  EXPECT_EQ(advanced.getTable().getBlocks()[0].getGeneration(), 6u);
  EXPECT_EQ(advanced.getTable().getSinks().getSlot(), 8u);
  const auto status = wire::ReadStatus(advanced.getStatus());
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kStoreFull);
  EXPECT_EQ(status.error().message, "full");
}

}  // namespace
}  // namespace kvant
