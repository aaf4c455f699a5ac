// Keys as models have them: far from the origin, with channels of another size, constant, zero. Codes of rotated or sketched
// rows keep their relative error on all of them, or refuse.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/quantizers/inner_products.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kSeed = 91;
constexpr std::size_t kDim = 128;

class HardKeysTest : public testing::TestWithParam<const char*> {
 protected:
  /// The error of blocks of `rows` (or of others like them), over rotations: within the declared error, which holds for the
  /// mean.
  void ExpectDeclaredError(const std::vector<float>& rows, const std::string& what) {
    Sample errors;
    const double declared = TurboQuant{.spec = GetParam()}.Declared(Side::kKeys);
    for (int b = 0; b < 60; ++b) {
      const TurboQuant made{.spec = GetParam(), .model = "model " + std::to_string(b)};
      errors.Add(RelativeError(rows, RoundTrip(*made.Keys(), 0, rows, kDim)));
    }
    EXPECT_LT(errors.mean(), 1.03 * declared + 4 * errors.standard_error()) << what << " seed " << kSeed;
  }

  std::mt19937 random_{kSeed};
};

TEST_P(HardKeysTest, BiasesOfAnyNorm) {
  for (const float norm : {0.0f, 22.0f, 605.0f, 921.0f}) {
    auto bias = NormalNumbers(kDim, random_);
    Normalise(bias.data(), kDim);
    auto rows = NormalNumbers(kRowsOfBlock * kDim, random_);
    for (std::size_t t = 0; t < kRowsOfBlock; ++t) {
      Normalise(&rows[t * kDim], kDim);
      for (std::size_t i = 0; i < kDim; ++i) rows[t * kDim + i] += norm * bias[i];
    }
    ExpectDeclaredError(rows, "bias of norm " + std::to_string(norm));
  }
}

TEST_P(HardKeysTest, OutlierChannelsAndSingleNumbers) {
  auto rows = NormalNumbers(kRowsOfBlock * kDim, random_);
  for (std::size_t t = 0; t < kRowsOfBlock; ++t) {
    rows[t * kDim + 5] *= 100.0f;
    rows[t * kDim + 77] += 60.0f;
  }
  ExpectDeclaredError(rows, "outlier channels");
  for (std::size_t t = 0; t < kRowsOfBlock; ++t) {
    for (std::size_t i = 0; i < kDim; ++i) rows[t * kDim + i] = i == t ? -3.0f : 0.0f;
  }
  ExpectDeclaredError(rows, "one number");
}

TEST_P(HardKeysTest, ConstantAndZeroRows) {
  std::vector<float> rows(kRowsOfBlock * kDim, 0.0f);
  for (std::size_t t = 0; t < kRowsOfBlock; t += 2) std::fill_n(&rows[t * kDim], kDim, 2.5f);
  ExpectDeclaredError(rows, "constant rows");
  const auto back = RoundTrip(*TurboQuant{.spec = GetParam()}.Keys(), 0, rows, kDim);
  for (std::size_t t = 1; t < kRowsOfBlock; t += 2) {
    for (std::size_t i = 0; i < kDim; ++i) ASSERT_EQ(back[t * kDim + i], 0.0f) << t;
  }
}

TEST_P(HardKeysTest, RowsBeyondTheScalesAreRefusedByTheirNumber) {
  const auto keys = TurboQuant{.spec = GetParam()}.Keys();
  auto rows = NormalNumbers(kRowsOfBlock * kDim, random_);
  rows[17 * kDim + 3] = 1e30f;
  AlignedBytes block(keys->block_bytes());
  const auto refused = EncodeBlock(*keys, 0, 0, RowsOf(rows, kDim), block.data());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNotFinite);
  EXPECT_NE(refused.error().message.find("row 17 of KV head 0"), std::string::npos) << refused.error().message;
}

INSTANTIATE_TEST_SUITE_P(Codecs, HardKeysTest,
                         testing::Values("turboquant_rvq:bits=1", "turboquant_rvq:bits=2",
                                         "turboquant_rvq:bits=2,velox_sigma=1", "rabitq:bits=1", "rabitq:bits=2,bound=1",
                                         "rabitq:bits=4", "qjl", "qjl:m=128", "qjl:m=128,sketch=gaussian",
                                         "turboquant_prod:bits=2", "turboquant_prod:bits=4",
                                         "turboquant_prod:bits=3,sketch=gaussian"),
                         [](const auto& codec) {
                           std::string name = codec.param;
                           for (char& c : name) c = c == ':' || c == '=' || c == ',' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace kvant::quantizers
