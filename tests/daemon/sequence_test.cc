#include "daemon/store/sequence.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

using testing::HasSubstr;

constexpr SequenceConfig kConfig{.recent_tokens = 20, .max_step_tokens = 24, .client = "test", .label = ""};
constexpr std::uint64_t kBlock = 16;
constexpr std::uint64_t kSlack = kBlock / 4;

struct SequenceTest : testing::Test {
  TestCore core;
  std::shared_ptr<Store> store = core.stores.Open(SmallSpec()).value().store;

  TestSequence Open(std::vector<std::uint32_t> tokens = {}, ElementType type = ElementType::kF32) {
    return TestSequence::Open(store, std::move(tokens), kConfig, type);
  }
  /// Advances in steps until `tokens` are held, encodings done at once.
  void Grow(TestSequence& sequence, std::span<const std::uint32_t> tokens, std::size_t step = 7) {
    while (sequence.tokens.size() < tokens.size()) {
      const std::size_t begin = sequence.tokens.size();
      sequence.Advance(tokens.subspan(begin, std::min(step, tokens.size() - begin)));
      core.encode.RunAll();
    }
  }
};

TEST_F(SequenceTest, BlocksFallDueAndSwitchAtTheScheduledLengthsAndNoOther) {
  for (const std::size_t step : {1u, 5u, 24u}) {
    SCOPED_TRACE(step);
    store->EvictAll();
    TestSequence sequence = Open();
    const auto tokens = Tokens(200);
    while (sequence.tokens.size() < tokens.size()) {
      const std::size_t begin = sequence.tokens.size();
      sequence.Advance(std::span(tokens).subspan(begin, std::min(step, tokens.size() - begin)));
      core.encode.RunAll();
      const auto expected = quantizers::ScheduledSeals(sequence.tokens.size(), kBlock, kConfig.recent_tokens);
      EXPECT_EQ(sequence.sequence->switched_blocks(), expected.switched);
      EXPECT_EQ(sequence.sequence->sealed_blocks(), expected.due);
      ASSERT_EQ(sequence.Fault(), "");
    }
  }
}

TEST_F(SequenceTest, AnAdvanceWaitsForTheEncodingThatItSwitchesTo) {
  TestSequence sequence = Open();
  const auto tokens = Tokens(100);
  std::optional<Result<Advanced>> answer;
  sequence.Advance(std::span(tokens).first(kBlock));
  sequence.Advance(std::span(tokens).subspan(kBlock, kConfig.recent_tokens), &answer);
  ASSERT_TRUE(answer.has_value());  // due: encoding runs, nobody waits
  EXPECT_EQ(core.encode.size(), 1u);
  EXPECT_EQ((*answer)->switched_blocks, 0u);
  EXPECT_TRUE(sequence.sequence->settled());
  answer.reset();
  sequence.Advance(std::span(tokens).subspan(36, kSlack), &answer);
  EXPECT_FALSE(answer.has_value());
  EXPECT_FALSE(sequence.sequence->settled());
  bool ready = false;
  sequence.sequence->WhenSettled([&] { ready = true; });
  EXPECT_FALSE(ready);
  core.encode.RunAll();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ((*answer)->switched_blocks, 1u);
  EXPECT_EQ((*answer)->length, 40u);
  EXPECT_TRUE(ready);
  EXPECT_EQ(sequence.Fault(), "");
}

TEST_F(SequenceTest, ResultsDoNotDependOnWhenEncodingsEnd) {
  TestSequence sequence = Open();
  const auto tokens = Tokens(24 * 9);
  std::vector<Advanced> answers;
  for (std::size_t i = 0; i < 9; ++i) {
    // Rows of later steps need room; wait only where a client would.
    while (sequence.sequence->free_rows() < 24 && core.encode.size() != 0) core.encode.RunAt(core.encode.size() - 1);
    std::optional<Result<Advanced>> answer;
    sequence.Advance(std::span(tokens).subspan(i * 24, 24), &answer);
    for (std::size_t n = core.encode.size(); n-- > 0;) core.encode.RunAt(n);  // last begun, first ended
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ((*answer)->switched_blocks, quantizers::ScheduledSeals((i + 1) * 24, kBlock, kConfig.recent_tokens).switched);
    ASSERT_EQ(sequence.Fault(), "");
  }
}

