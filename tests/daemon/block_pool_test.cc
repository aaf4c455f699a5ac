#include "daemon/memory/block_pool.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
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

TEST(BudgetTest, ChargesMergeAndGivePartsBack) {
  Budget budget = Budget::Make(kMiB).value();
  Charge sum;
  sum.Merge(budget.Take(ChargeKind::kSlab, 1000, "a").value());
  sum.Merge(budget.Take(ChargeKind::kSlab, 500, "b").value());
  sum.GiveBack(700);
  EXPECT_EQ(sum.bytes(), 800u);
  EXPECT_EQ(budget.slab_bytes(), 800u);
  EXPECT_DEATH(sum.GiveBack(801), "KVANT_CHECK failed: bytes <= bytes_; .* = 801 800");
}

/// Pages that exist of all slabs, as the system counts them.
std::size_t Resident(const BlockPool& pool) {
  std::size_t bytes = 0;
  for (const auto& slab : pool.slabs()) {
    struct stat status {};
    EXPECT_EQ(::fstat(slab->read_only_fd(), &status), 0);
    bytes += static_cast<std::size_t>(status.st_blocks) * 512;
  }
  return bytes;
}

struct PoolTest : testing::Test {
  static constexpr std::uint64_t kSlot = 200 * 1024;
  static constexpr std::uint64_t kSmallSlot = 1024;
  Budget budget = Budget::Make(16 * kMiB).value();
  QueueRunner populate;
  BlockPool pool{{.block_tokens = 16, .identity = {}, .boot_token = 3}, budget, populate};

  /// As an encoding job does it.
  void Write(SlotRef slot) {
    Slab& slab = *pool.slab(slot.slab);
    ASSERT_TRUE(slab.Populate(slot.slot).has_value());
    std::memset(pool.Address(slot), 0x4B, slab.header().slot_bytes);
  }
};

TEST_F(PoolTest, ChargesWhatASlotTakesAndNoMore) {
  const SlotRef slot = pool.Allocate(kSlot).value();
  EXPECT_EQ(budget.slab_bytes(), 4096 + kSlot);  // 200 KiB are whole pages
  Write(slot);
  EXPECT_EQ(Resident(pool), budget.slab_bytes());
  ASSERT_TRUE(pool.Allocate(kSlot).has_value());
  EXPECT_EQ(budget.slab_bytes(), 4096 + 2 * kSlot);
  EXPECT_EQ(pool.held_bytes(), budget.slab_bytes());
  EXPECT_LT(budget.metadata_bytes(), budget.slab_bytes() / 256);  // the record of a slab
}

TEST_F(PoolTest, SmallSlotsSharePages) {
  for (int i = 0; i < 3; ++i) {
    Write(pool.Allocate(kSmallSlot).value());
    EXPECT_EQ(budget.slab_bytes(), 4096u + 4096u);
    EXPECT_EQ(Resident(pool), budget.slab_bytes());
  }
}

TEST_F(PoolTest, APageThatTwoSlotsShareIsChargedOnceAndStaysForTheOther) {
  constexpr std::uint64_t kOdd = 6 * 1024;  // one and a half pages
  const SlotRef first = pool.Allocate(kOdd).value();
  EXPECT_EQ(budget.slab_bytes(), 4096u + 2 * 4096u);
  const SlotRef second = pool.Allocate(kOdd).value();
  EXPECT_EQ(budget.slab_bytes(), 4096u + 3 * 4096u);
  Write(first);
  Write(second);
  EXPECT_EQ(Resident(pool), budget.slab_bytes());
  pool.Free(first);
  EXPECT_TRUE(pool.GiveBack(1));
  EXPECT_EQ(budget.slab_bytes(), 4096u + 2 * 4096u);
  EXPECT_EQ(Resident(pool), budget.slab_bytes());
  const std::byte* begin = pool.Address(second);
  EXPECT_TRUE(std::all_of(begin, begin + kOdd, [](std::byte b) { return b == std::byte{0x4B}; }));
}

TEST_F(PoolTest, SizesHaveSlabsOfTheirOwn) {
  const SlotRef large = pool.Allocate(kSlot).value();
  const SlotRef small = pool.Allocate(kSmallSlot).value();
  EXPECT_NE(large.slab, small.slab);
  EXPECT_EQ(pool.slab(large.slab)->header().slot_bytes, kSlot);
  EXPECT_EQ(pool.slab(small.slab)->header().slot_bytes, kSmallSlot);
  EXPECT_EQ(pool.used_slots(), 2u);
}

