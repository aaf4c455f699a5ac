#include "quantizers/rotation.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <vector>

namespace kvant::quantizers {
namespace {

TEST(RotationSeedTest, DependsOnEveryFieldOfTheKeyAndOnNothingElse) {
  const RotationKey key{"turboquant_mse", 1, "model", 3, 2, Side::kKeys};
  const std::uint64_t seed = RotationSeed(key);
  EXPECT_EQ(RotationSeed(key), seed);
  std::set<std::uint64_t> seeds = {seed};
  RotationKey other = key;
  other.codec = "turboquant_prod";
  EXPECT_TRUE(seeds.insert(RotationSeed(other)).second);
  other = key;
  other.version = 2;
  EXPECT_TRUE(seeds.insert(RotationSeed(other)).second);
  other = key;
  other.model = "model2";
  EXPECT_TRUE(seeds.insert(RotationSeed(other)).second);
  other = key;
  other.layer = 4;
  EXPECT_TRUE(seeds.insert(RotationSeed(other)).second);
  other = key;
  other.kv_head = 1;
  EXPECT_TRUE(seeds.insert(RotationSeed(other)).second);
  other = key;  // exchanged
  other.layer = 2;
  other.kv_head = 3;
  EXPECT_TRUE(seeds.insert(RotationSeed(other)).second);
  other = key;
  other.side = Side::kValues;
  EXPECT_TRUE(seeds.insert(RotationSeed(other)).second);
}

// Stored codes depend on these: the number comes from the Python xxhash package.
TEST(RotationSeedTest, IsPinned) {
  EXPECT_EQ(RotationSeed({"turboquant_mse", 1, "golden", 0, 0, Side::kKeys}), 0xC79F29B110BA3363u);
}

TEST(RotationTest, SignsAreTheBitsOfSplitMix64LowestFirst) {
  // First two outputs of splitmix64 from state 0, as published with the generator.
  const std::uint64_t words[2] = {0xE220A8397B1DCDAFu, 0x6E789E6AA1B965F4u};
  const Rotation rotation(128, 1, 0);
  for (std::size_t i = 0; i < 128; ++i) {
    EXPECT_EQ(rotation.signs()[i], (words[i / 64] >> (i % 64) & 1u) != 0 ? 0x80000000u : 0u) << i;
  }
}

TEST(RotationTest, OtherSizesTakeTwoSignSequencesPerRound) {
  EXPECT_EQ(Rotation(72, 3, 1).shape().sign_words(3), 6u * 72u);
  EXPECT_EQ(Rotation(80, 3, 1).shape().sign_words(3), 3u * 80u);
}

}  // namespace
}  // namespace kvant::quantizers
