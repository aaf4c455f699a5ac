// Schema <-> vocabulary.
#include "protocol/wire.h"

#include <cstdint>
#include <string>

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

TEST(WireTest, EnumerantsOfANewerPeerAreRefused) {
  capnp::MallocMessageBuilder message;
  auto builder = message.initRoot<wire::StoreSpec>();
  wire::WriteStoreSpec(FullSpec(), builder);
  builder.setDtype(static_cast<wire::ElementType>(40));
  EXPECT_THAT(wire::ReadStoreSpec(builder.asReader()).error().message, HasSubstr("40"));
  builder.setDtype(wire::ElementType::F32);
  builder.setRopePairing(static_cast<wire::RopePairing>(41));
  EXPECT_THAT(wire::ReadStoreSpec(builder.asReader()).error().message, HasSubstr("41"));
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
