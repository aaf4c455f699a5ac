// Rows read back through the client library, bit for bit what the codecs make of the rows that were written.
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/client.h>

#include "quantizers/plan.h"
#include "quantizers/registry.h"
#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"
#include "tools/codec_calls.h"

namespace kvant::testing {
namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t kMaxStep = 64;
constexpr std::uint32_t kBlock = 64;
constexpr std::uint32_t kSinks = 4;
constexpr std::uint32_t kRecent = 16;
/// Block k is read as codes from (k + 1) * 64 + 16 recent + 16 slack tokens on: 4 of them at 300.
constexpr std::size_t kTokens = 300;
constexpr std::size_t kSwitched = 256;

/// Rows [tokens, kv_heads, head_dim] of one side of a layer.
using Rows = std::vector<float>;

class CopyRowsTest : public ::testing::TestWithParam<Placement> {
 protected:
  [[nodiscard]] static SequenceOptions Options(ElementType tail) {
    return {.placement = GetParam(), .recent_tokens = kRecent, .max_step_tokens = kMaxStep, .tail_type = tail, .label = "test"};
  }
  [[nodiscard]] StoreSpec Spec(const std::string& keys, const std::string& values) const {
    return SpecOf(model_.shape(), keys, values, kBlock, kSinks);
  }
  Conversation Talk(Client& client, const StoreSpec& spec, ElementType tail = ElementType::kF16) {
    Store store = client.OpenStore(spec).value();
    Conversation talk(client, store.Open({}, Options(tail)).value(), model_, {}, kMaxStep);
    talk.Feed(tokens_, 50);
    return talk;
  }

  /// What a codec makes of the model's rows of a block, by the codec alone; sinks and the tail are the model's rows.
  [[nodiscard]] Rows Expected(const StoreSpec& spec, std::size_t layer, Side side) const {
    const ModelShape& shape = model_.shape();
    const std::size_t dim = shape.head_dim;
    auto plan = quantizers::Plan::Make(quantizers::Registry::Builtin(), spec).value();
    Rows rows(kTokens * shape.kv_heads * dim);
    for (std::size_t head = 0; head < shape.kv_heads; ++head) {
      std::vector<float> written;
      for (std::size_t p = 0; p < kTokens; ++p) {
        const std::vector<float> row = model_.Row(tokens_, p, side, layer, head);
        written.insert(written.end(), row.begin(), row.end());
      }
      const quantizers::BlockCodec& codec =
          plan->codec(layer, head, side == Side::kKey ? quantizers::Side::kKeys : quantizers::Side::kValues);
      for (std::size_t first = 0; first < kSwitched; first += kBlock) {
        tools::AlignedBytes bytes(tools::AdjacentBytes(codec));
        const RowsView view{written.data() + first * dim, ElementType::kF32, kBlock, dim, dim};
        EXPECT_TRUE(tools::EncodeBlock(codec, head, first, view, tools::AdjacentParts(codec, bytes.data())));
        const std::byte* const encoded = bytes.data();
        const std::size_t begin = first == 0 ? kSinks : 0;
        tools::DecodeBlock(codec, head, first, tools::AdjacentParts(codec, encoded), begin, kBlock,
                           written.data() + (first + begin) * dim, dim);
      }
      for (std::size_t p = 0; p < kTokens; ++p) {
        std::copy_n(written.begin() + static_cast<std::ptrdiff_t>(p * dim), dim,
                    rows.begin() + static_cast<std::ptrdiff_t>((p * shape.kv_heads + head) * dim));
      }
    }
    return rows;
  }

  [[nodiscard]] TensorView View(Rows& rows, std::size_t count) const {
    const ModelShape& shape = model_.shape();
    rows.assign(count * shape.kv_heads * shape.head_dim, NAN);
    return {rows.data(),    ElementType::kF32, count,
            shape.kv_heads, shape.head_dim,    std::size_t{shape.kv_heads} * shape.head_dim,
            shape.head_dim};
  }

