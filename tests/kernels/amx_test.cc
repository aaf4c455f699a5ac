#include "kernels/machine/amx.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/query.h"
#include "kernels/lloyd/score.h"
#include "kernels/machine/amx_state.h"
#include "kernels/machine/instructions.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

/// Scores 16 queries of zeros, which is work for tiles.
void ScoreSomething() {
  constexpr std::size_t kDim = 64, kTokens = 64;
  GuardedBytes block(LloydBlockBytes(2, kDim, kTokens)), prepared(LloydQueryBatchBytes(2, kDim));
  GuardedBytes scratch(ByteScoreScratchBytes(16, kDim));
  std::vector<float> logits(16 * kTokens);
  LloydScore(*FindLloydTable(2),
             {kDim, kTokens, block.raw(), prepared.raw(), 16, logits.data(), kTokens, scratch.raw(), nullptr, 0});
}

TEST(AmxTest, AProcessorThatHasTilesUsesThemUnlessForbidden) {
  std::stringstream cpuinfo;
  cpuinfo << std::ifstream("/proc/cpuinfo").rdbuf();
  if (cpuinfo.str().find(" amx_int8") == std::string::npos) {
    EXPECT_FALSE(UsesTiles());
    return;
  }
  if (!UsesTiles()) GTEST_SKIP() << "the system does not grant this process the state of tiles";
  AllowTiles(false);
  EXPECT_FALSE(UsesTiles());
  EXPECT_EQ(Instructions().find("AMX"), std::string::npos);
  AllowTiles(true);
  EXPECT_TRUE(UsesTiles());
  EXPECT_TRUE(Instructions().ends_with("+AMX")) << Instructions();
}

TEST(AmxDeathTest, TheEnvironmentCanForgoTiles) {
#if !defined(__x86_64__)
  GTEST_SKIP() << "no tiles, and an emulator cannot begin the test's program anew";
#endif
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a fresh process: the choice is made once
  ASSERT_EQ(::setenv("KVANT_AMX", "0", 1), 0);
  EXPECT_EXIT(std::_Exit(UsesTiles() ? 1 : 0), testing::ExitedWithCode(0), "");
  ASSERT_EQ(::unsetenv("KVANT_AMX"), 0);
}

TEST(AmxTest, RegistersAreReleasedWithTheLastScope) {
  if (!UsesTiles()) GTEST_SKIP() << "no tiles";
  ScoreSomething();
  EXPECT_FALSE(tile_state.ready);
  {
    const TileScope outer;
    ScoreSomething();
    EXPECT_TRUE(tile_state.ready);
    std::thread([] { EXPECT_FALSE(tile_state.ready) << "registers are a thread's own"; }).join();
    { const TileScope inner; }
    EXPECT_TRUE(tile_state.ready);
  }
  EXPECT_FALSE(tile_state.ready);
}

}  // namespace
}  // namespace kvant::kernels