TEST_F(SequenceTest, WaitDueAnswersWithBlocksAheadOfTheirSwitch) {
  TestSequence sequence = Open();
  const auto tokens = Tokens(36);
  std::optional<Result<Advanced>> answer;
  sequence.Advance(std::span(tokens).first(20));
  sequence.Advance(std::span(tokens).subspan(20), &answer, SealWait::kDue);
  EXPECT_FALSE(answer.has_value());
  core.encode.RunAll();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ((*answer)->sealed_blocks, 1u);
  EXPECT_EQ((*answer)->switched_blocks, 0u);
  EXPECT_EQ(sequence.sequence->blocks().size(), 1u);
}

TEST_F(SequenceTest, OpenFindsTheLongestSealedPrefix) {
  const auto tokens = Tokens(120);
  std::uint64_t sealed = 0;
  {
    TestSequence first = Open();
    Grow(first, tokens);
    sealed = first.sequence->sealed_blocks();
    ASSERT_EQ(sealed, (120 - 20) / kBlock);
  }
  EXPECT_EQ(store->Figures().leases, 0u);
  TestSequence second = Open(tokens);
  EXPECT_EQ(second.sequence->length(), sealed * kBlock);
  EXPECT_EQ(second.sequence->prefix_hit_tokens(), sealed * kBlock);
  EXPECT_EQ(second.sequence->switched_blocks(), sealed);
  EXPECT_EQ(second.Fault(), "");
  EXPECT_EQ(store->Figures().leases, sealed);
  EXPECT_EQ(store->Figures().counters.prefix_lookup_tokens, 120u);
  EXPECT_EQ(store->Figures().counters.prefix_hit_tokens, sealed * kBlock);
  // Goes on from there.
  Grow(second, tokens);
  EXPECT_EQ(second.Fault(), "");
}

TEST_F(SequenceTest, TheSameTokensAreStoredOnce) {
  const auto tokens = Tokens(100);
  TestSequence first = Open();
  Grow(first, tokens);
  const std::uint64_t blocks = store->Figures().blocks;
  TestSequence second = TestSequence::Open(store, {}, kConfig);
  Grow(second, tokens, 24);
  EXPECT_EQ(store->Figures().blocks, blocks);
  EXPECT_EQ(store->Figures().counters.deduplicated_blocks, blocks);
  EXPECT_EQ(store->pool().used_slots(), blocks + 1);  // and the sinks
  EXPECT_EQ(second.Fault(), "");
}

TEST_F(SequenceTest, OfTwoEncodingsOfTheSameBlockOneIsKept) {
  const auto tokens = Tokens(40);
  TestSequence first = Open();
  TestSequence second = Open();
  for (TestSequence* sequence : {&first, &second}) {
    sequence->Advance(std::span(tokens).first(20));
    sequence->Advance(std::span(tokens).subspan(20));
  }
  ASSERT_EQ(core.encode.size(), 2u);
  EXPECT_EQ(store->pool().used_slots(), 4u);
  core.encode.RunAt(1);
  core.encode.RunAt(0);
  EXPECT_EQ(store->pool().used_slots(), 2u);
  EXPECT_EQ(first.sequence->blocks()[0], second.sequence->blocks()[0]);
  EXPECT_EQ(first.sequence->blocks()[0]->leases, 2u);
  EXPECT_EQ(store->Figures().counters.deduplicated_blocks, 1u);
  EXPECT_EQ(first.Fault(), "");
  EXPECT_EQ(second.Fault(), "");
}

TEST_F(SequenceTest, ForkIsACopyAndNeitherSideSeesTheOther) {
  const auto tokens = Tokens(120);
  TestSequence source = Open();
  Grow(source, tokens);
  for (const std::uint64_t at : {0u, 1u, 3u, 4u, 16u, 17u, 31u, 79u, 80u, 81u, 119u, 120u}) {
    SCOPED_TRACE(at);
    const std::uint64_t copied = store->counters().bytes_copied;
    auto forked = Sequence::Fork(*source.sequence, at, MakeTail(store->spec(), kConfig), kConfig);
    ASSERT_TRUE(forked.has_value()) << forked.error().message;
    TestSequence fork{std::move(*forked), {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(at)}};
    EXPECT_EQ(fork.Fault(), "");
    const std::uint64_t raw = at - fork.sequence->tail_first_position();
    EXPECT_EQ(store->counters().bytes_copied - copied, raw * 2 * 2 * 2 * 16 * 4);
    // Both grow apart.
    std::vector<std::uint32_t> other = fork.tokens;
    const auto more = Tokens(60, 99);
    other.insert(other.end(), more.begin(), more.end());
    Grow(fork, other);
    EXPECT_EQ(fork.Fault(), "");
    EXPECT_EQ(source.Fault(), "");
  }
  EXPECT_EQ(Sequence::Fork(*source.sequence, 121, MakeTail(store->spec(), kConfig), kConfig).error().code,
            ErrorCode::kOutOfRange);
}