  DaemonEnv env_;
  FakeModel model_{ModelShape{}};
  const std::vector<TokenId> tokens_ = RandomTokens(kTokens, 7);
};

TEST_P(CopyRowsTest, GivesWhatTheCodecsDecodeTo) {
  Client client = env_.Connect();
  for (const auto& [keys, values] : {std::pair{"turboquant_mse:bits=4", "turboquant_mse:bits=2"}, {"int8", "f16"}}) {
    const StoreSpec spec = Spec(keys, values);
    Conversation talk = Talk(client, spec);
    for (std::size_t layer = 0; layer < model_.shape().layers; ++layer) {
      Rows k, v;
      const TensorView k_view = View(k, kTokens), v_view = View(v, kTokens);
      const auto copied = talk.sequence().CopyRows(layer, 0, kTokens, k_view, v_view);
      ASSERT_TRUE(copied) << copied.error().message;
      EXPECT_EQ(k, Expected(spec, layer, Side::kKey)) << keys << ", layer " << layer;
      EXPECT_EQ(v, Expected(spec, layer, Side::kValue)) << values << ", layer " << layer;
    }
  }
}

TEST_P(CopyRowsTest, AnyPositionsTypesStridesAndSides) {
  Client client = env_.Connect();
  const StoreSpec spec = Spec("turboquant_mse:bits=4", "int8");
  Conversation talk = Talk(client, spec);
  const ModelShape& shape = model_.shape();
  const Rows expected[2] = {Expected(spec, 1, Side::kKey), Expected(spec, 1, Side::kValue)};
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    const std::size_t first = random() % kTokens;
    const std::size_t count = 1 + random() % (kTokens - first);
    const ElementType types[2] = {static_cast<ElementType>(random() % 3), static_cast<ElementType>(random() % 3)};
    const bool heads_first = random() % 2 == 0;
    const std::size_t wanted = 1 + random() % 3;  // keys, values, both
    const std::size_t padded = shape.head_dim + random() % 5;
    const std::size_t token_stride = heads_first ? padded : shape.kv_heads * padded;
    const std::size_t head_stride = heads_first ? count * padded : padded;
    std::vector<std::uint32_t> memory[2];  // any alignment that an element needs
    std::vector<std::uint32_t> reference[2];
    TensorView views[2];
    for (std::size_t side = 0; side < 2; ++side) {
      memory[side].assign(count * shape.kv_heads * padded, 0x5B5B5B5Bu);
      reference[side] = memory[side];
      if ((wanted >> side & 1) == 0) continue;
      views[side] = {memory[side].data(), types[side], count, shape.kv_heads, shape.head_dim, token_stride, head_stride};
      for (std::size_t t = 0; t < count; ++t) {
        for (std::size_t h = 0; h < shape.kv_heads; ++h) {
          for (std::size_t d = 0; d < shape.head_dim; ++d) {
            StoreElement(reference[side].data(), types[side], t * token_stride + h * head_stride + d,
                         expected[side][((first + t) * shape.kv_heads + h) * shape.head_dim + d]);
          }
        }
      }
    }
    const auto copied = talk.sequence().CopyRows(1, first, count, views[0], views[1]);
    ASSERT_TRUE(copied) << copied.error().message;
    ASSERT_EQ(memory[0], reference[0]) << "keys, round " << round << ": " << count << " rows from " << first;
    ASSERT_EQ(memory[1], reference[1]) << "values, round " << round << ": " << count << " rows from " << first;
  }
}

// More rows than the client asks the daemon for at a time (a million numbers of a side).
TEST_P(CopyRowsTest, ManyRowsComeInPieces) {
  Client client = env_.Connect();
  const FakeModel wide{ModelShape{.layers = 1, .kv_heads = 32, .q_heads = 32, .head_dim = 128}};
  Store store = client.OpenStore(SpecOf(wide.shape(), "f16", "f16", kBlock, kSinks)).value();
  Conversation talk(client, store.Open({}, Options(ElementType::kF16)).value(), wide, {}, kMaxStep);
  talk.Feed(tokens_, 60);
  Rows rows(kTokens * 32 * 128, NAN), expected;
  ASSERT_TRUE(talk.sequence().CopyRows(0, 0, kTokens, {}, {rows.data(), ElementType::kF32, kTokens, 32, 128, 32 * 128, 128}));
  for (std::size_t p = 0; p < kTokens; ++p) {
    for (std::size_t h = 0; h < 32; ++h) {
      const std::vector<float> row = wide.Row(tokens_, p, Side::kValue, 0, h);
      expected.insert(expected.end(), row.begin(), row.end());
    }
  }
  EXPECT_TRUE(rows == expected);
}

