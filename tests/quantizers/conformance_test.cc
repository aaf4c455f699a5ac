#include "tests/quantizers/conformance.h"

#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

namespace kvant::quantizers {
namespace {

class ConformanceTest : public testing::TestWithParam<std::tuple<std::string, std::size_t>> {};

TEST_P(ConformanceTest, HoldsTheContract) {
  const auto& [spec, dim] = GetParam();
  // With a rope, for codecs that store keys before it.
  const test::ConformanceCase codec(Registry::Builtin(), spec, dim, RopeSpec{RopePairing::kHalfSplit, 10000.0, 0});
  if (!codec.supported()) GTEST_SKIP() << spec << " does not offer head_dim " << dim;
  codec.CheckAll();
}

std::string CaseName(const testing::TestParamInfo<ConformanceTest::ParamType>& param) {
  std::string name = std::get<0>(param.param) + "_d" + std::to_string(std::get<1>(param.param));
  for (char& c : name) c = c == ':' || c == '=' || c == ',' ? '_' : c;
  return name;
}

INSTANTIATE_TEST_SUITE_P(Registry, ConformanceTest,
                         testing::Combine(testing::ValuesIn(test::CoveringSpecs(Registry::Builtin())),
                                          testing::Values<std::size_t>(8, 64, 72, 80, 96, 128, 256)),
                         CaseName);

// Codes whose last bits may be dropped, beyond what a single parameter covers.
INSTANTIATE_TEST_SUITE_P(
    Planes, ConformanceTest,
    testing::Combine(testing::Values("turboquant_mse:bits=1,planes=1", "turboquant_mse:bits=2,planes=1",
                                     "turboquant_mse:bits=3,planes=1,gauge=none",
                                     "turboquant_mse:bits=5,planes=1,scale=norm_kept",
                                     "turboquant_mse:bits=6,planes=1,gauge=mean", "turboquant_mse:bits=7,planes=1,gauge=matrix",
                                     "turboquant_mse:bits=8,planes=1", "turboquant_mse:bits=8,planes=1,gauge=none,scale=norm"),
                     testing::Values<std::size_t>(64, 80, 128)),
    CaseName);

// T20: bits per element, side information included.
TEST(CodecSizesTest, RawAndInt8TakeExactlyTheirBits) {
  const Registry registry = Registry::Builtin();
  for (const std::size_t dim : {64, 80, 96, 128, 256}) {
    const auto d = static_cast<double>(dim);
    const std::pair<const char*, double> expected[] = {{"f32", 32}, {"f16", 16}, {"bf16", 16}, {"int8", 8 + 16 / d}};
    for (const auto& [spec, bits] : expected) {
      const test::ConformanceCase codec(registry, spec, dim, RopeSpec{});
      EXPECT_EQ(8.0 * static_cast<double>(codec.keys()->block_bytes()), bits * 16 * d) << spec;
      EXPECT_EQ(8.0 * static_cast<double>(codec.values()->block_bytes()), bits * 16 * d) << spec;
    }
  }
}

}  // namespace
}  // namespace kvant::quantizers
