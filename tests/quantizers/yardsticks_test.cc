#include "tests/quantizers/yardsticks.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/quantizers/conformance.h"
#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kTokens = 16;

std::unique_ptr<KeyCodec> Keys(const std::string& spec, std::uint32_t dim) {
  const CodecConfig config{.kv_heads = 1, .head_end = 1, .head_dim = dim, .block_tokens = kTokens, .model = "test"};
  return std::move(MakeKeys(test::RegistryWithYardsticks().Parse(spec).value(), config)).value();
}

TEST(YardsticksTest, HoldTheContract) {
  for (const char* spec : {"q8_0", "q4_0"}) {
    for (const std::size_t dim : {32, 64, 96, 128, 256}) {
      const test::ConformanceCase codec(test::RegistryWithYardsticks(), spec, dim, RopeSpec{});
      ASSERT_TRUE(codec.supported());
      codec.CheckAll();
    }
    EXPECT_FALSE(test::ConformanceCase(test::RegistryWithYardsticks(), spec, 80, RopeSpec{}).supported());
  }
}

TEST(YardsticksTest, TakeTheBitsOfGgmlsBlocks) {
  for (const std::uint32_t dim : {64u, 96u, 128u, 256u}) {
    EXPECT_EQ(Keys("q8_0", dim)->block_bytes(), kTokens * dim / 32 * 34);
    EXPECT_EQ(Keys("q4_0", dim)->block_bytes(), kTokens * dim / 32 * 18);
  }
}

/// The first 32 numbers' block.
template <std::size_t kBytes>
std::array<int, kBytes> FirstBlock(const std::string& spec, const std::vector<float>& group) {
  std::vector<float> rows(kTokens * 32, 1.0f);
  std::copy(group.begin(), group.end(), rows.begin());
  const auto keys = Keys(spec, 32);
  AlignedBytes block(keys->block_bytes());
  EncodeBlock(*keys, 0, 0, RowsOf(rows, 32), block.data()).value();
  std::array<int, kBytes> bytes;
  for (std::size_t i = 0; i < kBytes; ++i) bytes[i] = std::to_integer<int>(block.data()[i]);
  return bytes;
}

TEST(YardsticksTest, MakeGgmlsBytes) {
  // quantize_row_q4_0_ref and _q8_0_ref, worked out by hand: -4 is the largest magnitude, so d = 0.5 (f16 0x3800).
  std::vector<float> group(32, 0.0f);
  group[0] = -4.0f;  // code 0
  group[1] = 4.0f;   // 8 steps up: beyond 15, kept there
  group[2] = 0.25f;  // half a step: rounds up
  group[16] = 3.5f;  // code 15, in a high nibble
  const auto q4 = FirstBlock<18>("q4_0", group);
  EXPECT_EQ(q4[0], 0x00);
  EXPECT_EQ(q4[1], 0x38);
  EXPECT_EQ(q4[2], 0xF0);
  EXPECT_EQ(q4[3], 0x8F);
  EXPECT_EQ(q4[4], 0x89);
  EXPECT_EQ(q4[5], 0x88);
  // With d = 1 (f16 0x3C00): 127 steps.
  group.assign(32, 0.0f);
  group[0] = -127.0f;
  group[1] = 2.5f;  // halves go away from zero
  group[31] = 126.4f;
  const auto q8 = FirstBlock<34>("q8_0", group);
  EXPECT_EQ(q8[1], 0x3C);
  EXPECT_EQ(q8[2], 256 - 127);
  EXPECT_EQ(q8[3], 3);
  EXPECT_EQ(q8[33], 126);
}

}  // namespace
}  // namespace kvant::quantizers
