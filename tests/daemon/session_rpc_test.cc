// Stores, sequences and attention over the wire, against plain attention in double and against everything a message can get
// wrong.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "protocol/wire.h"
#include "tests/daemon/rpc_client.h"

namespace kvant::daemon {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::uint32_t kQHeads = 4;
constexpr std::uint64_t kArenaBytes = 1 << 20;
constexpr std::uint64_t kQ = 512 << 10;  // behind the tails
constexpr std::uint64_t kOut = 576 << 10;
constexpr std::uint64_t kLse = 640 << 10;

/// A sequence's rows as the test knows them, and attention over them.
class Reference {
 public:
  Reference(const StoreSpec& spec, std::uint64_t seed) : spec_(spec), random_(seed) {}

  void Append() {
    std::vector<float> row(std::size_t{spec_.layers} * 2 * spec_.kv_heads * spec_.head_dim);
    std::normal_distribution<float> normal;
    for (float& x : row) x = normal(random_);
    rows_.push_back(std::move(row));
  }
  [[nodiscard]] const float* Row(std::size_t position, std::size_t layer, std::size_t side, std::size_t head) const {
    return rows_[position].data() + ((layer * 2 + side) * spec_.kv_heads + head) * spec_.head_dim;
  }
  [[nodiscard]] std::size_t size() const { return rows_.size(); }
  void Resize(std::size_t n) { rows_.resize(n); }

  /// Attention of one query row over positions [0, end); the log-sum-exp in `lse`.
  std::vector<double> Attend(const float* q, std::size_t q_head, std::size_t layer, std::size_t end, double scale,
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

 private:
  StoreSpec spec_;
  std::mt19937_64 random_;
  std::vector<std::vector<float>> rows_;
};

class SessionRpcTest : public ::testing::Test {
 protected:
  void SetUp() override {
    client_.Hello();
    arena_ = client_.MakeArena(kArenaBytes);
    store_ = client_.OpenStore(tail_.spec);
  }

