// Schema <-> vocabulary.
#include "protocol/wire.h"

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include <capnp/message.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/debug.h>

namespace kvant {
namespace {

using ::testing::HasSubstr;

StoreSpec FullSpec() {
  StoreSpec spec;
  spec.name = "a/name:1";
  spec.model = "model";
  spec.tokenizer = "tokenizer";
  spec.adapter = "adapter";
  spec.salt = std::string("salt\0with NUL", 13);
  spec.rope = {RopePairing::kAdjacent, 500000.5, 48};
  spec.key_stage = KeyStage::kBeforeRope;
  spec.layers = 3;
  spec.kv_heads = 5;
  spec.head_dim = 96;
  spec.dtype = ElementType::kF16;
  spec.block_tokens = 48;
  spec.sink_tokens = 7;
  spec.plan.keys = "turboquant_mse:bits=3";
  spec.plan.values = "int8";
  spec.plan.overrides = {{0, 1, "f16", "bf16"}, {2, 2, "f32", "f32", 3, 4}};
  return spec;
}

TEST(WireTest, AStoreSpecSurvivesTheWire) {
  const StoreSpec spec = FullSpec();
  capnp::MallocMessageBuilder message;
  wire::WriteStoreSpec(spec, message.initRoot<wire::StoreSpec>());
  auto read = wire::ReadStoreSpec(message.getRoot<wire::StoreSpec>().asReader());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->name, spec.name);
  EXPECT_EQ(read->model, spec.model);
  EXPECT_EQ(read->tokenizer, spec.tokenizer);
  EXPECT_EQ(read->adapter, spec.adapter);
  EXPECT_EQ(read->salt, spec.salt);
  EXPECT_EQ(read->rope.pairing, spec.rope.pairing);
  EXPECT_EQ(read->rope.theta, spec.rope.theta);
  EXPECT_EQ(read->rope.rotary_dims, spec.rope.rotary_dims);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(read->rope.scaling));
  EXPECT_EQ(read->key_stage, spec.key_stage);
  EXPECT_EQ(read->layers, spec.layers);
  EXPECT_EQ(read->kv_heads, spec.kv_heads);
  EXPECT_EQ(read->head_dim, spec.head_dim);
  EXPECT_EQ(read->dtype, spec.dtype);
  EXPECT_EQ(read->block_tokens, spec.block_tokens);
  EXPECT_EQ(read->sink_tokens, spec.sink_tokens);
  EXPECT_EQ(read->plan.keys, spec.plan.keys);
  EXPECT_EQ(read->plan.values, spec.plan.values);
  ASSERT_EQ(read->plan.overrides.size(), 2u);
  EXPECT_EQ(read->plan.overrides[1].first_layer, 2u);
  EXPECT_EQ(read->plan.overrides[0].last_layer, 1u);
  EXPECT_EQ(read->plan.overrides[0].keys, "f16");
  EXPECT_EQ(read->plan.overrides[0].values, "bf16");
  EXPECT_EQ(read->plan.overrides[0].first_head, 0u);
  EXPECT_EQ(read->plan.overrides[0].last_head, LayerPlan::kLastHead);
  EXPECT_EQ(read->plan.overrides[1].first_head, 3u);
  EXPECT_EQ(read->plan.overrides[1].last_head, 4u);
}

TEST(WireTest, OverridesAreCountedBeforeAnyIsRead) {
  capnp::MallocMessageBuilder message;
  auto builder = message.initRoot<wire::StoreSpec>();
  wire::WriteStoreSpec(FullSpec(), builder);
  builder.initOverrides(wire::kMaxOverrides);
  EXPECT_TRUE(wire::ReadStoreSpec(builder.asReader()));
  builder.initOverrides(wire::kMaxOverrides + 1);
  const auto refused = wire::ReadStoreSpec(builder.asReader());
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("4097 entries, at most 4096"), std::string::npos) << refused.error().message;
}

