#include "quantizers/sequence/schedule.h"

#include <gtest/gtest.h>

#include "quantizers/sequence/ring.h"

namespace kvant::quantizers {
namespace {

/// The rule as it is told, block by block and token by token.
SealCounts Naive(std::uint64_t length, std::uint32_t block_tokens, std::uint32_t recent) {
  SealCounts counts;
  while (length >= (counts.due + 1) * block_tokens + recent) ++counts.due;
  while (length >= (counts.switched + 1) * block_tokens + recent + block_tokens / 4) ++counts.switched;
  return counts;
}

TEST(SealScheduleTest, AgreesWithTheRuleAtEveryLength) {
  for (const std::uint32_t block_tokens : {16u, 32u, 128u, 1024u}) {
    for (const std::uint32_t recent : {0u, 1u, 17u, 64u, 5000u}) {
      for (std::uint64_t length = 0; length < 4 * block_tokens + recent + 50; ++length) {
        EXPECT_EQ(ScheduledSeals(length, block_tokens, recent), Naive(length, block_tokens, recent))
            << length << " tokens, blocks of " << block_tokens << ", recent " << recent;
      }
    }
  }
}

TEST(SealScheduleTest, TailHoldsWhatStaysRawAndTheNextStep) {
  for (const std::uint32_t block_tokens : {16u, 48u, 128u}) {
    for (const std::uint32_t recent : {0u, 5u, 64u, 300u}) {
      for (const std::uint32_t step : {1u, 7u, 512u}) {
        const std::uint64_t capacity = TailCapacity(block_tokens, recent, step);
        EXPECT_EQ(capacity % block_tokens, 0u);
        for (std::uint64_t length = 0; length < 10 * capacity; ++length) {
          const std::uint64_t raw = length - ScheduledSeals(length, block_tokens, recent).switched * block_tokens;
          ASSERT_LE(raw + step, capacity) << length;
        }
      }
    }
  }
}

TEST(TailLayoutTest, RunsCoverEveryPositionOnceInItsRow) {
  const TailLayout layout{.layers = 1, .kv_heads = 1, .head_dim = 8, .capacity = 48, .type = ElementType::kF16};
  for (std::uint64_t first = 0; first < 200; ++first) {
    for (std::uint64_t count = 0; count <= layout.capacity; ++count) {
      std::uint64_t position = first;
      for (const RowRun& run : layout.Runs(first, count)) {
        if (run.count == 0) continue;
        EXPECT_EQ(run.first_position, position);
        EXPECT_EQ(run.first_row, position % layout.capacity);
        EXPECT_LE(run.first_row + run.count, layout.capacity);
        position += run.count;
      }
      ASSERT_EQ(position, first + count);
    }
  }
}

TEST(TailLayoutTest, RingsAreAdjacentAndDisjoint) {
  const TailLayout layout{.layers = 3, .kv_heads = 2, .head_dim = 24, .capacity = 32, .type = ElementType::kF32};
  std::uint64_t expected = 0;
  for (std::uint64_t layer = 0; layer < 3; ++layer) {
    for (std::uint64_t side = 0; side < 2; ++side) {
      for (std::uint64_t head = 0; head < 2; ++head) {
        EXPECT_EQ(layout.Offset(layer, side, head), expected);
        expected += 32 * 24 * 4;
      }
    }
  }
  EXPECT_EQ(layout.total_bytes(), expected);
}

}  // namespace
}  // namespace kvant::quantizers
