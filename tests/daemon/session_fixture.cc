#include "tests/daemon/session_fixture.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace kvant::daemon {

void Reference::Append() {
  std::vector<float> row(std::size_t{spec_.layers} * 2 * spec_.kv_heads * spec_.head_dim);
  std::normal_distribution<float> normal;
  for (float& x : row) x = normal(random_);
  rows_.push_back(std::move(row));
}

std::vector<double> Reference::Attend(const float* q, std::size_t q_head, std::size_t layer, std::size_t end, double scale,
                                      double* lse) const {
  const std::size_t head = q_head * spec_.kv_heads / kQHeads;
  std::vector<double> logits(end);
  for (std::size_t p = 0; p < end; ++p) {
    const float* key = Row(p, layer, 0, head);
    double dot = 0;
    for (std::size_t i = 0; i < spec_.head_dim; ++i) dot += double{q[i]} * key[i];
    logits[p] = scale * dot;
  }
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  std::vector<double> out(spec_.head_dim);
  for (std::size_t p = 0; p < end; ++p) {
    const double weight = std::exp(logits[p] - max);
    sum += weight;
    for (std::size_t i = 0; i < spec_.head_dim; ++i) out[i] += weight * Row(p, layer, 1, head)[i];
  }
  for (double& x : out) x /= sum;
  *lse = max + std::log(sum);
  return out;
}

void SessionRpcTest::SetUp() {
  client_.Hello();
  arena_ = client_.MakeArena(kArenaBytes);
  store_ = client_.OpenStore(tail_.spec);
}

std::uint64_t SessionRpcTest::Advance(std::uint64_t sequence, const Reference& reference, std::size_t from,
                                      const RpcTail& tail) {
  WriteRows(reference, from, tail);
  std::vector<std::uint32_t> tokens;
  for (std::size_t p = from; p < reference.size(); ++p) tokens.push_back(Token(p));
  auto request = AdvanceRequest(client_, sequence, tokens);
  auto response = client_.Wait(request.send());
  const auto outcome = response.getOutcomes()[0];
  EXPECT_TRUE(outcome.getStatus().isOk()) << outcome.getStatus().getError().getMessage().cStr();
  switched_ = outcome.getSwitchedBlocks();
  return outcome.getLength();
}

std::vector<std::uint32_t> SessionRpcTest::Tokens(std::size_t n) {
  std::vector<std::uint32_t> tokens(n);
  for (std::size_t p = 0; p < n; ++p) tokens[p] = Token(p);
  return tokens;
}

void SessionRpcTest::WriteRows(const Reference& reference, std::size_t from, const RpcTail& tail) {
  const StoreSpec& spec = tail.spec;
  for (std::size_t p = from; p < reference.size(); ++p) {
    for (std::size_t ring = 0; ring < std::size_t{spec.layers} * 2 * spec.kv_heads; ++ring) {
      float* to = client_.floats(tail.offset) + (ring * tail.capacity + p % tail.capacity) * spec.head_dim;
      std::memcpy(to, reference.Row(p, 0, 0, 0) + ring * spec.head_dim, spec.head_dim * sizeof(float));
    }
  }
}

void SessionRpcTest::Feed(std::uint64_t sequence, Reference& reference, std::size_t until, const RpcTail& tail) {
  while (reference.size() < until) {
    reference.Append();
    ASSERT_EQ(Advance(sequence, reference, reference.size() - 1, tail), reference.size());
  }
}

void SessionRpcTest::FillAttend(wire::AttendItem::Builder item, std::uint64_t sequence, std::uint32_t layer,
                                std::uint32_t tokens, std::uint32_t new_tokens) {
  item.setSequence(sequence);
  item.setLayer(layer);
  item.setNewTokens(new_tokens);
  FillTensor(item.initQ(), arena_, kQ, tokens, kQHeads, tail_.spec.head_dim);
  FillTensor(item.initOut(), arena_, kOut, tokens, kQHeads, tail_.spec.head_dim);
  auto lse = item.initLse();
  lse.setArena(arena_);
  lse.setOffset(kLse);
  lse.setBytes(std::uint64_t{tokens} * kQHeads * 4);
  item.setScale(0.25f);
}

SessionRpcTest::AttendRequest SessionRpcTest::GoodAttend(std::uint64_t sequence) {
  auto request = client_.session().attendRequest();
  FillAttend(request.initItems(1)[0], sequence, 0, 1, 0);
  return request;
}

void SessionRpcTest::ExpectAttention(std::uint64_t sequence, const Reference& reference, std::size_t length,
                                     std::uint32_t tokens, std::uint32_t new_tokens) {
  std::mt19937_64 random(length * 31 + tokens);
  std::normal_distribution<float> normal;
  const std::size_t dim = tail_.spec.head_dim;
  for (std::size_t i = 0; i < tokens * kQHeads * dim; ++i) client_.floats(kQ)[i] = normal(random);
  for (std::uint32_t layer = 0; layer < tail_.spec.layers; ++layer) {
    auto request = client_.session().attendRequest();
    FillAttend(request.initItems(1)[0], sequence, layer, tokens, new_tokens);
    std::fill_n(client_.floats(kOut), tokens * kQHeads * dim, -1e9f);
    auto ok = Attend(request);
    ASSERT_TRUE(ok) << ok.error().message;
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t h = 0; h < kQHeads; ++h) {
        const std::size_t row = t * kQHeads + h;
        double lse = 0;
        const std::size_t end = new_tokens == 0 ? length : length + t + 1;
        const auto expected = reference.Attend(client_.floats(kQ) + row * dim, h, layer, end, 0.25, &lse);
        // Sums of a few hundred f32 products with |logit| < 30: relative error below 1e-5.
        EXPECT_NEAR(client_.floats(kLse)[row], lse, 1e-4);
        for (std::size_t i = 0; i < dim; ++i)
          ASSERT_NEAR(client_.floats(kOut)[row * dim + i], expected[i], 1e-4) << "layer " << layer;
      }
    }
  }
}

Error SessionRpcTest::RefusedStore(const StoreSpec& spec) {
  auto request = client_.session().openStoreRequest();
  wire::WriteStoreSpec(spec, request.initSpec());
  auto response = client_.Wait(request.send());
  if (response.isOk()) return {ErrorCode::kInternal, "accepted"};
  return wire::ReadError(response.getError());
}

}  // namespace kvant::daemon