  /// Tokens and rows [from, reference.size()) into the tail, then advance by as many; the length after it.
  std::uint64_t Advance(std::uint64_t sequence, const Reference& reference, std::size_t from, const RpcTail& tail) {
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
  static std::uint32_t Token(std::size_t position) { return static_cast<std::uint32_t>(position * 7 + 1); }
  static std::vector<std::uint32_t> Tokens(std::size_t n) {
    std::vector<std::uint32_t> tokens(n);
    for (std::size_t p = 0; p < n; ++p) tokens[p] = Token(p);
    return tokens;
  }
  void WriteRows(const Reference& reference, std::size_t from, const RpcTail& tail) {
    const StoreSpec& spec = tail.spec;
    for (std::size_t p = from; p < reference.size(); ++p) {
      for (std::size_t ring = 0; ring < std::size_t{spec.layers} * 2 * spec.kv_heads; ++ring) {
        float* to = client_.floats(tail.offset) + (ring * tail.capacity + p % tail.capacity) * spec.head_dim;
        std::memcpy(to, reference.Row(p, 0, 0, 0) + ring * spec.head_dim, spec.head_dim * sizeof(float));
      }
    }
  }
  /// Advances token by token, as decoding does.
  void Feed(std::uint64_t sequence, Reference& reference, std::size_t until, const RpcTail& tail) {
    while (reference.size() < until) {
      reference.Append();
      ASSERT_EQ(Advance(sequence, reference, reference.size() - 1, tail), reference.size());
    }
  }

  using AttendRequest = capnp::Request<wire::Session::AttendParams, wire::Session::AttendResults>;
  void FillAttend(wire::AttendItem::Builder item, std::uint64_t sequence, std::uint32_t layer, std::uint32_t tokens,
                  std::uint32_t new_tokens) {
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
  AttendRequest GoodAttend(std::uint64_t sequence) {
    auto request = client_.session().attendRequest();
    FillAttend(request.initItems(1)[0], sequence, 0, 1, 0);
    return request;
  }
  Result<void> Attend(AttendRequest& request) { return wire::ReadStatus(client_.Wait(request.send()).getOutcomes()[0]); }

  /// Compares an attend of `tokens` queries in every layer with the reference: rows [length, length + new_tokens) are new.
  void ExpectAttention(std::uint64_t sequence, const Reference& reference, std::size_t length, std::uint32_t tokens,
                       std::uint32_t new_tokens) {
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

  Error RefusedStore(const StoreSpec& spec) {
    auto request = client_.session().openStoreRequest();
    wire::WriteStoreSpec(spec, request.initSpec());
    auto response = client_.Wait(request.send());
    if (response.isOk()) return {ErrorCode::kInternal, "accepted"};
    return wire::ReadError(response.getError());
  }

  std::unique_ptr<Daemon> daemon_ = Daemon::Start(RpcOptions()).value();
  std::unique_ptr<kj::AsyncIoContext> io_ = MakeLoop();
  RpcClient client_{*io_, daemon_->Connect().value()};
  RpcTail tail_;
  std::uint32_t arena_ = 0;
  std::uint32_t store_ = 0;
  std::uint32_t switched_ = 0;
};

TEST_F(SessionRpcTest, AttentionEqualsPlainAttentionWhileBlocksSeal) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 1);
  for (const std::size_t length : {1u, 5u, 16u, 27u, 28u, 40u, 70u, 100u}) {
    Feed(id, reference, length, tail_);
    ExpectAttention(id, reference, length, 1, 0);
  }
  // Block k switches at 16 (k + 1) + 8 recent + 4 slack tokens.
  EXPECT_EQ(switched_, (100u - 12) / 16);
}

TEST_F(SessionRpcTest, NewRowsAreSeenCausally) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 2);
  Feed(id, reference, 50, tail_);
  for (int i = 0; i < 7; ++i) reference.Append();
  WriteRows(reference, 50, tail_);
  ExpectAttention(id, reference, 50, 7, 7);
  ExpectAttention(id, reference, 50, 3, 7);
}

TEST_F(SessionRpcTest, ASecondSequenceFindsThePrefix) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 4);
  Feed(id, reference, 60, tail_);
  RpcTail second = tail_;
  second.offset += tail_.bytes();
  const auto state = client_.OpenSequence(store_, arena_, second, Tokens(60));
  EXPECT_EQ(state.getPrefixHitTokens(), 48u);
  EXPECT_EQ(state.getLength(), 48u);
  Reference prefix = reference;
  prefix.Resize(48);
  ExpectAttention(state.getSequence(), prefix, 48, 1, 0);
}

