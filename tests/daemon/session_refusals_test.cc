// What a message of a session can get wrong, and what is said about it.
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/wire.h"
#include "tests/daemon/session_fixture.h"

namespace kvant::daemon {
namespace {

using ::testing::HasSubstr;

TEST_F(SessionRpcTest, BadSpecFieldsAreNamed) {
  struct Case {
    const char* named;
    std::function<void(StoreSpec&)> spoil;
  };
  const std::vector<Case> cases{
      {"name", [](StoreSpec& s) { s.name = "no spaces here"; }},
      {"model", [](StoreSpec& s) { s.model.clear(); }},
      {"tokenizer", [](StoreSpec& s) { s.tokenizer.clear(); }},
      {"layers", [](StoreSpec& s) { s.layers = 0; }},
      {"kv_heads", [](StoreSpec& s) { s.kv_heads = 0; }},
      {"head_dim", [](StoreSpec& s) { s.head_dim = 20; }},
      {"block_tokens", [](StoreSpec& s) { s.block_tokens = 17; }},
      {"sink_tokens", [](StoreSpec& s) { s.sink_tokens = 17; }},
      {"no_such_codec", [](StoreSpec& s) { s.plan.keys = "no_such_codec"; }},
      {"bits", [](StoreSpec& s) { s.plan.values = "turboquant_mse:bits=9"; }},
  };
  for (const Case& c : cases) {
    StoreSpec spec = RpcSpec("bad");
    c.spoil(spec);
    const Error error = RefusedStore(spec);
    EXPECT_NE(error.code, ErrorCode::kInternal) << c.named << ": " << error.message;
    EXPECT_THAT(error.message, HasSubstr(c.named));
  }
}

TEST_F(SessionRpcTest, AnotherIdentityUnderTheNameIsAStoreOfItsOwn) {
  StoreSpec spec = tail_.spec;
  spec.adapter = "lora";
  EXPECT_NE(client_.OpenStore(spec), store_);
  EXPECT_EQ(client_.OpenStore(tail_.spec), store_);  // the same one again
}

TEST_F(SessionRpcTest, UnknownEnumerantsAreRefused) {
  auto request = client_.session().openStoreRequest();
  wire::WriteStoreSpec(RpcSpec("enum"), request.initSpec());
  request.getSpec().setDtype(static_cast<wire::ElementType>(7));
  EXPECT_THAT(wire::ReadError(client_.Wait(request.send()).getError()).message, HasSubstr("dtype: element type 7"));
  auto rope = client_.session().openStoreRequest();
  wire::WriteStoreSpec(RpcSpec("enum"), rope.initSpec());
  rope.getSpec().getRope().setPairing(static_cast<wire::RopePairing>(9));
  EXPECT_THAT(wire::ReadError(client_.Wait(rope.send()).getError()).message, HasSubstr("rope pairing 9"));
  auto open = client_.session().openSequenceRequest();
  open.setStore(store_);
  FillOptions(open.initOptions(), arena_, tail_, static_cast<wire::Placement>(5));
  EXPECT_THAT(wire::ReadError(client_.Wait(open.send()).getError()).message, HasSubstr("placement 5"));
}

TEST_F(SessionRpcTest, AnArtifactOutsideTheArenaIsRefused) {
  const auto refused = [&](std::uint32_t arena, std::uint64_t offset, std::uint64_t bytes) {
    auto request = client_.session().openStoreRequest();
    wire::WriteStoreSpec(RpcSpec("artifact"), request.initSpec());
    auto range = request.getSpec().initArtifact();
    range.setArena(arena);
    range.setOffset(offset);
    range.setBytes(bytes);
    return wire::ReadError(client_.Wait(request.send()).getError()).code;
  };
  EXPECT_EQ(refused(arena_, kArenaBytes - 10, 11), ErrorCode::kOutOfRange);
  EXPECT_EQ(refused(arena_, ~std::uint64_t{0} - 5, 100), ErrorCode::kOutOfRange);
  EXPECT_EQ(refused(arena_, 5000, ~std::uint64_t{0}), ErrorCode::kInvalidArgument);  // more than an artifact may have
  EXPECT_EQ(refused(arena_, 0, 64), ErrorCode::kOutOfRange);                         // the header page
  EXPECT_EQ(refused(arena_ + 50, 5000, 64), ErrorCode::kNotFound);
  EXPECT_EQ(refused(arena_, 5000, 64), ErrorCode::kCorrupt);  // zeros are no safetensors image
}

TEST_F(SessionRpcTest, TailsThatDoNotFitAreRefused) {
  const auto refused = [&](const std::function<void(wire::SequenceOptions::Builder)>& spoil) {
    auto request = client_.session().openSequenceRequest();
    request.setStore(store_);
    FillOptions(request.initOptions(), arena_, tail_);
    spoil(request.getOptions());
    auto response = client_.Wait(request.send());
    if (response.isOk()) return Error{ErrorCode::kInternal, "accepted"};
    return wire::ReadError(response.getError());
  };
  EXPECT_EQ(refused([](auto o) { o.getTail().setOffset(kArenaBytes - 64); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto o) { o.getTail().setOffset(~std::uint64_t{63}); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto o) { o.getTail().setOffset(0); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto o) { o.getTail().setOffset(4100); }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto o) { o.getTail().setCapacityTokens(0xFFFFFFF0); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto o) { o.getTail().setCapacityTokens(0); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto o) { o.getTail().setCapacityTokens(65); }).code, ErrorCode::kInvalidArgument);  // no whole blocks
  EXPECT_EQ(refused([](auto o) { o.getTail().setCapacityTokens(32); }).code,
            ErrorCode::kInvalidArgument);  // too small for the options
  EXPECT_EQ(refused([](auto o) { o.setRecentTokens(0xFFFFFFFF); }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto o) { o.setMaxStepTokens(0xFFFFFFFF); }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto o) { o.getTail().setArena(99); }).code, ErrorCode::kNotFound);
}

