// The yardsticks of the benchmarks: their formats, and their attention against plain loops in double. (Speeds are not tested.)
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <string>
#include <vector>

#include <hwy/highway.h>

#include "quantizers/attention/worker_team.h"
#include "tools/bench/peers/peer_calls.h"

namespace kvant::tools {

/// For test names: an address would change with every build.
static void PrintTo(const PeerFormat* format, std::ostream* out) { *out << format->name; }

namespace {

/// On every SIMD target that was compiled and that this machine has.
class PeerTest : public testing::TestWithParam<const PeerFormat*> {
 protected:
  template <typename Body>
  void OnEveryTarget(Body&& body) {
    for (std::int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left != 0; left &= left - 1) {
      const std::int64_t target = left & -left;
      SCOPED_TRACE(hwy::TargetName(target));
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().Update(target);
      body();
    }
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().DeInit();
  }
};

// Lengths that end within a chunk, at its end, and that are cut into several tasks per head.
TEST_P(PeerTest, AttentionIsThatOverTheDecodedRows) {
  const SampleRows rows = NormalSample(4 * kBlockTokens, 1);
  quantizers::WorkerTeam alone(0);
  quantizers::WorkerTeam pair(1, std::chrono::milliseconds(1));
  OnEveryTarget([&] {
    for (const std::size_t blocks : {1U, 4U, 5U, 33U}) {
      const std::size_t tokens = blocks * kBlockTokens;
      std::vector<std::byte> memory(PeerCacheBytes(*GetParam(), kKvHeads, tokens) + 4096);
      for (quantizers::WorkerTeam* team : {&alone, &pair}) {
        PeerCalls calls(*GetParam(), rows, tokens, *team, memory);
        const auto right = calls.Check();
        ASSERT_TRUE(right) << right.error().message;
        EXPECT_LT(right->error, 0.2);
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(All, PeerTest, testing::Values(&kF16Peer, &kQ40Peer),
                         [](const auto& peer) { return std::string(peer.param->name); });

// The layout as ggml documents it: a scale of largest / -8, code 0 for the largest, 8 for zero, low nibbles before high ones.
TEST(Q40PeerTest, BlocksHaveTheDocumentedLayout) {
  std::vector<float> row(kPeerDim, 0.0f);
  row[0] = 16.0f;   // block 0: scale -2
  row[1] = -14.0f;  // code 15
  row[17] = 2.0f;   // high nibble of byte 1: code 7
  std::vector<std::byte> encoded(kQ40Peer.row_bytes);
  ASSERT_EQ(encoded.size(), 72U);
  kQ40Peer.encode(row.data(), 1, encoded.data());
  const unsigned char expected[] = {0x00, 0xC0, 0x80, 0x7F, 0x88};  // -2 as f16, little endian
  EXPECT_EQ(std::memcmp(encoded.data(), expected, sizeof(expected)), 0);
  std::vector<float> decoded(kPeerDim);
  kQ40Peer.decode(encoded.data(), 1, decoded.data());
  EXPECT_EQ(decoded, row);
}

}  // namespace
}  // namespace kvant::tools
