// Engines' private states: put at the ends of blocks, found by forks and by whoever opens the prefix.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t kBlock = 64;
constexpr std::uint32_t kMaxStep = 64;

using Bytes = std::vector<std::byte>;

Bytes RandomBytes(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// Turns over a bit wherever these bytes lie in shared memory that this process may write, the daemon's slabs among it. Returns
/// how often.
int Damage(const Bytes& wanted) {
  int found = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(" rw-s ") == std::string::npos || line.find("/memfd:") == std::string::npos) continue;
    std::uintptr_t first = 0;
    std::uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &first, &end) != 2) continue;
    auto* const at = static_cast<std::byte*>(::memmem(reinterpret_cast<void*>(first), end - first, wanted.data(),
                                                      wanted.size()));  // NOLINT: addresses are text there
    if (at == nullptr) continue;
    at[wanted.size() / 2] ^= std::byte{1};
    ++found;
  }
  return found;
}

class StateTest : public ::testing::TestWithParam<Placement> {
 protected:
  [[nodiscard]] static SequenceOptions Options(bool want_state = false) {
    return {
        .placement = GetParam(), .recent_tokens = 16, .max_step_tokens = kMaxStep, .label = "test", .want_state = want_state};
  }
  [[nodiscard]] Store OpenStore(Client& client) const {
    return client.OpenStore(SpecOf(model_.shape(), "int8", "int8", kBlock)).value();
  }
  Conversation Talk(Client& client, Sequence sequence) { return {client, std::move(sequence), model_, {}, kMaxStep}; }
  /// Feeds up to `length` tokens; puts a state at each length of `at` on the way.
  void Feed(Conversation& talk, std::size_t length, const std::vector<std::size_t>& at = {}) {
    while (talk.sequence().length() < length) {
      const std::size_t held = talk.sequence().length();
      const std::size_t step = std::min({std::size_t{32}, length - held, kBlock - held % kBlock});  // stops where blocks end
      talk.Feed(std::span(tokens_).subspan(held, step), step);
      if (std::ranges::find(at, talk.sequence().length()) == at.end()) continue;
      const auto put = talk.sequence().PutState(StateAt(talk.sequence().length()));
      ASSERT_TRUE(put) << put.error().message;
    }
  }
  [[nodiscard]] static Bytes StateAt(std::size_t length) {
    return RandomBytes(100'000 + length, static_cast<std::uint32_t>(length));
  }
  /// Checks that the newest state is the one put at `length`.
  static void ExpectState(Sequence& sequence, std::size_t length) {
    const auto found = sequence.FindState();
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->length, length);
    Bytes bytes(found->bytes);
    const auto copied = sequence.CopyState(bytes);
    ASSERT_TRUE(copied) << copied.error().message;
    EXPECT_TRUE(bytes == StateAt(length)) << length;
  }
  [[nodiscard]] std::uint64_t Figure(const char* name) const { return env_.Stats().Find(name).value(); }

  DaemonEnv env_;
  FakeModel model_{ModelShape{}};
  const std::vector<TokenId> tokens_ = RandomTokens(400, 21);
};

