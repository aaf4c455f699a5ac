// Sequences over the wire: prefixes, forks, readers, trims, marks, and what local placement is told of blocks.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <sys/mman.h>

#include "protocol/wire.h"
#include "tests/daemon/session_fixture.h"

namespace kvant::daemon {
namespace {

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

}  // namespace
}  // namespace kvant::daemon