TEST_F(SequenceTest, ForkOutlivesItsSourceAndConvertsTheTail) {
  const auto tokens = Tokens(70);
  TestSequence source = Open();
  Grow(source, tokens);
  for (const ElementType type : {ElementType::kF16, ElementType::kBF16}) {
    TestSequence fork{Sequence::Fork(*source.sequence, 70, MakeTail(store->spec(), kConfig, type), kConfig).value(), tokens};
    EXPECT_EQ(fork.Fault(), "");
  }
  TestSequence fork{Sequence::Fork(*source.sequence, 70, MakeTail(store->spec(), kConfig), kConfig).value(), tokens};
  source.sequence.reset();
  EXPECT_EQ(fork.Fault(), "");
}

TEST_F(SequenceTest, ForkIntoATailThatIsTooSmall) {
  SequenceConfig wide = kConfig;
  wide.recent_tokens = 300;
  TestSequence source = TestSequence::Open(store, {}, wide);
  Grow(source, Tokens(300), 24);
  const auto fork = Sequence::Fork(*source.sequence, 300, MakeTail(store->spec(), kConfig), kConfig);
  ASSERT_FALSE(fork.has_value());
  EXPECT_EQ(fork.error().code, ErrorCode::kTailFull);
  EXPECT_EQ(core.core.sequences.size(), 1u);
}

TEST_F(SequenceTest, TrimDropsFromTheEndAtEveryLength) {
  const auto tokens = Tokens(100);
  for (std::size_t keep = 0; keep <= 100; ++keep) {
    SCOPED_TRACE(keep);
    TestSequence sequence = Open();
    Grow(sequence, tokens, 24);
    ASSERT_TRUE(sequence.sequence->Trim(keep).has_value());
    sequence.tokens.resize(keep);
    ASSERT_EQ(sequence.Fault(), "");
    std::vector<std::uint32_t> other = sequence.tokens;
    const auto more = Tokens(70, static_cast<std::uint32_t>(keep) + 1000);
    other.insert(other.end(), more.begin(), more.end());
    Grow(sequence, other, 11);
    ASSERT_EQ(sequence.Fault(), "");
  }
  TestSequence sequence = Open();
  EXPECT_EQ(sequence.sequence->Trim(1).error().code, ErrorCode::kOutOfRange);
}

TEST_F(SequenceTest, TrimDuringAnEncodingDropsItsOutcome) {
  const auto tokens = Tokens(36);
  TestSequence sequence = Open();
  sequence.Advance(std::span(tokens).first(20));
  sequence.Advance(std::span(tokens).subspan(20));
  ASSERT_EQ(core.encode.size(), 1u);
  ASSERT_TRUE(sequence.sequence->Trim(10).has_value());
  sequence.tokens.resize(10);
  core.encode.RunAll();
  EXPECT_EQ(sequence.sequence->sealed_blocks(), 0u);
  EXPECT_EQ(store->pool().used_slots(), 0u);
  EXPECT_EQ(store->Figures().blocks, 0u);
}

TEST_F(SequenceTest, RewindRestoresBlockTableAndTailBytes) {
  const auto tokens = Tokens(90);
  TestSequence sequence = Open();
  Grow(sequence, tokens);
  const TailView& tail = sequence.sequence->tail();
  const std::vector<Block*> blocks(sequence.sequence->blocks().begin(), sequence.sequence->blocks().end());
  const std::uint64_t switched = sequence.sequence->switched_blocks();
  const auto tail_rows = [&] {  // the bytes of all rows that belong to the sequence
    std::vector<std::byte> bytes;
    for (std::uint64_t p = sequence.sequence->tail_first_position(); p < 90; ++p) {
      for (std::size_t layer = 0; layer < 2; ++layer) {
        for (std::size_t side = 0; side < 2; ++side) {
          for (std::size_t head = 0; head < 2; ++head) {
            const std::byte* row = tail.Ring(layer, side, head) + p % tail.layout.capacity * tail.layout.row_bytes();
            bytes.insert(bytes.end(), row, row + tail.layout.row_bytes());
          }
        }
      }
    }
    return bytes;
  };
  const std::vector<std::byte> bytes = tail_rows();

  ASSERT_EQ(sequence.sequence->SetMark().value(), 90u);
  for (int round = 0; round < 3; ++round) {
    const auto guess = Tokens(sequence.sequence->free_rows(), 7 + static_cast<std::uint32_t>(round));
    sequence.Advance(guess);  // as far as the tail goes: far beyond where blocks would switch
    core.encode.RunAll();
    EXPECT_EQ(sequence.sequence->switched_blocks(), switched);
    EXPECT_EQ(sequence.Fault(), "");
    std::optional<Result<Advanced>> full;
    sequence.Advance(Tokens(1), &full);
    EXPECT_EQ(full->error().code, ErrorCode::kTailFull);
    ASSERT_TRUE(sequence.sequence->Rewind(90).has_value());
    sequence.tokens.resize(90);
    EXPECT_EQ(std::vector<Block*>(sequence.sequence->blocks().begin(), sequence.sequence->blocks().end()), blocks);
    EXPECT_EQ(sequence.sequence->switched_blocks(), switched);
    EXPECT_TRUE(tail_rows() == bytes);
  }
  sequence.Advance(Tokens(30, 3));
  std::optional<Result<Advanced>> released;
  sequence.sequence->Release(90, [&](Result<Advanced> result) { released.emplace(std::move(result)); });
  core.encode.RunAll();
  ASSERT_TRUE(released.has_value());
  EXPECT_EQ((*released)->switched_blocks, quantizers::ScheduledSeals(120, kBlock, kConfig.recent_tokens).switched);
  EXPECT_EQ(sequence.Fault(), "");
  EXPECT_EQ(sequence.sequence->Rewind(90).error().code, ErrorCode::kNotFound);
}