TEST_P(StateTest, WhoeverOpensThePrefixFindsIt) {
  Client first = env_.Connect();
  Store store = OpenStore(first);
  Conversation talk = Talk(first, store.Open({}, Options()).value());
  Feed(talk, 300, {64, 192});
  ExpectState(talk.sequence(), 192);
  EXPECT_EQ(Figure("states"), 2u);
  EXPECT_EQ(Figure("state_bytes"), 200'000u + 64 + 192);

  Client second = env_.Connect();
  Store other_store = OpenStore(second);
  Sequence plain = other_store.Open(tokens_, Options()).value();
  EXPECT_EQ(plain.prefix_hit_tokens(), 256u);
  ExpectState(plain, 192);
  Sequence with_state = other_store.Open(tokens_, Options(true)).value();
  EXPECT_EQ(with_state.prefix_hit_tokens(), 192u);
  EXPECT_EQ(with_state.length(), 192u);
  ExpectState(with_state, 192);
  Sequence shorter = other_store.Open(std::span(tokens_).first(191), Options(true)).value();
  EXPECT_EQ(shorter.length(), 64u);
  ExpectState(shorter, 64);
  auto others = RandomTokens(200, 5);
  EXPECT_EQ(other_store.Open(others, Options(true)).value().length(), 0u);
}

TEST_P(StateTest, ForksAndTrimsSeeThoseUpToTheirLength) {
  Client client = env_.Connect();
  Store store = OpenStore(client);
  Conversation talk = Talk(client, store.Open({}, Options()).value());
  Feed(talk, 128, {64, 128});
  // Nothing behind block 0 is sealed yet.
  ExpectState(talk.sequence(), 128);
  {
    Sequence fork = talk.sequence().Fork(128).value();
    ExpectState(fork, 128);
    Sequence shorter = talk.sequence().Fork(127).value();
    ExpectState(shorter, 64);
    EXPECT_EQ(Figure("states"), 2u) << "forks share them";
  }
  ASSERT_TRUE(talk.sequence().Trim(127));
  ExpectState(talk.sequence(), 64);
  EXPECT_EQ(Figure("states"), 1u);
  talk.tokens().resize(127);
  Feed(talk, 300, {192});
  ExpectState(talk.sequence(), 192);
  Sequence fork = talk.sequence().Fork(200).value();  // inside a block that is sealed
  ExpectState(fork, 192);
  ASSERT_TRUE(fork.Trim(63));
  EXPECT_EQ(fork.FindState().error().code, ErrorCode::kNotFound);
  ExpectState(talk.sequence(), 192);
}

TEST_P(StateTest, TheSameTokensHaveOneState) {
  Client client = env_.Connect();
  Store store = OpenStore(client);
  {
    Conversation one = Talk(client, store.Open({}, Options()).value());
    Conversation two = Talk(client, store.Open({}, Options()).value());
    Feed(one, 64, {64});
    Feed(two, 64);
    ASSERT_TRUE(two.sequence().PutState(RandomBytes(5000, 1))) << "nothing is sealed yet: each has its own";
    EXPECT_EQ(Figure("states"), 2u);
    Feed(one, 200);
    Feed(two, 200);
    EXPECT_EQ(Figure("states"), 1u) << "the block is one";
    ExpectState(two.sequence(), 64);
    Feed(two, 256, {256});
    ASSERT_TRUE(two.sequence().PutState(RandomBytes(10, 2)));
    ExpectState(two.sequence(), 256);
  }
  Sequence sequence = store.Open(tokens_, Options()).value();
  EXPECT_LT(sequence.length(), 256u);
  EXPECT_EQ(Figure("states"), 1u) << "the other's block was never sealed";
  // At the end of a sealed prefix, too.
  const std::size_t length = sequence.length();
  ASSERT_TRUE(sequence.PutState(StateAt(length)));
  ExpectState(sequence, length);
  EXPECT_EQ(store.Open(tokens_, Options(true)).value().length(), length);
}

TEST_P(StateTest, ItIsChargedAndEndsWithItsBlock) {
  Client client = env_.Connect();
  Store store = OpenStore(client);
  const std::uint64_t before = Figure("slab_bytes");
  {
    Conversation talk = Talk(client, store.Open({}, Options()).value());
    Feed(talk, 64);
    ASSERT_TRUE(talk.sequence().PutState(RandomBytes(10 << 20, 1)));
    EXPECT_GE(Figure("slab_bytes"), before + (10 << 20));
    Feed(talk, 100);
  }
  EXPECT_EQ(Figure("states"), 1u);
  EXPECT_EQ(Figure("blocks"), 1u);
  auto admin = Admin::Connect(env_.socket()).value();
  const auto evicted = admin.Evict({});
  ASSERT_TRUE(evicted);
  EXPECT_GE(evicted->bytes, std::uint64_t{10 << 20});
  EXPECT_EQ(Figure("states"), 0u);
  EXPECT_EQ(Figure("state_bytes"), 0u);
  EXPECT_LE(Figure("slab_bytes"), before);
}

TEST_P(StateTest, AFullStoreSaysSoAndTheSequenceGoesOn) {
  DaemonOptions options;
  options.budget_bytes = std::size_t{4} << 20;
  DaemonEnv env(options);
  Client client = env.Connect();
  Store store = OpenStore(client);
  Conversation talk = Talk(client, store.Open({}, Options()).value());
  Feed(talk, 64);
  const auto refused = talk.sequence().PutState(RandomBytes(8 << 20, 1));
  EXPECT_EQ(refused.error().code, ErrorCode::kStoreFull);
  EXPECT_EQ(talk.sequence().FindState().error().code, ErrorCode::kNotFound);
  ASSERT_TRUE(talk.sequence().PutState(StateAt(64)));
  Feed(talk, 200);
  ExpectState(talk.sequence(), 64);
}

TEST_P(StateTest, WhatMustNotBeIsNamed) {
  Client client = env_.Connect();
  Store store = OpenStore(client);
  Conversation talk = Talk(client, store.Open({}, Options()).value());
  Sequence& sequence = talk.sequence();
  const auto says = [](const auto& refused, ErrorCode code, const char* what) {
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, code);
    EXPECT_THAT(refused.error().message, HasSubstr(what));
  };
  const Bytes state = RandomBytes(100, 1);
  says(sequence.FindState(), ErrorCode::kNotFound, "holds no state");
  says(sequence.PutState(state), ErrorCode::kInvalidArgument, "it has 0 tokens; a state stands at the end of a block of 64");
  Feed(talk, 60);
  says(sequence.PutState(state), ErrorCode::kInvalidArgument, "it has 60 tokens");
  Feed(talk, 64);
  says(sequence.PutState({}), ErrorCode::kInvalidArgument, "0 bytes");
  says(sequence.PutState({state.data(), (std::size_t{256} << 20) + 1}), ErrorCode::kInvalidArgument, "268435457 bytes");
  ASSERT_TRUE(sequence.PutState(state));
  Bytes out(99);
  says(sequence.CopyState(out), ErrorCode::kInvalidArgument, "room for 99 bytes, the state has 100");
  auto reader = store.Read(sequence.id()).value();
  says(reader.PutState(state), ErrorCode::kUnsupported, "reading only");
  ASSERT_TRUE(talk.AttendOnly(std::span(tokens_).subspan(64, 10), WriteMode::kInPlace, {}));
  ASSERT_TRUE(sequence.AdvanceUnnamed(10));
  says(sequence.PutState(state), ErrorCode::kInvalidArgument, "10 tokens have no ids");
}