TEST_F(PoolTest, FillsTheBudgetAndThenRefuses) {
  std::vector<SlotRef> slots;
  for (;;) {
    Result<SlotRef> slot = pool.Allocate(kSlot);
    if (!slot) {
      EXPECT_EQ(slot.error().code, ErrorCode::kStoreFull);
      break;
    }
    slots.push_back(*slot);
    ASSERT_LE(budget.slab_bytes() + budget.metadata_bytes(), budget.limit());
  }
  populate.RunAll();
  EXPECT_LT(budget.available(), kSlot + 4096 + 4096);
  EXPECT_GE(slots.size(), 80u);  // of 81.9
  std::ranges::sort(slots);
  EXPECT_EQ(std::ranges::adjacent_find(slots), slots.end());  // no slot twice

  pool.Free(slots[7]);
  EXPECT_EQ(pool.Allocate(kSlot).value(), slots[7]);
}

TEST_F(PoolTest, AFreedSlotIsUsedAgainOrGivenBack) {
  const SlotRef first = pool.Allocate(kSlot).value();
  const SlotRef second = pool.Allocate(kSlot).value();
  Write(first);
  Write(second);
  pool.Free(first);
  EXPECT_EQ(pool.warm_slots(), 1u);
  EXPECT_EQ(budget.slab_bytes(), 4096 + 2 * kSlot);  // kept for the next block
  EXPECT_EQ(pool.Allocate(kSlot).value(), first);
  EXPECT_EQ(pool.warm_slots(), 0u);
  EXPECT_FALSE(pool.GiveBack(1));  // nothing to give

  pool.Free(first);
  EXPECT_TRUE(pool.GiveBack(1));
  EXPECT_EQ(budget.slab_bytes(), 4096 + kSlot);
  EXPECT_EQ(Resident(pool), 4096 + kSlot);
  EXPECT_EQ(pool.Allocate(kSlot).value(), first);  // the hole is filled again
}

TEST_F(PoolTest, ASlabWithoutBlocksGoesWholeAndItsIndexIsNeverUsedAgain) {
  const SlotRef slot = pool.Allocate(kSlot).value();
  pool.Free(slot);
  EXPECT_TRUE(pool.GiveBack(~std::size_t{0}));
  EXPECT_EQ(budget.slab_bytes(), 0u);
  EXPECT_EQ(budget.metadata_bytes(), 0u);
  EXPECT_EQ(pool.slab_count(), 0u);
  EXPECT_EQ(pool.Allocate(kSlot).value(), (SlotRef{1, 0}));
}