TEST_P(CopyRowsTest, RowsInTheArenaAreWrittenThereAndCopiesAreCounted) {
  Client client = env_.Connect();
  const StoreSpec spec = Spec("int8", "int8");
  Conversation talk = Talk(client, spec);
  const ModelShape& shape = model_.shape();
  Tensor keys = client.Allocate(kTokens, shape.kv_heads, shape.head_dim).value();
  const std::size_t bytes = kTokens * shape.kv_heads * shape.head_dim * sizeof(float);
  std::uint64_t copied = client.counters().bytes_copied;
  ASSERT_TRUE(talk.sequence().CopyRows(0, 0, kTokens, keys.view(), {}));
  EXPECT_EQ(Rows(keys.f32(), keys.f32() + bytes / sizeof(float)), Expected(spec, 0, Side::kKey));
  EXPECT_EQ(client.counters().bytes_copied - copied, bytes);
  copied = client.counters().bytes_copied;
  Rows outside;
  ASSERT_TRUE(talk.sequence().CopyRows(0, 0, kTokens, View(outside, kTokens), {}));
  // The daemon reaches the arena only: from there it is another copy.
  EXPECT_EQ(client.counters().bytes_copied - copied, GetParam() == Placement::kLocal ? bytes : 2 * bytes);
}

// What an engine reads back and hands over again reads back the same: int8's largest code stands for the same number again.
TEST_P(CopyRowsTest, RowsOfAnIdempotentCodecAreTheSameInAnotherStore) {
  Client client = env_.Connect();
  Conversation talk = Talk(client, Spec("int8", "int8"));
  StoreSpec other_spec = Spec("int8", "int8");
  other_spec.name = other_spec.salt = "other";
  Store other_store = client.OpenStore(other_spec).value();
  Sequence other = other_store.Open({}, Options(ElementType::kF32)).value();
  for (std::size_t first = 0; first < kTokens; first += kMaxStep) {
    const std::size_t count = std::min<std::size_t>(kMaxStep, kTokens - first);
    ASSERT_TRUE(other.Reserve(count));
    for (std::size_t layer = 0; layer < model_.shape().layers; ++layer) {
      Rows k, v;
      const TensorView k_view = View(k, count), v_view = View(v, count);
      ASSERT_TRUE(talk.sequence().CopyRows(layer, first, count, k_view, v_view));
      ASSERT_TRUE(other.Append(layer, AsConst(k_view), AsConst(v_view)));
    }
    ASSERT_TRUE(other.Advance(std::span(tokens_).subspan(first, count)));
  }
  for (std::size_t layer = 0; layer < model_.shape().layers; ++layer) {
    Rows k[2], v[2];
    for (std::size_t i = 0; i < 2; ++i) {
      Sequence& sequence = i == 0 ? talk.sequence() : other;
      ASSERT_TRUE(sequence.CopyRows(layer, 0, kTokens, View(k[i], kTokens), View(v[i], kTokens)));
    }
    EXPECT_EQ(k[0], k[1]);
    EXPECT_EQ(v[0], v[1]);
  }
}

TEST_P(CopyRowsTest, ForksTrimsAndReservedRows) {
  Client client = env_.Connect();
  const StoreSpec spec = Spec("int8", "int8");
  // Inside a sealed block a fork's rows are decoded into its tail: as f32 they stay what they are.
  Conversation talk = Talk(client, spec, ElementType::kF32);
  Rows expected = Expected(spec, 1, Side::kValue);
  const std::size_t row = expected.size() / kTokens;
  for (const std::size_t length : {std::size_t{290}, std::size_t{150}}) {
    Sequence fork = talk.sequence().Fork(length).value();
    ASSERT_TRUE(fork.Reserve(3));
    Rows v;
    ASSERT_TRUE(fork.CopyRows(1, 0, length, {}, View(v, length)));
    EXPECT_EQ(v, Rows(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(length * row)));
    EXPECT_EQ(fork.CopyRows(1, 0, length + 1, {}, View(v, length + 1)).error().code, ErrorCode::kOutOfRange);
  }
}