TEST_P(StateTest, InTheArenaItIsCopiedOnce) {
  Client client = env_.Connect();
  Store store = OpenStore(client);
  Conversation talk = Talk(client, store.Open({}, Options()).value());
  Feed(talk, 64);
  Tensor tensor = client.Allocate(1, 1, 1000).value();
  std::fill_n(tensor.f32(), 1000, 0.5f);
  const std::uint64_t before = client.counters().bytes_copied;
  ASSERT_TRUE(talk.sequence().PutState(std::as_bytes(std::span(tensor.f32(), 1000))));
  EXPECT_EQ(client.counters().bytes_copied - before, 4000u);
  std::vector<float> out(1000);
  ASSERT_TRUE(talk.sequence().CopyState(std::as_writable_bytes(std::span(out))));
  EXPECT_EQ(out, std::vector<float>(1000, 0.5f));
}

TEST_P(StateTest, ADamagedOneIsNotHandedOut) {
  Client client = env_.Connect();
  Store store = OpenStore(client);
  Conversation talk = Talk(client, store.Open({}, Options()).value());
  Feed(talk, 64, {64});
  ExpectState(talk.sequence(), 64);
  Bytes bytes = StateAt(64);
  ASSERT_GE(Damage(bytes), 1);
  const auto copied = talk.sequence().CopyState(bytes);
  ASSERT_FALSE(copied);
  EXPECT_EQ(copied.error().code, ErrorCode::kCorrupt) << copied.error().message;
  EXPECT_TRUE(bytes == StateAt(64)) << "the caller's memory is as it was";
}

INSTANTIATE_TEST_SUITE_P(Placements, StateTest, ::testing::Values(Placement::kService, Placement::kLocal),
                         [](const auto& param_info) { return param_info.param == Placement::kLocal ? "Local" : "Service"; });

}  // namespace
}  // namespace kvant::testing