TEST_F(SessionRpcTest, TensorsOutsideTheArenaAreRefused) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 8);
  Feed(id, reference, 3, tail_);
  const auto refused = [&](const std::function<void(wire::AttendItem::Builder)>& spoil) {
    auto request = GoodAttend(id);
    spoil(request.getItems()[0]);
    const auto outcome = Attend(request);
    return outcome ? Error{ErrorCode::kInternal, "accepted"} : outcome.error();
  };
  constexpr std::uint64_t kHuge = ~std::uint64_t{0};
  EXPECT_EQ(refused([](auto i) { i.getQ().setOffset(kArenaBytes); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto i) { i.getOut().setOffset(kArenaBytes - 4); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto i) { i.getOut().setOffset(0); }).code, ErrorCode::kOutOfRange);  // the header page
  EXPECT_EQ(refused([](auto i) { i.getOut().setOffset(kHuge - 3); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto i) { i.getQ().setOffset(kQ + 2); }).code, ErrorCode::kInvalidArgument);
  // (heads - 1) * stride wraps around 2^64 to a small number.
  EXPECT_EQ(refused([](auto i) { i.getOut().setHeadStride(kHuge); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto i) { i.getOut().setHeadStride(std::uint64_t{1} << 62); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto i) { i.getQ().setTokens(0xFFFFFFFF); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto i) { i.getQ().setTokenStride(0), i.getQ().setHeadStride(0), i.getQ().setHeads(0xFFFFFFFC); }).code,
            ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto i) { i.getQ().setTokens(0); }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto i) { i.getQ().setDim(8); }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto i) { i.getQ().setHeads(3); }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto i) { i.getOut().setHeads(2); }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto i) { i.getQ().setTokens(2), i.getOut().setTokens(2); }).code,
            ErrorCode::kInvalidArgument);  // without new rows
  EXPECT_EQ(refused([](auto i) { i.getQ().setArena(77); }).code, ErrorCode::kNotFound);
  EXPECT_EQ(refused([](auto i) { i.getQ().setElementType(static_cast<wire::ElementType>(3)); }).code,
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto i) { i.getLse().setBytes(4); }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto i) { i.getLse().setOffset(kHuge - 7); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([&](auto i) {
              i.initSinkLogits().setArena(arena_), i.getSinkLogits().setOffset(kLse), i.getSinkLogits().setBytes(12);
            }).code,
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto i) { i.setLayer(2); }).code, ErrorCode::kOutOfRange);
  EXPECT_EQ(refused([](auto i) { i.setNewTokens(1000); }).code, ErrorCode::kTailFull);
  EXPECT_EQ(refused([](auto i) { i.setScale(std::numeric_limits<float>::quiet_NaN()); }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto i) { i.setSequence(7); }).code, ErrorCode::kStaleDaemon);
  EXPECT_EQ(refused([&](auto i) { i.setSequence(id + 1); }).code, ErrorCode::kNotFound);
  EXPECT_EQ(refused([](auto) {}).message, "accepted");  // and unspoiled it works
}

TEST_F(SessionRpcTest, AnotherSessionsSequencesCannotBeChanged) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  RpcClient other(*io_, daemon_->Connect().value());
  other.Hello();
  const std::vector<std::uint32_t> one{1};
  auto advance = AdvanceRequest(other, id, one);
  EXPECT_EQ(wire::ReadStatus(other.Wait(advance.send()).getOutcomes()[0].getStatus()).error().code,
            ErrorCode::kPermissionDenied);
  auto close = other.session().closeRequest();
  close.setSequence(id);
  EXPECT_EQ(wire::ReadStatus(other.Wait(close.send())).error().code, ErrorCode::kPermissionDenied);
  auto trim = other.session().trimRequest();
  trim.setSequence(id);
  EXPECT_EQ(wire::ReadError(other.Wait(trim.send()).getError()).code, ErrorCode::kPermissionDenied);
  auto slabs = other.session().slabsRequest();
  slabs.setStore(store_);
  EXPECT_EQ(wire::ReadError(other.Wait(slabs.send()).getError()).code, ErrorCode::kNotFound);
}

TEST_F(SessionRpcTest, ArenasHaveALimit) {
  const auto refused = [&](std::uint64_t bytes) {
    auto request = client_.session().createArenaRequest();
    request.setBytes(bytes);
    auto response = client_.Wait(request.send());
    return response.isOk() ? ErrorCode::kInternal : wire::ReadError(response.getError()).code;
  };
  EXPECT_EQ(refused(0), ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused(4096), ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused(~std::uint64_t{0}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused(std::uint64_t{4} << 30), ErrorCode::kInvalidArgument);  // 4 GiB for all, and there is one already
}

}  // namespace
}  // namespace kvant::daemon
