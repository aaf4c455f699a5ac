// What making room costs. Stores that are not chosen must not be looked at, or a full budget with thousands of stores takes
// quadratic time.
#include <cstddef>
#include <cstdint>
#include <string>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "tests/daemon/core_support.h"
#include "tests/support/instructions.h"

namespace kvant::daemon {
namespace {

/// Six steps: two blocks, the pages of their slots, and the stores that held them, of so many stores with one block each.
std::uint64_t InstructionsToMakeRoom(std::size_t stores) {
  TestCore core(std::size_t{256} << 20);  // room for all
  const SequenceConfig config{.recent_tokens = 0, .max_step_tokens = 16, .client = "test", .label = ""};
  for (std::size_t i = 0; i < stores; ++i) {
    StoreSpec spec = SmallSpec("store" + std::to_string(i));
    spec.salt = std::to_string(i);
    spec.sink_tokens = 0;
    TestSequence sequence = TestSequence::Open(core.stores.Open(spec).value().store, {}, config);
    sequence.Advance(Tokens(16));
    core.encode.RunAll();
  }
  const auto make_room = [&core] {
    for (int step = 0; step < 6; ++step) core.core.make_room(1);
  };
  const std::uint64_t instructions = testing::CountInstructions(make_room);
  EXPECT_EQ(core.stores.Totals().blocks, stores);
  make_room();
  EXPECT_EQ(core.stores.Totals().blocks, stores - 2);
  EXPECT_EQ(core.stores.stores().size(), stores - 2);
  return instructions;
}

TEST(MakeRoomTest, CostsNoMoreWithThousandsOfStores) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "instructions of sanitizers are counted, too";
#endif
  rlimit descriptors{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &descriptors), 0);
  descriptors.rlim_cur = descriptors.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &descriptors), 0);
  const std::uint64_t few = InstructionsToMakeRoom(20);
  if (few == 0) GTEST_SKIP() << "this system lets no process trace another";
  // Trees of 11 levels instead of 5, a few instructions each; looking at every store once would be 20,000 more.
  const std::uint64_t many = InstructionsToMakeRoom(2000);
  EXPECT_LT(many, few + 10'000) << "with 20 stores: " << few;
}

}  // namespace
}  // namespace kvant::daemon