TEST_F(SessionRpcTest, ForksAndReadersSeeTheSource) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 5);
  Feed(id, reference, 60, tail_);

  RpcClient other(*io_, daemon_->Connect().value());
  other.Hello();
  const std::uint32_t other_arena = other.MakeArena(kArenaBytes);
  const std::uint32_t other_store = other.OpenStore(tail_.spec);
  auto fork = other.session().forkRequest();
  fork.setStore(other_store);
  fork.setSource(id);
  fork.setLength(41);  // inside a sealed block
  FillOptions(fork.initOptions(), other_arena, tail_);
  auto forked = other.Wait(fork.send());
  ASSERT_TRUE(forked.isOk()) << forked.getError().getMessage().cStr();
  EXPECT_EQ(forked.getOk().getLength(), 41u);

  auto read = other.session().readRequest();
  read.setStore(other_store);
  read.setSource(id);
  auto reader = other.Wait(read.send());
  ASSERT_TRUE(reader.isOk());
  EXPECT_EQ(reader.getOk().getLength(), 60u);
  EXPECT_NE(reader.getOk().getSequence(), id);

  // Advances of the source are seen by the reader, not by the fork.
  Feed(id, reference, 66, tail_);
  const auto attend = [&](std::uint64_t sequence) {
    std::fill_n(other.floats(kQ), kQHeads * 16, 0.5f);
    auto request = other.session().attendRequest();
    auto item = request.initItems(1)[0];
    item.setSequence(sequence);
    FillTensor(item.initQ(), other_arena, kQ, 1, kQHeads, 16);
    FillTensor(item.initOut(), other_arena, kOut, 1, kQHeads, 16);
    item.setScale(0.25f);
    auto status = wire::ReadStatus(other.Wait(request.send()).getOutcomes()[0]);
    EXPECT_TRUE(status) << status.error().message;
  };
  const std::vector<float> query(16, 0.5f);
  for (const auto& [sequence, length] : {std::pair{forked.getOk().getSequence(), 41u}, {reader.getOk().getSequence(), 66u}}) {
    attend(sequence);
    double lse = 0;
    const auto expected = reference.Attend(query.data(), 0, 0, length, 0.25, &lse);
    for (std::size_t i = 0; i < 16; ++i) EXPECT_NEAR(other.floats(kOut)[i], expected[i], 1e-4) << "length " << length;
  }

  // A reader cannot change anything, and its own end and the source's are told.
  const std::vector<std::uint32_t> one{1};
  auto advance = AdvanceRequest(other, reader.getOk().getSequence(), one);
  EXPECT_EQ(wire::ReadStatus(other.Wait(advance.send()).getOutcomes()[0].getStatus()).error().code, ErrorCode::kUnsupported);
  auto close = client_.session().closeRequest();
  close.setSequence(id);
  EXPECT_TRUE(client_.Wait(close.send()).isOk());
  auto gone = other.session().attendRequest();
  auto item = gone.initItems(1)[0];
  item.setSequence(reader.getOk().getSequence());
  FillTensor(item.initQ(), other_arena, kQ, 1, kQHeads, 16);
  FillTensor(item.initOut(), other_arena, kOut, 1, kQHeads, 16);
  item.setScale(0.25f);
  EXPECT_EQ(wire::ReadStatus(other.Wait(gone.send()).getOutcomes()[0]).error().code, ErrorCode::kNotFound);
}

TEST_F(SessionRpcTest, SequencesOfAnotherStoreAreNotFoundThere) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  StoreSpec other_spec = RpcSpec("other");
  other_spec.salt = "another tenant's";
  const std::uint32_t other = client_.OpenStore(other_spec);
  RpcTail second = tail_;
  second.offset += tail_.bytes();
  auto fork = client_.session().forkRequest();
  fork.setStore(other);
  fork.setSource(id);
  fork.setLength(wire::kWholeLength);
  FillOptions(fork.initOptions(), arena_, second);
  EXPECT_EQ(wire::ReadError(client_.Wait(fork.send()).getError()).code, ErrorCode::kNotFound);
  fork = client_.session().forkRequest();
  fork.setStore(store_);
  fork.setSource(id);
  fork.setLength(wire::kWholeLength);
  FillOptions(fork.initOptions(), arena_, second);
  EXPECT_TRUE(client_.Wait(fork.send()).isOk());
  auto read = client_.session().readRequest();
  read.setStore(other);
  read.setSource(id);
  EXPECT_EQ(wire::ReadError(client_.Wait(read.send()).getError()).code, ErrorCode::kNotFound);
}

// Codes differ from raw rows here, so a call that overtook an encoding would show in the numbers.
TEST_F(SessionRpcTest, CallsThatAreNotWaitedForGiveTheSameBits) {
  constexpr std::uint32_t kTokens = 100;
  std::vector<float> outputs[2];
  for (const bool wait : {true, false}) {
    RpcTail tail;
    tail.capacity = 128;
    tail.spec = RpcSpec(wait ? "waited" : "pipelined");  // two stores: nothing is found already sealed
    tail.spec.plan.keys = "int8";
    tail.spec.plan.values = "int8";
    const std::uint64_t id = client_.OpenSequence(client_.OpenStore(tail.spec), arena_, tail).getSequence();
    Reference reference(tail.spec, 12);
    for (std::uint32_t p = 0; p < kTokens; ++p) reference.Append();
    WriteRows(reference, 0, tail);
    std::fill_n(client_.floats(kQ), kQHeads * 16, 0.75f);
    std::vector<kj::Promise<void>> answers;
    const auto send = [&](auto&& request) {
      auto answer = request.send().ignoreResult();
      if (wait) {
        answer.wait(client_.wait_scope());
      } else {
        answers.push_back(kj::mv(answer));
      }
    };
    for (std::uint32_t p = 0; p < kTokens; ++p) {
      const std::vector<std::uint32_t> token{Token(p)};
      send(AdvanceRequest(client_, id, token));
      auto attend = client_.session().attendRequest();
      FillAttend(attend.initItems(1)[0], id, 1, 1, 0);
      attend.getItems()[0].getOut().setOffset(kOut + std::uint64_t{p} * kQHeads * 16 * 4);
      send(attend);
    }
    for (auto& answer : answers) answer.wait(client_.wait_scope());
    outputs[wait ? 0 : 1].assign(client_.floats(kOut), client_.floats(kOut) + kTokens * kQHeads * 16);
    std::fill_n(client_.floats(kOut), kTokens * kQHeads * 16, 0.0f);
    auto close = client_.session().closeRequest();
    close.setSequence(id);
    client_.Wait(close.send());
  }
  EXPECT_EQ(std::memcmp(outputs[0].data(), outputs[1].data(), outputs[0].size() * sizeof(float)), 0);
  EXPECT_NE(outputs[0][0], 0.0f);
}