TEST_F(SequenceTest, MarksNestAndTrimIntoCodesDropsThem) {
  TestSequence sequence = Open();
  Grow(sequence, Tokens(60));
  ASSERT_EQ(sequence.sequence->SetMark().value(), 60u);
  sequence.Advance(Tokens(3, 5));
  ASSERT_EQ(sequence.sequence->SetMark().value(), 63u);
  sequence.Advance(Tokens(3, 6));
  ASSERT_TRUE(sequence.sequence->Rewind(60).has_value());
  sequence.tokens.resize(60);
  EXPECT_EQ(sequence.sequence->Rewind(63).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(sequence.sequence->marks().size(), 1u);
  ASSERT_TRUE(sequence.sequence->Trim(20).has_value());
  EXPECT_TRUE(sequence.sequence->marks().empty());
}

TEST_F(SequenceTest, ARowThatIsNotFiniteStaysRawAndIsReportedWhenItsBlockIsNeeded) {
  const auto tokens = Tokens(200);
  TestSequence sequence = Open();
  Grow(sequence, std::span(tokens).first(20));
  const TailView& tail = sequence.sequence->tail();
  const float bad = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(tail.Ring(1, 1, 1) + 5 * tail.layout.row_bytes() + 12, &bad, 4);
  std::optional<Result<Advanced>> answer;
  sequence.Advance(std::span(tokens).subspan(20, 16), &answer);
  core.encode.RunAll();
  EXPECT_FALSE((*answer)->seal_error.has_value());  // due, but not needed yet
  sequence.Advance(std::span(tokens).subspan(36, 4), &answer);
  ASSERT_TRUE((*answer)->seal_error.has_value());
  EXPECT_EQ((*answer)->seal_error->code, ErrorCode::kNotFinite);
  EXPECT_THAT((*answer)->seal_error->message, HasSubstr("layer 1, values of head 1"));
  EXPECT_EQ((*answer)->switched_blocks, 0u);
  EXPECT_EQ(store->pool().used_slots(), 0u);
  EXPECT_EQ(store->counters().not_finite_errors, 1u);
  // Still usable until the ring is full.
  while (sequence.sequence->free_rows() != 0) sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), 1), &answer);
  EXPECT_EQ(sequence.sequence->length(), sequence.sequence->tail().layout.capacity);
  EXPECT_EQ(core.encode.size(), 0u);
  sequence.Advance(Tokens(1), &answer);
  EXPECT_EQ(answer->error().code, ErrorCode::kTailFull);
  // Below the block it heals.
  ASSERT_TRUE(sequence.sequence->Trim(3).has_value());
  sequence.tokens.resize(3);
  Grow(sequence, tokens);
  EXPECT_EQ(sequence.Fault(), "");
}

TEST_F(SequenceTest, ClosingAnswersWhoWaitsAndFreesEverything) {
  const auto tokens = Tokens(40);
  std::optional<Result<Advanced>> answer;
  {
    TestSequence sequence = Open();
    sequence.Advance(std::span(tokens).first(20));
    sequence.Advance(std::span(tokens).subspan(20), &answer);
    ASSERT_FALSE(answer.has_value());
  }
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->error().code, ErrorCode::kNotFound);
  EXPECT_EQ(store->pool().used_slots(), 2u);  // still written by the job
  core.encode.RunAll();
  EXPECT_EQ(store->pool().used_slots(), 0u);
  EXPECT_EQ(core.core.sequences.size(), 0u);
  EXPECT_EQ(store->Figures().sequences, 0u);
}

