#include "daemon/memory/block_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "protocol/mapped_segment.h"
#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST(BudgetTest, RefusesASillyLimitAndNeverExceedsAGoodOne) {
  EXPECT_EQ(Budget::Make(4096).error().code, ErrorCode::kInvalidArgument);
  Budget budget = Budget::Make(kMiB).value();
  Charge half = budget.Take(ChargeKind::kSlab, kMiB / 2, "half").value();
  const Result<Charge> refused = budget.Take(ChargeKind::kMetadata, kMiB / 2 + 1, "the other half");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kStoreFull);
  EXPECT_EQ(refused.error().message, "the other half needs 524289 bytes, the budget of 1048576 bytes has 524288 left");
  {
    const Charge rest = budget.Take(ChargeKind::kMetadata, kMiB / 2, "rest").value();
    EXPECT_EQ(budget.available(), 0u);
    EXPECT_EQ(budget.metadata_bytes(), kMiB / 2);
    half = Charge();
    EXPECT_EQ(budget.slab_bytes(), 0u);
  }
  EXPECT_EQ(budget.available(), kMiB);
}

struct PoolTest : testing::Test {
  Budget budget = Budget::Make(16 * kMiB).value();  // slabs of a sixteenth: 1 MiB
  QueueRunner populate;
  BlockPool pool{{.slot_bytes = 200 * 1024, .block_tokens = 16, .identity = {}, .boot_token = 3}, budget, populate};
};

TEST_F(PoolTest, SlabsAreASixteenthOfTheBudgetAndChargedBeforeTheyAreMade) {
  ASSERT_TRUE(pool.Allocate().has_value());
  ASSERT_EQ(pool.slab_count(), 1u);
  EXPECT_EQ(pool.slabs()[0]->shape().slot_count, (kMiB - 4096) / (200 * 1024));
  EXPECT_EQ(budget.slab_bytes(), pool.slab_bytes());
  EXPECT_LE(pool.slab_bytes(), kMiB);
}

TEST_F(PoolTest, FillsTheBudgetAndThenRefuses) {
  std::vector<SlotRef> slots;
  for (;;) {
    Result<SlotRef> slot = pool.Allocate();
    if (!slot) {
      EXPECT_EQ(slot.error().code, ErrorCode::kStoreFull);
      break;
    }
    slots.push_back(*slot);
    ASSERT_LE(budget.slab_bytes(), budget.limit());
  }
  // What is left would not hold one more slab of one slot.
  EXPECT_LT(budget.available(), pool.smallest_slab_bytes());
  EXPECT_GE(slots.size(), 16 * 5u);
  std::ranges::sort(slots);
  EXPECT_EQ(std::ranges::adjacent_find(slots), slots.end());  // no slot twice

  pool.Free(slots[7]);
  EXPECT_EQ(pool.Allocate().value(), slots[7]);
}

TEST_F(PoolTest, ReusesTheLowestSlotAndNeverASlabIndex) {
  const SlotRef first = pool.Allocate().value();
  const SlotRef second = pool.Allocate().value();
  pool.Free(first);
  EXPECT_EQ(pool.Allocate().value(), first);
  EXPECT_EQ(pool.DropEmptySlabs(), 0u);
  pool.Free(first);
  pool.Free(second);
  EXPECT_GT(pool.DropEmptySlabs(), 0u);
  EXPECT_EQ(budget.slab_bytes(), 0u);
  EXPECT_EQ(pool.Allocate().value(), (SlotRef{1, 0}));
  EXPECT_EQ(pool.used_slots(), 1u);
}

TEST_F(PoolTest, AFreedSlotNoLongerLooksLikeABlock) {
  const SlotRef slot = pool.Allocate().value();
  ASSERT_TRUE(pool.slab(0)->Populate(1).has_value());
  std::memset(pool.Address(slot), 0x4B, sizeof(protocol::BlockHeader));
  pool.Free(slot);
  const std::byte* header = pool.slab(0)->slot(0);
  EXPECT_TRUE(std::all_of(header, header + sizeof(protocol::BlockHeader), [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(PoolTest, PopulatesAheadInSteps) {
  ASSERT_TRUE(pool.Allocate().has_value());
  EXPECT_EQ(pool.resident_bytes(), 4096u);  // the header's page alone, until the job has run
  ASSERT_EQ(populate.size(), 1u);
  populate.RunAll();
  EXPECT_GT(pool.resident_bytes(), 4096 + 2 * 200 * 1024u);
  EXPECT_LE(pool.resident_bytes(), pool.slab_bytes());
  unsigned char present[256];
  Slab& slab = *pool.slab(0);
  const std::size_t pages = slab.resident_bytes() / 4096;
  ASSERT_EQ(::mincore(slab.slot(0) - protocol::kSegmentHeaderBytes, pages * 4096, present), 0);
  for (std::size_t page = 0; page < pages; ++page) EXPECT_NE(present[page] & 1, 0) << page;
}

TEST_F(PoolTest, ADroppedSlabStaysValidInAClientsMapping) {
  const SlotRef slot = pool.Allocate().value();
  std::memset(pool.Address(slot), 0x5A, 1000);
  const int fd = ::dup(pool.slab(0)->read_only_fd());
  const auto mapped = protocol::MapSegment(fd, {.kind = protocol::SegmentKind::kSlab,
                                                .access = protocol::Access::kReadOnly,
                                                .bytes = pool.slab(0)->bytes(),
                                                .boot_token = 3,
                                                .identity = protocol::Digest{}});
  ::close(fd);
  ASSERT_TRUE(mapped.has_value()) << mapped.error().message;
  const std::size_t offset =
      static_cast<std::size_t>(pool.Address(slot) - pool.slab(0)->slot(0)) + protocol::kSegmentHeaderBytes;
  EXPECT_EQ(mapped->data()[offset + 999], std::byte{0x5A});
  populate.RunAll();
  pool.Free(slot);
  pool.DropEmptySlabs();
  ASSERT_EQ(pool.slab_count(), 0u);
  EXPECT_EQ(mapped->data()[offset + 999], std::byte{0x5A});
}

}  // namespace
}  // namespace kvant::daemon