TEST_F(PoolTest, AFreedSlotNoLongerLooksLikeABlock) {
  const SlotRef slot = pool.Allocate(kSlot).value();
  Write(slot);
  pool.Free(slot);
  const std::byte* header = pool.slab(0)->slot(0);
  EXPECT_TRUE(std::all_of(header, header + sizeof(protocol::BlockHeader), [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(PoolTest, FreeingASlotTwiceEndsTheDaemon) {
  const SlotRef slot = pool.Allocate(kSlot).value();
  pool.Free(slot);
  EXPECT_DEATH(pool.Free(slot), "KVANT_CHECK failed: states_");
}

TEST_F(PoolTest, SmallPoolsPopulateNothingAheadAndLargeOnesAPart) {
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pool.Allocate(kSlot).has_value());
  EXPECT_EQ(populate.size(), 0u);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(pool.Allocate(kSlot).has_value());
  EXPECT_GT(populate.size(), 0u);
  const std::size_t held = budget.slab_bytes();
  EXPECT_GT(held, 23 * kSlot);
  EXPECT_LE(held, 23 * kSlot * 5 / 4 + kSlot + pool.slab_count() * 4096);
  EXPECT_FALSE(pool.GiveBack(~std::size_t{0}));  // jobs are about to touch those pages
  populate.RunAll();
  EXPECT_LE(Resident(pool), budget.slab_bytes());
  EXPECT_GT(pool.warm_slots(), 0u);
  pool.GiveBack(~std::size_t{0});
  EXPECT_EQ(budget.slab_bytes(), 23 * kSlot + pool.slab_count() * 4096);
}

protocol::MappedSegment MapAsClient(Slab& slab) {
  slab.NoteShared();
  const int fd = ::dup(slab.read_only_fd());
  auto mapped = protocol::MapSegment(fd, {.kind = protocol::SegmentKind::kSlab,
                                          .access = protocol::Access::kReadOnly,
                                          .bytes = slab.bytes(),
                                          .boot_token = 3,
                                          .identity = protocol::Digest{}});
  ::close(fd);
  EXPECT_TRUE(mapped.has_value()) << mapped.error().message;
  return *std::move(mapped);
}

TEST_F(PoolTest, MemoryGivenBackIsFreeAlthoughAClientMapsIt) {
  const SlotRef slot = pool.Allocate(kSlot).value();
  Write(slot);
  const std::shared_ptr<Slab> capability = pool.slab(0);  // as a client keeps it alive
  const protocol::MappedSegment mapped = MapAsClient(*capability);
  const int fd = ::dup(capability->read_only_fd());
  ASSERT_EQ(mapped.data()[4096 + 999], std::byte{0x4B});
  pool.Free(slot);
  pool.GiveBack(~std::size_t{0});
  EXPECT_EQ(pool.slab_count(), 0u);
  EXPECT_EQ(budget.slab_bytes(), 0u);
  EXPECT_GT(budget.metadata_bytes(), 0u);  // of the record that the capability keeps
  struct stat status {};
  ASSERT_EQ(::fstat(fd, &status), 0);
  EXPECT_EQ(status.st_blocks, 0);
  EXPECT_EQ(capability->read_only_fd(), -1);
  EXPECT_EQ(mapped.data()[4096 + 999], std::byte{0});  // no fault: the size has not changed
  ::close(fd);
}

TEST_F(PoolTest, PagesThatAClientMakesByTouchingHolesAreTakenAway) {
  const SlotRef slot = pool.Allocate(kSlot).value();
  Write(slot);
  const protocol::MappedSegment mapped = MapAsClient(*pool.slab(0));
  volatile std::byte sum{};
  for (std::size_t at = 0; at < mapped.size(); at += 4096) sum = sum | mapped.data()[at];
  EXPECT_GT(Resident(pool), budget.slab_bytes());
  pool.DropStrayPages();
  EXPECT_EQ(Resident(pool), budget.slab_bytes());
  EXPECT_EQ(mapped.data()[4096 + 999], std::byte{0x4B});  // what is held stays
}

/// Whatever the size of a slot and of the budget: allocation ends with a slot or a refusal, is refused only while there is
/// really no room, never exceeds the budget, and everything can be given back.
TEST(PoolPropertyTest, SlotsFrom64BytesTo64MiBFitOrAreRefused) {
  std::mt19937 random(20261125);
  for (std::uint64_t slot_bytes = 64; slot_bytes <= 64 * kMiB; slot_bytes = slot_bytes * 3 / 64 * 64 + 64) {
    const std::size_t least = BlockPool::LeastBytes(slot_bytes);
    for (const std::size_t limit : {least, least + 1, least + 4096, 2 * least, 7 * least}) {
      if (limit < Budget::kMinimumBytes) continue;
      Budget budget = Budget::Make(limit).value();
      QueueRunner populate;
      {
        BlockPool pool({.block_tokens = 16, .identity = {}, .boot_token = 3}, budget, populate);
        std::vector<SlotRef> slots;
        for (int step = 0; step < 3000; ++step) {
          if (random() % 3 != 0 || slots.empty()) {
            const Result<SlotRef> slot = pool.Allocate(slot_bytes);
            if (slot) {
              slots.push_back(*slot);
            } else {
              ASSERT_EQ(slot.error().code, ErrorCode::kStoreFull);
              ASSERT_LT(budget.available(), least) << slot_bytes << " in " << limit;
              ASSERT_FALSE(slots.empty()) << slot_bytes << " in " << limit;  // one fits by LeastBytes
            }
          } else {
            const std::size_t which = random() % slots.size();
            pool.Free(slots[which]);
            slots.erase(slots.begin() + static_cast<std::ptrdiff_t>(which));
          }
          if (random() % 64 == 0) pool.GiveBack(random() % (4 * slot_bytes));
          if (random() % 16 == 0) populate.RunAll();
          ASSERT_LE(budget.slab_bytes() + budget.metadata_bytes(), budget.limit());
          ASSERT_LE(Resident(pool), budget.slab_bytes());
        }
        for (const SlotRef slot : slots) pool.Free(slot);
        populate.RunAll();
        pool.GiveBack(~std::size_t{0});
        EXPECT_EQ(budget.slab_bytes(), 0u) << slot_bytes << " in " << limit;
      }
      EXPECT_EQ(budget.available(), budget.limit());
    }
  }
}

}  // namespace
}  // namespace kvant::daemon