TEST_F(SessionRpcTest, TrimMarkAndRewind) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 6);
  Feed(id, reference, 60, tail_);
  auto mark = client_.session().markRequest();
  mark.setSequence(id);
  auto marked = client_.Wait(mark.send());
  ASSERT_TRUE(marked.isOk());
  EXPECT_EQ(marked.getOk().getLength(), 60u);
  Reference speculative = reference;
  Feed(id, speculative, 64, tail_);
  auto rewind = client_.session().rewindRequest();
  rewind.setSequence(id);
  rewind.initMark().setLength(60);
  auto rewound = client_.Wait(rewind.send());
  ASSERT_TRUE(rewound.isOk()) << rewound.getError().getMessage().cStr();
  EXPECT_EQ(rewound.getOk().getLength(), 60u);
  ExpectAttention(id, reference, 60, 1, 0);
  auto release = client_.session().releaseRequest();
  release.setSequence(id);
  release.initMark().setLength(60);
  auto released = client_.Wait(release.send());
  EXPECT_TRUE(released.getStatus().isOk());
  EXPECT_EQ(released.getLength(), 60u);
  auto again = client_.session().releaseRequest();
  again.setSequence(id);
  again.initMark().setLength(60);
  EXPECT_EQ(wire::ReadStatus(client_.Wait(again.send()).getStatus()).error().code, ErrorCode::kNotFound);

  auto trim = client_.session().trimRequest();
  trim.setSequence(id);
  trim.setLength(21);
  auto trimmed = client_.Wait(trim.send());
  ASSERT_TRUE(trimmed.isOk());
  EXPECT_EQ(trimmed.getOk().getSwitchedBlocks(), 1u);
  reference.Resize(21);
  ExpectAttention(id, reference, 21, 1, 0);
  auto beyond = client_.session().trimRequest();
  beyond.setSequence(id);
  beyond.setLength(22);
  EXPECT_EQ(wire::ReadError(client_.Wait(beyond.send()).getError()).code, ErrorCode::kOutOfRange);
}

