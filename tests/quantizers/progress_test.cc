#include "quantizers/sequence/progress.h"

#include <algorithm>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kBlock = 64;

/// A sequence all of whose blocks are sealed as soon as they are due.
Progress Grown(std::uint64_t length, std::uint32_t recent = 0) {
  Progress progress(kBlock, recent);
  progress.Grow(length);
  const SealCounts counts = progress.Scheduled();
  progress.SetSealed(counts.due);
  progress.SwitchTo(counts.switched);
  return progress;
}

TEST(ProgressTest, FollowsTheScheduleWhileItGrows) {
  Progress progress(kBlock, 10);
  for (std::uint64_t length = 1; length < 1000; ++length) {
    progress.Grow(1);
    EXPECT_EQ(progress.Scheduled(), ScheduledSeals(length, kBlock, 10));
    progress.SetSealed(progress.Scheduled().due);
    progress.SwitchTo(progress.Scheduled().switched);
    EXPECT_EQ(progress.raw_tokens(), length - ScheduledSeals(length, kBlock, 10).switched * kBlock);
  }
}

TEST(ProgressTest, NothingSwitchesWhileAnyMarkIsHeld) {
  // Block 0 switches at 80 tokens. Marks at 65 and 100, the older released: the newer one still promises what it saw.
  Progress progress = Grown(65);
  const SealCounts before{.due = 1, .switched = 0};
  EXPECT_EQ(progress.Scheduled(), before);
  ASSERT_EQ(progress.SetMark().value(), 65u);
  progress.Grow(35);
  ASSERT_EQ(progress.SetMark().value(), 100u);
  EXPECT_EQ(progress.Scheduled(), before);
  ASSERT_TRUE(progress.Release(65));
  EXPECT_EQ(progress.Scheduled(), before);
  progress.Grow(100);
  EXPECT_EQ(progress.Scheduled(), before);
  ASSERT_TRUE(progress.Release(100));
  EXPECT_EQ(progress.Scheduled(), ScheduledSeals(200, kBlock, 0));
}

TEST(ProgressTest, ASealThatIsMissingHoldsBackTheOthers) {
  Progress progress(kBlock, 0);
  progress.Grow(500);
  progress.SetSealed(2);
  progress.SwitchTo(progress.Scheduled().switched);
  EXPECT_EQ(progress.switched_blocks(), 2u);
  EXPECT_EQ(progress.tail_first_position(), 2 * kBlock);
}

TEST(ProgressTest, TrimLeavesWholeBlocksAndTheMarksBefore) {
  Progress progress = Grown(70);
  ASSERT_TRUE(progress.SetMark());
  progress.Grow(30);
  ASSERT_TRUE(progress.SetMark());
  EXPECT_EQ(progress.Trim(101).error().code, ErrorCode::kOutOfRange);
  EXPECT_EQ(progress.length(), 100u);
  ASSERT_TRUE(progress.Trim(90));
  EXPECT_EQ(std::vector<std::uint64_t>(progress.marks().begin(), progress.marks().end()), std::vector<std::uint64_t>{70});
  EXPECT_EQ(progress.FindMark(100).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(progress.Release(100).error().code, ErrorCode::kNotFound);
  Progress sealed = Grown(300);
  ASSERT_TRUE(sealed.Trim(100));
  EXPECT_EQ(sealed.sealed_blocks(), 1u);
  EXPECT_EQ(sealed.switched_blocks(), 1u);
}

TEST(ProgressTest, MarksHaveALimit) {
  Progress progress(kBlock, 0);
  for (std::size_t i = 0; i < Progress::kMaxMarks; ++i) ASSERT_TRUE(progress.SetMark());
  EXPECT_EQ(progress.SetMark().error().code, ErrorCode::kOutOfRange);
  ASSERT_TRUE(progress.Release(0));
  EXPECT_TRUE(progress.SetMark());
}

/// Two sides of one sequence: one hears of every token, the other of several at once, as a daemon does of a client with local
/// placement. Whenever the second has heard everything both read the same blocks as codes.
TEST(ProgressTest, SidesThatHearOfTokensAtDifferentTimesAgree) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const auto recent = static_cast<std::uint32_t>(random() % 100);
    Progress often(16, recent);
    Progress seldom(16, recent);
    const auto settle = [](Progress& side) {
      side.SetSealed(std::max(side.sealed_blocks(), side.Scheduled().due));
      side.SwitchTo(side.Scheduled().switched);
    };
    const auto tell = [&] {
      if (often.length() == seldom.length()) return;
      seldom.Grow(often.length() - seldom.length());
      settle(seldom);
    };
    for (int step = 0; step < 300; ++step) {
      switch (random() % 8) {
        case 0: {
          tell();
          const std::uint64_t length = often.length() - std::min<std::uint64_t>(often.length(), random() % 30);
          ASSERT_TRUE(often.Trim(length) && seldom.Trim(length));
          break;
        }
        case 1:
          tell();
          ASSERT_EQ(often.SetMark().value(), seldom.SetMark().value());
          break;
        case 2:
          if (!often.marks().empty()) {
            tell();
            const std::uint64_t mark = often.marks()[random() % often.marks().size()];
            ASSERT_TRUE(often.Release(mark) && seldom.Release(mark));
            settle(often);
            settle(seldom);
          }
          break;
        case 3: tell(); break;
        default:
          for (std::size_t i = random() % 20; i > 0; --i) {
            often.Grow(1);
            settle(often);
          }
      }
      if (often.length() != seldom.length()) continue;
      ASSERT_EQ(often.switched_blocks(), seldom.switched_blocks()) << "round " << round << ", step " << step;
      ASSERT_LE(often.switched_blocks() * 16, often.length());
    }
  }
}

}  // namespace
}  // namespace kvant::quantizers
