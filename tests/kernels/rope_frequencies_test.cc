// Frequencies against values of an independent program (tests/golden/make_rope.py), and what is refused.
#include "kernels/rope_frequencies.h"

#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace kvant::kernels {
namespace {

std::vector<double> Factors(const std::function<double(double)>& factor) {
  std::vector<double> factors(48);
  for (std::size_t p = 0; p < factors.size(); ++p) factors[p] = factor(static_cast<double>(p));
  return factors;
}

RopeLong Long(std::uint32_t context_tokens) {
  return {.factor = 32,
          .original_positions = 4096,
          .context_tokens = context_tokens,
          .short_factors = Factors([](double p) { return 1 + p / 64; }),
          .long_factors = Factors([](double p) { return 1 + p * p / 32; })};
}

struct Case {
  RopeSpec spec;
  std::uint32_t head_dim = 0;
};

/// By the names in the golden file. Most are those of a model in use.
std::map<std::string, Case> Cases() {
  const auto rope = [](double theta, RopeScaling scaling, std::uint32_t rotary_dims = 0) {
    return RopeSpec{RopePairing::kHalfSplit, theta, rotary_dims, std::move(scaling)};
  };
  RopeLong given = Long(131072);
  given.attention_factor = 1.25;
  // DeepSeek gives mscale 1 and mscale_all_dim 0.8 here; their quotient is the attention factor.
  const double deepseek = (0.1 * std::log(40.0) + 1) / (0.1 * 0.8 * std::log(40.0) + 1);
  return {
      {"none", {rope(10000, {}), 128}},
      {"partial", {rope(10000, {}, 32), 80}},
      {"linear", {rope(10000, RopeLinear{2.5}), 128}},
      {"dynamic_within", {rope(10000, RopeDynamic{2, 4096, 4096}), 128}},
      {"dynamic_beyond", {rope(10000, RopeDynamic{2, 4096, 16384}), 128}},
      {"llama3_8b", {rope(500000, RopeLlama3{8, 8192, 1, 4}), 128}},
      {"llama3_1b", {rope(500000, RopeLlama3{32, 8192, 1, 4}), 64}},
      {"yarn_qwen", {rope(1000000, RopeYarn{.factor = 4, .original_positions = 32768}), 128}},
      {"yarn_gpt_oss", {rope(150000, RopeYarn{.factor = 32, .original_positions = 4096, .truncate = false}), 64}},
      {"yarn_deepseek",
       {rope(10000, RopeYarn{.factor = 40, .original_positions = 4096, .attention_factor = deepseek}, 64), 192}},
      {"yarn_narrow",
       {rope(10000, RopeYarn{.factor = 2, .original_positions = 4096, .beta_fast = 4, .beta_slow = 4, .truncate = false}), 64}},
      {"long_short", {rope(10000, Long(4096)), 96}},
      {"long_long", {rope(10000, Long(131072)), 96}},
      {"long_given", {rope(10000, given), 96}},
  };
}

// pow and log err by at most a few units of the last place each (2^-53 relative); log(theta) of up to 14 multiplies what the
// exponent's rounding costs, and the ramps take a handful of operations more.
constexpr double kTolerance = 64 * std::numeric_limits<double>::epsilon();

TEST(RopeFrequenciesTest, MatchTheIndependentProgram) {
  std::ifstream file(KVANT_SOURCE_DIR "/tests/golden/rope_frequencies.txt");
  std::map<std::string, Case> cases = Cases();
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    double attention_factor = 0;
    words >> name >> attention_factor;
    ASSERT_TRUE(cases.contains(name)) << name;
    const auto computed = ComputeRopeFrequencies(cases[name].spec, cases[name].head_dim);
    ASSERT_TRUE(computed) << name << ": " << computed.error().message;
    EXPECT_NEAR(computed->attention_factor, attention_factor, kTolerance * attention_factor) << name;
    std::size_t p = 0;
    for (double radians = 0; words >> radians; ++p) {
      ASSERT_LT(p, computed->radians_per_token.size()) << name;
      EXPECT_NEAR(computed->radians_per_token[p], radians, kTolerance * radians) << name << " pair " << p;
    }
    EXPECT_EQ(p, computed->radians_per_token.size()) << name;
    cases.erase(name);
  }
  EXPECT_TRUE(cases.empty()) << cases.begin()->first << " is not in the golden file";
}

TEST(RopeFrequenciesTest, ModelsWithoutRotaryPositionsHaveNone) {
  const auto none = ComputeRopeFrequencies({}, 64);
  ASSERT_TRUE(none);
  EXPECT_TRUE(none->radians_per_token.empty());
  EXPECT_EQ(none->attention_factor, 1.0);
}

