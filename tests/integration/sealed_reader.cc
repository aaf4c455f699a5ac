#include "tests/integration/sealed_reader.h"

#include <chrono>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "quantizers/sequence/schedule.h"

namespace kvant::testing {

bool WaitUntil(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(100);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

SealedReader::SealedReader(const std::string& uri)
    : client_(Client::Connect(uri, {.arena_bytes = std::size_t{16} << 20}).value()), store_(client_.OpenStore(spec_).value()) {}

void SealedReader::Reconnect() {
  const auto connected = client_.Reconnect();
  ASSERT_TRUE(connected) << connected.error().message;
  auto store = client_.OpenStore(spec_);
  ASSERT_TRUE(store) << store.error().message;
  store_ = *std::move(store);
}

std::vector<float> SealedReader::Rows(Sequence& sequence, std::uint64_t length) {
  const ModelShape shape;
  const std::size_t side = length * shape.kv_heads * shape.head_dim;
  std::vector<float> rows(shape.layers * 2 * side);
  if (length == 0) return rows;
  const auto view = [&](float* at) {
    return TensorView{.data = at,
                      .type = ElementType::kF32,
                      .tokens = length,
                      .heads = shape.kv_heads,
                      .dim = shape.head_dim,
                      .token_stride = std::size_t{shape.kv_heads} * shape.head_dim,
                      .head_stride = shape.head_dim};
  };
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    float* const keys = rows.data() + layer * 2 * side;
    sequence.CopyRows(layer, 0, length, view(keys), view(keys + side)).value();
  }
  return rows;
}

void SealedReader::Write(const std::vector<TokenId>& text) {
  const FakeModel model{ModelShape{}};
  {
    Conversation talk(client_, store_.Open({}, kOptions).value(), model, {}, 64);
    talk.Feed(text, 64);
  }
  // What is due when a sequence is closed is sealed soon after.
  const auto due = quantizers::ScheduledSeals(text.size(), spec_.block_tokens, kOptions.recent_tokens).due;
  EXPECT_TRUE(WaitUntil([&] { return Length(text) >= due * spec_.block_tokens; }));
}

std::uint64_t SealedReader::ExpectSameAs(SealedReader& reference, const std::vector<TokenId>& text) {
  Sequence sequence = Open(text);
  if (reference.Length(text) < sequence.length()) reference.Write(text);
  EXPECT_TRUE(WaitUntil([&] { return reference.Length(text) >= sequence.length(); }));  // what is closed is sealed soon
  Sequence same = reference.Open(text);
  EXPECT_EQ(Rows(sequence, sequence.length()), reference.Rows(same, sequence.length()));
  return sequence.length();
}

}  // namespace kvant::testing