TEST(WireTest, TextsAndListsThatAreTooLongAreRefused) {
  capnp::MallocMessageBuilder message;
  auto builder = message.initRoot<wire::StoreSpec>();
  const auto refused = [&](const std::string& what) {
    EXPECT_THAT(wire::ReadStoreSpec(builder.asReader()).error().message, HasSubstr(what));
    wire::WriteStoreSpec(FullSpec(), builder);
  };
  wire::WriteStoreSpec(FullSpec(), builder);
  builder.setModel(std::string(4096, 'm').c_str());
  EXPECT_TRUE(wire::ReadStoreSpec(builder.asReader()));
  const std::string text(4097, 'x');
  builder.setName(text.c_str());
  refused("name has 4097 bytes, at most 4096");
  builder.setModel(text.c_str());
  refused("model has 4097 bytes");
  builder.setTokenizer(text.c_str());
  refused("tokenizer has 4097 bytes");
  builder.setAdapter(text.c_str());
  refused("adapter has 4097 bytes");
  builder.setSalt(text.c_str());
  refused("salt has 4097 bytes");
  const std::string codec(300'000, 'c');
  builder.setKeys(codec.c_str());
  builder.setValues(codec.c_str());
  auto overrides = builder.initOverrides(1);
  overrides[0].setKeys(codec.c_str());
  overrides[0].setValues(codec.c_str());
  refused("the text of all codec specs has 1200000 bytes, at most 1048576");
}

RopeScaling ThroughTheWire(const RopeScaling& scaling) {
  StoreSpec spec = FullSpec();
  spec.rope.scaling = scaling;
  capnp::MallocMessageBuilder message;
  wire::WriteStoreSpec(spec, message.initRoot<wire::StoreSpec>());
  return wire::ReadStoreSpec(message.getRoot<wire::StoreSpec>().asReader()).value().rope.scaling;
}

TEST(WireTest, EveryRopeScalingSurvivesTheWire) {
  EXPECT_EQ(std::get<RopeLinear>(ThroughTheWire(RopeLinear{.factor = 2.5})).factor, 2.5);

  const auto dynamic =
      std::get<RopeDynamic>(ThroughTheWire(RopeDynamic{.factor = 2, .original_positions = 3, .context_tokens = 4}));
  EXPECT_EQ(dynamic.factor, 2);
  EXPECT_EQ(dynamic.original_positions, 3u);
  EXPECT_EQ(dynamic.context_tokens, 4u);

  const auto yarn = std::get<RopeYarn>(ThroughTheWire(RopeYarn{
      .factor = 2, .original_positions = 3, .beta_fast = 5, .beta_slow = 6, .truncate = false, .attention_factor = 7}));
  EXPECT_EQ(yarn.factor, 2);
  EXPECT_EQ(yarn.original_positions, 3u);
  EXPECT_EQ(yarn.beta_fast, 5);
  EXPECT_EQ(yarn.beta_slow, 6);
  EXPECT_FALSE(yarn.truncate);
  EXPECT_TRUE(std::get<RopeYarn>(ThroughTheWire(RopeYarn{.truncate = true})).truncate);
  EXPECT_EQ(yarn.attention_factor, 7);

  const auto llama3 = std::get<RopeLlama3>(
      ThroughTheWire(RopeLlama3{.factor = 2, .original_positions = 3, .low_freq_factor = 8, .high_freq_factor = 9}));
  EXPECT_EQ(llama3.factor, 2);
  EXPECT_EQ(llama3.original_positions, 3u);
  EXPECT_EQ(llama3.low_freq_factor, 8);
  EXPECT_EQ(llama3.high_freq_factor, 9);

  const auto longrope = std::get<RopeLong>(ThroughTheWire(RopeLong{.factor = 2,
                                                                   .original_positions = 3,
                                                                   .context_tokens = 4,
                                                                   .short_factors = {1.5, 2.5},
                                                                   .long_factors = {3.5, 4.5, 5.5},
                                                                   .attention_factor = 7}));
  EXPECT_EQ(longrope.factor, 2);
  EXPECT_EQ(longrope.original_positions, 3u);
  EXPECT_EQ(longrope.context_tokens, 4u);
  EXPECT_EQ(longrope.short_factors, (std::vector<double>{1.5, 2.5}));
  EXPECT_EQ(longrope.long_factors, (std::vector<double>{3.5, 4.5, 5.5}));
  EXPECT_EQ(longrope.attention_factor, 7);
}

TEST(WireTest, RopeFactorsBeyondTheLargestHeadAreRefused) {
  capnp::MallocMessageBuilder message;
  auto builder = message.initRoot<wire::StoreSpec>();
  wire::WriteStoreSpec(FullSpec(), builder);
  auto longrope = builder.getRope().getScaling().initLong();
  longrope.initLongFactors(512);
  EXPECT_TRUE(wire::ReadStoreSpec(builder.asReader()));  // Plan says what is wrong with them
  longrope.initLongFactors(513);
  EXPECT_THAT(wire::ReadStoreSpec(builder.asReader()).error().message,
              HasSubstr("rope.long_factors has 513 entries, at most 512"));
  longrope.initLongFactors(0);
  longrope.initShortFactors(100000);
  EXPECT_THAT(wire::ReadStoreSpec(builder.asReader()).error().message, HasSubstr("rope.short_factors has 100000 entries"));
}

TEST(WireTest, EnumerantsOfANewerPeerAreRefused) {
  capnp::MallocMessageBuilder message;
  auto builder = message.initRoot<wire::StoreSpec>();
  wire::WriteStoreSpec(FullSpec(), builder);
  builder.setDtype(static_cast<wire::ElementType>(40));
  EXPECT_THAT(wire::ReadStoreSpec(builder.asReader()).error().message, HasSubstr("40"));
  builder.setDtype(wire::ElementType::F32);
  builder.getRope().setPairing(static_cast<wire::RopePairing>(41));
  EXPECT_THAT(wire::ReadStoreSpec(builder.asReader()).error().message, HasSubstr("rope pairing 41"));
  builder.getRope().setPairing(wire::RopePairing::NONE);
  builder.setKeyStage(static_cast<wire::KeyStage>(42));
  EXPECT_THAT(wire::ReadStoreSpec(builder.asReader()).error().message, HasSubstr("key stage 42"));
}

// Stored in identities and spoken by other programs: the numbers of vocabulary and schema must agree.
TEST(WireTest, EnumerantsHaveTheVocabularysNumbers) {
  for (const ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
    EXPECT_EQ(static_cast<unsigned>(wire::WriteElementType(type)), static_cast<unsigned>(type));
    EXPECT_EQ(*wire::ReadElementType(wire::WriteElementType(type)), type);
  }
  EXPECT_EQ(static_cast<unsigned>(wire::RopePairing::NONE), static_cast<unsigned>(RopePairing::kNone));
  EXPECT_EQ(static_cast<unsigned>(wire::RopePairing::HALF_SPLIT), static_cast<unsigned>(RopePairing::kHalfSplit));
  EXPECT_EQ(static_cast<unsigned>(wire::RopePairing::ADJACENT), static_cast<unsigned>(RopePairing::kAdjacent));
  for (const KeyStage stage : {KeyStage::kAfterRope, KeyStage::kBeforeRope}) {
    EXPECT_EQ(static_cast<unsigned>(wire::WriteKeyStage(stage)), static_cast<unsigned>(stage));
    EXPECT_EQ(*wire::ReadKeyStage(wire::WriteKeyStage(stage)), stage);
  }
}

TEST(WireTest, EveryErrorCodeSurvivesTheWire) {
  for (std::uint16_t code = 1; code <= static_cast<std::uint16_t>(ErrorCode::kInternal); ++code) {
    capnp::MallocMessageBuilder message;
    wire::WriteStatus(Error{static_cast<ErrorCode>(code), "what"}, message.initRoot<wire::Status>());
    const auto read = wire::ReadStatus(message.getRoot<wire::Status>().asReader());
    ASSERT_FALSE(read);
    EXPECT_EQ(static_cast<std::uint16_t>(read.error().code), code);
    EXPECT_EQ(read.error().message, "what");
  }
  capnp::MallocMessageBuilder message;
  wire::WriteStatus({}, message.initRoot<wire::Status>());
  EXPECT_TRUE(wire::ReadStatus(message.getRoot<wire::Status>().asReader()));
}

TEST(WireTest, AnUnknownErrorCodeCountsAsInternal) {
  capnp::MallocMessageBuilder message;
  auto error = message.initRoot<wire::Error>();
  error.setCode(999);
  error.setMessage("new");
  EXPECT_EQ(wire::ReadError(error.asReader()).code, ErrorCode::kInternal);
  EXPECT_EQ(wire::ReadError(error.asReader()).message, "new");
}

TEST(WireTest, ExceptionsSayWhatTheyMeanToTheCaller) {
  const auto code = [](kj::Exception exception) { return wire::FromException(exception, "attend", "/run/s").code; };
  EXPECT_EQ(code(KJ_EXCEPTION(DISCONNECTED, "eof")), ErrorCode::kDisconnected);
  EXPECT_EQ(code(KJ_EXCEPTION(UNIMPLEMENTED, "method")), ErrorCode::kVersionMismatch);
  EXPECT_EQ(code(KJ_EXCEPTION(FAILED, "bug")), ErrorCode::kInternal);
  const Error error = wire::FromException(KJ_EXCEPTION(DISCONNECTED, "eof"), "attend", "/run/s");
  EXPECT_THAT(error.message, HasSubstr("attend"));
  EXPECT_THAT(error.message, HasSubstr("/run/s"));
  EXPECT_THAT(error.message, HasSubstr("eof"));
}

}  // namespace
}  // namespace kvant