TEST_F(SessionRpcTest, LocalPlacementIsToldItsBlocksOnce) {
  const auto state = client_.OpenSequence(store_, arena_, tail_, {}, wire::Placement::LOCAL);
  const std::uint64_t id = state.getSequence();
  std::vector<std::uint32_t> positions;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> slots;  // and their generations
  for (std::uint32_t p = 0; p < 80; ++p) {
    auto request = client_.session().advanceRequest();
    auto item = request.initItems(1)[0];
    item.setSequence(id);
    item.initTokens(1).set(0, Token(p));
    item.setWaitSealed(true);
    const auto response = client_.Wait(request.send());
    const auto outcome = response.getOutcomes()[0];
    ASSERT_TRUE(outcome.getStatus().isOk());
    const auto table = outcome.getTable();
    for (unsigned i = 0; i < table.getBlocks().size(); ++i) {
      positions.push_back(table.getFirst() + i);
      slots.emplace_back(table.getBlocks()[i].getSlot(), table.getBlocks()[i].getGeneration());
      EXPECT_EQ(p + 1, 16 * (table.getFirst() + i + 1) + 8);  // told when it falls due
    }
    EXPECT_EQ(table.hasSinks(), table.getBlocks().size() > 0 && table.getFirst() == 0);
  }
  EXPECT_EQ(positions, (std::vector<std::uint32_t>{0, 1, 2, 3}));

  // The slots that were named hold those blocks, in descriptors that cannot be mapped writable.
  auto slabs = client_.session().slabsRequest();
  slabs.setStore(store_);
  const auto listed = client_.Wait(slabs.send());
  ASSERT_TRUE(listed.isOk());
  ASSERT_EQ(listed.getOk().size(), 2u);  // of codes, and of sinks
  auto segment = listed.getOk()[0].getSegment();
  const auto fd = segment.getFd().wait(client_.wait_scope());
  ASSERT_TRUE(fd != nullptr);
  KJ_IF_MAYBE (number, fd) {
    EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, *number, 0), MAP_FAILED);
    auto mapped = protocol::MapSegment(*number, {.kind = protocol::SegmentKind::kSlab,
                                                 .access = protocol::Access::kReadOnly,
                                                 .bytes = listed.getOk()[0].getBytes(),
                                                 .boot_token = client_.boot_token(),
                                                 .identity = {}});
    ASSERT_TRUE(mapped) << mapped.error().message;
    protocol::SlabHeader header{};
    std::memcpy(&header, mapped->data(), sizeof(header));
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const auto& [slot_number, generation] = slots[i];
      protocol::BlockHeader slot{};
      std::memcpy(&slot, mapped->data() + protocol::SlotOffset(header, slot_number), sizeof(slot));
      EXPECT_EQ(slot.magic, protocol::kBlockMagic);
      EXPECT_EQ(slot.first_position, i * 16u);
      EXPECT_EQ(slot.generation, generation);
    }
  }
}

TEST_F(SessionRpcTest, OneBatchForManySequencesKeepsOutcomesApart) {
  RpcTail second = tail_;
  second.offset += tail_.bytes();
  const std::uint64_t a = client_.OpenSequence(store_, arena_, tail_).getSequence();
  const std::uint64_t b = client_.OpenSequence(store_, arena_, second).getSequence();
  Reference reference(tail_.spec, 7);
  Feed(a, reference, 20, tail_);
  auto request = client_.session().advanceRequest();
  auto items = request.initItems(3);
  items[0].setSequence(a);
  items[0].initTokens(1).set(0, 1);
  items[1].setSequence(424242);
  items[2].setSequence(b);
  items[2].initTokens(2);
  const auto response = client_.Wait(request.send());
  EXPECT_EQ(response.getOutcomes()[0].getLength(), 21u);
  EXPECT_EQ(wire::ReadStatus(response.getOutcomes()[1].getStatus()).error().code, ErrorCode::kStaleDaemon);
  EXPECT_EQ(response.getOutcomes()[2].getLength(), 2u);

  auto attend = client_.session().attendRequest();
  auto list = attend.initItems(3);
  FillAttend(list[0], a, 0, 1, 0);
  FillAttend(list[1], a, 9, 1, 0);
  FillAttend(list[2], b, 1, 1, 0);
  const auto attended = client_.Wait(attend.send());
  EXPECT_TRUE(attended.getOutcomes()[0].isOk());
  EXPECT_EQ(wire::ReadStatus(attended.getOutcomes()[1]).error().code, ErrorCode::kOutOfRange);
  EXPECT_TRUE(attended.getOutcomes()[2].isOk());
}

TEST_F(SessionRpcTest, TooLargeABatchIsRefused) {
  auto request = client_.session().attendRequest();
  request.initItems(wire::MAX_BATCH + 1);
  bool threw = false;
  try {
    client_.Wait(request.send());
  } catch (const kj::Exception& exception) {
    threw = true;
    EXPECT_EQ(wire::FromException(exception, "attend", "here").code, ErrorCode::kInternal);
  }
  EXPECT_TRUE(threw);
}