TEST_P(CopyRowsTest, WhatIsAskedWronglyIsNamed) {
  Client client = env_.Connect();
  Conversation talk = Talk(client, Spec("f32", "f32"), ElementType::kF32);
  Sequence& sequence = talk.sequence();
  Rows rows;
  const TensorView good = View(rows, 10);
  const auto code = [&](std::size_t layer, std::uint64_t first, std::size_t count, const TensorView& keys, const char* says) {
    const auto refused = sequence.CopyRows(layer, first, count, keys, {});
    EXPECT_THAT(refused ? "done" : refused.error().message, HasSubstr(says));
    return refused ? ErrorCode::kInternal : refused.error().code;
  };
  EXPECT_EQ(code(2, 0, 10, good, "layer 2 of 2"), ErrorCode::kOutOfRange);
  EXPECT_EQ(code(0, 291, 10, good, "10 rows from position 291 on, the sequence has 300 tokens"), ErrorCode::kOutOfRange);
  EXPECT_EQ(code(0, UINT64_MAX, 10, good, "the sequence has 300"), ErrorCode::kOutOfRange);
  EXPECT_EQ(code(0, 0, 0, good, "0 rows"), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(0, 0, 10, {}, "neither keys nor values"), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(0, 0, 9, good, "keys are [10, 2, 64], the rows are [9, 2, 64]"), ErrorCode::kInvalidArgument);
  TensorView odd = good;
  odd.dim = 63;
  EXPECT_EQ(code(0, 0, 10, odd, "[10, 2, 63]"), ErrorCode::kInvalidArgument);
  odd = good;
  odd.data = reinterpret_cast<std::byte*>(rows.data()) + 1;
  EXPECT_EQ(code(0, 0, 10, odd, "not aligned"), ErrorCode::kInvalidArgument);
}

TEST_P(CopyRowsTest, NumbersBeyondTheTensorsTypeAreRefused) {
  Client client = env_.Connect();
  Store store = client.OpenStore(Spec("f32", "f32")).value();
  Sequence sequence = store.Open({}, Options(ElementType::kF32)).value();
  const ModelShape& shape = model_.shape();
  Rows rows;
  const TensorView view = View(rows, 5);
  std::fill(rows.begin(), rows.end(), 1.0f);
  rows[(3 * shape.kv_heads + 1) * shape.head_dim + 5] = 1e6f;
  ASSERT_TRUE(sequence.Reserve(5));
  for (std::size_t layer = 0; layer < shape.layers; ++layer) ASSERT_TRUE(sequence.Append(layer, AsConst(view), AsConst(view)));
  ASSERT_TRUE(sequence.Advance(RandomTokens(5, 1)));
  Rows half;
  TensorView out = View(half, 5);
  out.type = ElementType::kF16;
  const auto refused = sequence.CopyRows(1, 0, 5, {}, out);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNotFinite);
  EXPECT_THAT(refused.error().message, HasSubstr("the value row of layer 1, KV head 1, position 3 holds a number beyond f16"));
  out.type = ElementType::kBF16;
  EXPECT_TRUE(sequence.CopyRows(1, 0, 5, {}, out));
}

TEST_P(CopyRowsTest, AReaderSeesWhatItsOwnerHas) {
  Client owner = env_.Connect();
  const StoreSpec spec = Spec("turboquant_mse:bits=4", "int8");
  Conversation talk = Talk(owner, spec);
  if (GetParam() == Placement::kLocal) {
    static_cast<void>(talk.sequence().Fork().value());  // tells the daemon of the newest tokens
  }
  Client client = env_.Connect();
  Store store = client.OpenStore(spec).value();
  Sequence reader = store.Read(talk.sequence().id()).value();
  Rows k, v;
  const auto copied = reader.CopyRows(1, 0, kTokens, View(k, kTokens), View(v, kTokens));
  ASSERT_TRUE(copied) << copied.error().message;
  EXPECT_EQ(k, Expected(spec, 1, Side::kKey));
  EXPECT_EQ(v, Expected(spec, 1, Side::kValue));
  EXPECT_EQ(reader.CopyRows(1, 0, kTokens + 1, View(k, kTokens + 1), {}).error().code, ErrorCode::kOutOfRange);
  ASSERT_TRUE(talk.sequence().Trim(40));
  EXPECT_EQ(reader.CopyRows(1, 0, kTokens, View(k, kTokens), {}).error().code, ErrorCode::kOutOfRange);
  EXPECT_TRUE(reader.CopyRows(1, 0, 40, View(k, 40), {}));
}

INSTANTIATE_TEST_SUITE_P(Placements, CopyRowsTest, ::testing::Values(Placement::kService, Placement::kLocal),
                         [](const auto& param_info) { return param_info.param == Placement::kLocal ? "Local" : "Service"; });

}  // namespace
}  // namespace kvant::testing