TEST_F(SequenceTest, AnAnswerMayCloseTheSequence) {
  const auto tokens = Tokens(40);
  TestSequence sequence = Open();
  sequence.Advance(std::span(tokens).first(20));
  WriteRows(sequence.sequence->tail(), Histories(tokens), 20);
  int answers = 0;
  sequence.sequence->Advance(std::span(tokens).subspan(20), SealWait::kSwitched, [&](Result<Advanced>) {
    ++answers;
    sequence.sequence.reset();
  });
  sequence.sequence->Advance({}, SealWait::kSwitched, [&](const Result<Advanced>& result) {
    ++answers;
    EXPECT_EQ(result.error().code, ErrorCode::kNotFound);
  });
  core.encode.RunAll();
  EXPECT_EQ(answers, 2);
}

TEST_F(SequenceTest, InspectFindsADamagedBlock) {
  TestSequence sequence = Open();
  Grow(sequence, Tokens(80));
  SequenceDetail detail = sequence.sequence->Inspect(0, ~std::uint64_t{0});
  ASSERT_EQ(detail.blocks.size(), 3u);
  for (const BlockFigures& block : detail.blocks) EXPECT_TRUE(block.checksum_ok);
  EXPECT_EQ(detail.blocks[2].first_position, 32u);
  EXPECT_EQ(detail.blocks[2].leases, 1u);
  EXPECT_EQ(detail.tail_first_position, 48u);
  const_cast<std::byte*>(sequence.sequence->blocks()[1]->codes().payload)[77] ^= std::byte{4};
  const_cast<std::byte*>(sequence.sequence->blocks()[0]->sinks()->payload)[3] ^= std::byte{1};
  detail = sequence.sequence->Inspect(0, ~std::uint64_t{0});
  EXPECT_FALSE(detail.blocks[0].checksum_ok);
  EXPECT_FALSE(detail.blocks[1].checksum_ok);
  EXPECT_TRUE(detail.blocks[2].checksum_ok);
}

TEST_F(SequenceTest, TailsThatDoNotFitAreRefused) {
  const StoreSpec& spec = store->spec();
  const auto refused = [&](const TailView& tail, const char* text) {
    const auto opened = Sequence::Open(store, {}, tail, kConfig);
    ASSERT_FALSE(opened.has_value());
    EXPECT_EQ(opened.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(opened.error().message, HasSubstr(text));
  };
  TailView tail = MakeTail(spec, kConfig);
  tail.layout.capacity -= 16;
  refused(tail, "capacity of 48 tokens must be a multiple of block_tokens 16, at least 64");
  tail = MakeTail(spec, kConfig);
  tail.layout.capacity += 8;
  refused(tail, "multiple of block_tokens 16");
  tail = MakeTail(spec, kConfig);
  tail.layout.head_dim = 8;
  refused(tail, "shape");
  tail = MakeTail(spec, kConfig);
  tail.base += 4;
  refused(tail, "aligned");
  tail = MakeTail(spec, kConfig);
  tail.layout.type = static_cast<ElementType>(9);
  refused(tail, "element type 9");
}

TEST_F(SequenceTest, ReadersSeeWhatTheOwnerAdvancedUntilItCloses) {
  TestSequence owner = Open();
  Grow(owner, Tokens(50));
  const auto reader = Reader::Open(*owner.sequence, "someone").value();
  EXPECT_EQ(reader->source().value()->length(), 50u);
  Grow(owner, Tokens(55));
  EXPECT_EQ(reader->source().value()->length(), 55u);
  EXPECT_TRUE(reader->Figures().read_only);
  EXPECT_EQ(core.core.sequences.Find(reader->id()).value(), owner.sequence.get());
  EXPECT_EQ(store->Figures().sequences, 2u);
  owner.sequence.reset();
  EXPECT_EQ(reader->source().error().code, ErrorCode::kNotFound);
}

TEST_F(SequenceTest, IdsOfAnotherDaemonAreToldApart) {
  TestSequence sequence = Open();
  EXPECT_EQ(core.core.sequences.Find(sequence.sequence->id()).value(), sequence.sequence.get());
  EXPECT_EQ(core.core.sequences.Find(sequence.sequence->id() + 1).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(core.core.sequences.Find(sequence.sequence->id() + (std::uint64_t{1} << 41)).error().code, ErrorCode::kStaleDaemon);
}

}  // namespace
}  // namespace kvant::daemon