// ------------------------------------------------------------------------------------------------ what can be wrong

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

TEST_F(SessionRpcTest, RowsThatAreNotFiniteAreRefused) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 9);
  Feed(id, reference, 3, tail_);
  reference.Append();
  WriteRows(reference, 3, tail_);
  // Layer 1, values, head 1, the new row.
  const std::size_t ring = (1 * 2 + 1) * 2 + 1;
  float& number = client_.floats(tail_.offset)[(ring * tail_.capacity + 3) * 16 + 5];
  const float kept = std::exchange(number, std::numeric_limits<float>::quiet_NaN());
  auto request = client_.session().attendRequest();
  FillAttend(request.initItems(1)[0], id, 1, 1, 1);
  auto refused = Attend(request);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNotFinite);
  EXPECT_THAT(refused.error().message, HasSubstr("the value row of layer 1, KV head 1, position 3"));
  number = kept;
  ExpectAttention(id, reference, 3, 1, 1);
}

TEST_F(SessionRpcTest, RowsBehindTheLengthCountAsTheSequencesOwn) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 4);
  Feed(id, reference, 40, tail_);
  for (int i = 0; i < 10; ++i) reference.Append();
  WriteRows(reference, 40, tail_);
  const auto attend = [&](std::uint64_t sequence, std::uint32_t unnamed, std::uint32_t new_tokens) {
    auto request = client_.session().attendRequest();
    auto item = request.initItems(1)[0];
    FillAttend(item, sequence, 1, 1, new_tokens);
    item.setUnnamed(unnamed);
    return Attend(request);
  };
  std::fill_n(client_.floats(kQ), kQHeads * tail_.spec.head_dim, 0.5f);
  for (const std::uint32_t new_tokens : {0u, 1u}) {
    ASSERT_TRUE(attend(id, 10 - new_tokens, new_tokens));
    double lse = 0;
    const auto expected = reference.Attend(client_.floats(kQ), 0, 1, 50, 0.25, &lse);
    EXPECT_NEAR(client_.floats(kLse)[0], lse, 1e-4);
    for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(client_.floats(kOut)[i], expected[i], 1e-4);
  }
  ASSERT_EQ(switched_, 1u) << "24 of 64 rows are taken";
  EXPECT_TRUE(attend(id, 40, 0));
  const auto beyond = attend(id, 41, 0);
  EXPECT_EQ(beyond.error().code, ErrorCode::kTailFull);
  EXPECT_THAT(beyond.error().message, HasSubstr("41 unnamed rows, its tail has 40 free ones"));
  EXPECT_EQ(attend(id, UINT32_MAX, 0).error().code, ErrorCode::kTailFull);
  EXPECT_EQ(attend(id, 40, 1).error().code, ErrorCode::kTailFull);
  auto read = client_.session().readRequest();
  read.setStore(store_);
  read.setSource(id);
  const auto reader = client_.Wait(read.send());
  EXPECT_EQ(attend(reader.getOk().getSequence(), 1, 0).error().code, ErrorCode::kUnsupported);
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

TEST_F(SessionRpcTest, TheTailFillsWhileAMarkIsHeld) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  auto mark = client_.session().markRequest();
  mark.setSequence(id);
  client_.Wait(mark.send());
  Reference reference(tail_.spec, 10);
  Feed(id, reference, 64, tail_);  // nothing seals
  EXPECT_EQ(switched_, 0u);
  const std::vector<std::uint32_t> one{1};
  auto advance = AdvanceRequest(client_, id, one);
  EXPECT_EQ(wire::ReadStatus(client_.Wait(advance.send()).getOutcomes()[0].getStatus()).error().code, ErrorCode::kTailFull);
  ExpectAttention(id, reference, 64, 1, 0);
  auto release = client_.session().releaseRequest();
  release.setSequence(id);
  release.initMark().setLength(0);
  const auto released = client_.Wait(release.send());
  EXPECT_EQ(released.getSwitchedBlocks(), 3u);
  ExpectAttention(id, reference, 64, 1, 0);
}

}  // namespace
}  // namespace kvant::daemon