TEST(RopeFrequenciesTest, TheSameForBothPairings) {
  const auto half = ComputeRopeFrequencies({RopePairing::kHalfSplit, 10000.0, 0, {}}, 64).value();
  const auto adjacent = ComputeRopeFrequencies({RopePairing::kAdjacent, 10000.0, 0, {}}, 64).value();
  EXPECT_EQ(half.radians_per_token, adjacent.radians_per_token);
}

TEST(RopeFrequenciesTest, WhatIsInconsistentIsRefusedByName) {
  const double nan = std::nan("");
  const double infinity = std::numeric_limits<double>::infinity();
  const auto refused = [](const RopeSpec& spec, const std::string& what, std::uint32_t head_dim = 96) {
    const auto computed = ComputeRopeFrequencies(spec, head_dim);
    ASSERT_FALSE(computed) << what;
    EXPECT_EQ(computed.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(computed.error().message.find(what), std::string::npos) << computed.error().message;
  };
  const auto scaled = [](RopeScaling scaling, double theta = 10000) {
    return RopeSpec{RopePairing::kAdjacent, theta, 0, std::move(scaling)};
  };
  refused({static_cast<RopePairing>(5), 10000, 0, {}}, "rope.pairing 5");
  refused({RopePairing::kNone, 10000, 0, RopeLinear{2}}, "rope.scaling");
  for (const double theta : {0.0, 0.5, -1.0, nan, infinity}) refused(scaled({}, theta), "rope.theta");
  refused({RopePairing::kAdjacent, 10000, 7, {}}, "rope.rotary_dims 7");
  refused({RopePairing::kAdjacent, 10000, 98, {}}, "rope.rotary_dims 98");
  refused({RopePairing::kAdjacent, 10000, 0, {}}, "rope.rotary_dims 0", 0);
  refused({RopePairing::kAdjacent, 10000, 0, {}}, "rope.rotary_dims 4000000000", 4'000'000'000);
  for (const double factor : {0.0, 0.99, -2.0, nan, infinity, 2e6}) {
    refused(scaled(RopeLinear{factor}), "rope.factor");
    refused(scaled(RopeDynamic{factor, 1, 1}), "rope.factor");
    refused(scaled(RopeYarn{.factor = factor, .original_positions = 1}), "rope.factor");
    refused(scaled(RopeLlama3{factor, 1}), "rope.factor");
    RopeLong longrope = Long(1);
    longrope.factor = factor;
    refused(scaled(longrope), "rope.factor");
  }
  refused(scaled(RopeDynamic{2, 0, 1}), "rope.original_positions 0");
  refused(scaled(RopeDynamic{2, 1, 0}), "rope.context_tokens 0");
  refused({RopePairing::kAdjacent, 10000, 2, RopeDynamic{2, 1, 1}}, "rope.rotary_dims 2 is not at least 4");
  refused(scaled(RopeYarn{.factor = 2}), "rope.original_positions 0");
  refused(scaled(RopeYarn{.factor = 2, .original_positions = 1, .beta_slow = 0}), "rope.beta_slow 0");
  refused(scaled(RopeYarn{.factor = 2, .original_positions = 1, .beta_fast = 1, .beta_slow = 2}), "rope.beta_fast 1");
  refused(scaled(RopeYarn{.factor = 2, .original_positions = 1, .beta_fast = nan}), "rope.beta_fast nan");
  refused(scaled(RopeYarn{.factor = 2, .original_positions = 1, .attention_factor = -1}), "rope.attention_factor -1");
  refused(scaled(RopeYarn{.factor = 2, .original_positions = 1}, 1.0), "rope.theta 1");
  refused(scaled(RopeLlama3{2, 0}), "rope.original_positions 0");
  refused(scaled(RopeLlama3{2, 1, 0, 4}), "rope.low_freq_factor 0");
  refused(scaled(RopeLlama3{2, 1, 4, 4}), "rope.high_freq_factor 4 is not above rope.low_freq_factor 4");
  refused(scaled(RopeLong{.factor = 2, .original_positions = 4, .context_tokens = 4}), "rope.short_factors of 0 entries");
  RopeLong longrope = Long(1);
  longrope.long_factors.pop_back();
  refused(scaled(longrope), "rope.long_factors of 47 entries is not one for each of 48 pairs");
  for (const double factor : {0.0, -1.0, nan, infinity, 0.01}) {
    longrope = Long(1);
    longrope.short_factors[7] = factor;
    refused(scaled(longrope), "rope.short_factors[7]");
  }
  longrope = Long(1);
  longrope.original_positions = 1;
  refused(scaled(longrope), "rope.original_positions 1");
}

}  // namespace
}  // namespace kvant::kernels
