// Rows as models have them and theory does not: far from the origin, with channels or tokens of another size, constant, zero.
// Every codec of the registry, at every allowed parameter and behind every gauge, keeps the error that it declares, in
// proportion to what it codes, or refuses the row by its number.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/quantizers/conformance.h"
#include "tests/quantizers/conformance_calls.h"
#include "tests/quantizers/inner_products.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kRandom = 91;
constexpr std::size_t kDim = 128;
constexpr std::size_t kTokens = 128;
constexpr std::uint32_t kHeads = 3;
constexpr int kModels = 6;  // each has rotations of its own

struct HardRows {
  std::string what;
  std::vector<float> rows;
};

/// Unit rows, changed by change(row, channel, number).
template <typename Change>
HardRows Changed(std::string what, Change change) {
  std::mt19937 random(kRandom);
  HardRows hard{std::move(what), NormalNumbers(kTokens * kDim, random)};
  for (std::size_t t = 0; t < kTokens; ++t) Normalise(&hard.rows[t * kDim], kDim);
  for (std::size_t i = 0; i < hard.rows.size(); ++i) hard.rows[i] = change(i / kDim, i % kDim, hard.rows[i]);
  return hard;
}

/// The norms of the biases are those of the key projections of Qwen2.5 models.
std::vector<HardRows> AllHardRows() {
  std::mt19937 random(kRandom + 1);
  std::vector<float> bias = NormalNumbers(kDim, random);
  Normalise(bias.data(), kDim);
  std::vector<HardRows> all;
  for (const float norm : {0.0F, 22.0F, 605.0F, 921.0F}) {
    all.push_back(Changed("bias of norm " + std::to_string(static_cast<int>(norm)),
                          [&](std::size_t, std::size_t i, float x) { return x + norm * bias[i]; }));
  }
  all.push_back(Changed("bias in one channel", [](std::size_t, std::size_t i, float x) { return i == 5 ? x + 921 : x; }));
  all.push_back(Changed("outlier channels", [](std::size_t, std::size_t i, float x) {
    return i == 5 ? 100 * x : i == 77 ? x + 5 : x;
  }));
  all.push_back(Changed("one number", [](std::size_t t, std::size_t i, float) { return i == t ? -3.0F : 0.0F; }));
  all.push_back(Changed("sinks", [](std::size_t t, std::size_t i, float x) {
    return t >= 4 ? x : i == 9 ? 300.0F : i == 70 ? -120.0F : x;
  }));
  all.push_back(Changed("constant rows and zeros", [](std::size_t t, std::size_t, float) { return t % 2 == 0 ? 2.5F : 0.0F; }));
  all.push_back(Changed("one row among zeros", [](std::size_t t, std::size_t, float x) { return t == 3 ? x : 0.0F; }));
  all.push_back({"equal rows", all.front().rows});
  for (std::size_t t = 1; t < kTokens; ++t) std::copy_n(all.back().rows.begin(), kDim, &all.back().rows[t * kDim]);
  return all;
}

/// Of a block's rows |x - o|^2, o what the codec takes off before it codes: its calibrated mean, the block's own, or nothing.
double Coded(const BlockCodec& codec, const std::vector<float>& calibrated, const std::vector<float>& rows) {
  std::vector<double> origin(calibrated.begin(), calibrated.end());
  if (codec.form().mean_offset != 0) {
    std::ranges::fill(origin, 0.0);
    for (std::size_t i = 0; i < rows.size(); ++i) origin[i % kDim] += static_cast<double>(rows[i]) / kTokens;
  }
  double sum = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) sum += std::pow(static_cast<double>(rows[i]) - origin[i % kDim], 2);
  return sum;
}

/// The share of that which a codec may lose, by what it says of itself; infinity where it says nothing.
double MostLost(const BlockCodec& codec, const Example& example) {
  const auto declared = codec.expected_error(codec.parts());
  if (!declared) return std::numeric_limits<double>::infinity();
  double least = 1, most = 1;
  for (const ExampleTensor& tensor : example.tensors) {
    // Directions that the calibration saw little of may be lost, and no row is made worse than nothing.
    if (tensor.name.ends_with("deviation")) return std::max(1.0, *declared);
    if (!tensor.name.ends_with("smooth")) continue;
    least = static_cast<double>(*std::ranges::min_element(tensor.values));
    most = static_cast<double>(*std::ranges::max_element(tensor.values));
  }
  const CodeForm form = codec.form();
  // A rotation spreads the error evenly; factors behind it may all stand where the row is not.
  if (form.rotated) return *declared * std::pow(most / least, 2);
  // A scale by the largest number m, |x| >= m, leaves every number at most half of a step of m / (2^(bits - 1) - 1).
  if (form.family == CodeFamily::kScalar && form.bits == 8) return static_cast<double>(kDim) / std::pow(254.0, 2);
  // Numbers rounded by themselves are at most half a unit of the last place off, squared six times its mean. Those of a group
  // are at most half a step of its range R off, squared three times its mean, and two of them alone are R apart: their square
  // is at least R^2 / 2, a ninth of that of 128 normal numbers.
  return 27 * *declared;
}

class HardRowsTest : public testing::TestWithParam<std::string> {
 protected:
  template <typename Make>
  void Check(Side side, Make make) {
    const Registry registry = Registry::Builtin();
    const ParsedSpec parsed = registry.Parse(GetParam()).value();
    const auto image = test::ExampleArtifact(registry, GetParam(), kHeads, kDim);
    std::unique_ptr<const Artifact> artifact;
    if (!image.empty()) artifact = std::move(Artifact::Make(image)).value();
    CodecConfig config{.side = side,
                       .kv_heads = kHeads,
                       .head_end = kHeads,
                       .head_dim = kDim,
                       .block_tokens = kTokens,
                       .model = "model",
                       .rope = RopeSpec{RopePairing::kHalfSplit, 10000.0, 0},
                       .artifact = artifact.get(),
                       .registry = &registry};
    const Example example = ExampleOf(parsed, config);
    std::vector<float> calibrated(kDim);
    if (!example.mean.empty()) std::copy_n(example.mean.begin() + test::kHead * kDim, kDim, calibrated.begin());
    const std::vector<HardRows> all = AllHardRows();
    std::vector<Sample> lost(all.size());
    double most = 0;
    for (int m = 0; m < kModels && (m == 0 || std::isfinite(most)); ++m) {
      const std::string model = "model " + std::to_string(m);
      config.model = model;
      const auto made = make(parsed, config);
      if (!made) {
        EXPECT_EQ(made.error().code, ErrorCode::kUnsupported) << made.error().message;
        GTEST_SKIP() << made.error().message;
      }
      const BlockCodec& codec = **made;
      most = MostLost(codec, example);
      for (std::size_t c = 0; c < all.size(); ++c) lost[c].Add(Lost(codec, calibrated, all[c]));
    }
    for (std::size_t c = 0; c < all.size(); ++c) {
      const double spread = std::sqrt(std::max(0.0, lost[c].variance()) / static_cast<double>(lost[c].n));
      EXPECT_LE(lost[c].mean(), 1.03 * most + 4 * spread) << all[c].what << " seed " << kRandom;
    }
  }

  /// What reading back loses of what is coded. What rounding a mean or a scale to 16 bits changes is not counted.
  static double Lost(const BlockCodec& codec, const std::vector<float>& calibrated, const HardRows& hard) {
    test::Block block(codec);
    const auto stored = test::Encode(codec, 0, test::View(hard.rows, kDim), block);
    if (!stored) {
      EXPECT_EQ(stored.error().code, ErrorCode::kNotFinite) << hard.what;
      EXPECT_NE(stored.error().message.find("row "), std::string::npos) << stored.error().message;
      return 0;
    }
    std::vector<float> back(hard.rows.size());
    test::DecodeInto(codec, 0, block.first(codec.parts()), {.begin = 0, .end = kTokens, .row_stride = kDim}, back.data());
    double error = 0, square = 0;
    for (std::size_t i = 0; i < back.size(); ++i) {
      EXPECT_TRUE(std::isfinite(back[i])) << hard.what;
      error += std::pow(static_cast<double>(hard.rows[i]) - back[i], 2);
      square += std::pow(static_cast<double>(hard.rows[i]), 2);
    }
    if (codec.traits().exact_zero && codec.traits().rows_alone) {
      for (std::size_t t = 0; t < kTokens; ++t) {
        const auto zero = [](float x) { return x == 0.0F; };
        const auto *row = &hard.rows[t * kDim], *read = &back[t * kDim];
        if (!std::all_of(row, row + kDim, zero)) continue;
        EXPECT_TRUE(std::all_of(read, read + kDim, zero)) << hard.what << " row " << t;
      }
    }
    const double coded = Coded(codec, calibrated, hard.rows);
    return std::max(0.0, error - square * 0x1p-21) / std::max(coded, square * 0x1p-40);
  }
};

TEST_P(HardRowsTest, KeysKeepTheDeclaredError) {
  if (Registry::Builtin().Parse(GetParam()).value().codec->make_keys == nullptr) GTEST_SKIP() << "of values alone";
  Check(Side::kKeys, [](const ParsedSpec& spec, const CodecConfig& config) { return MakeKeys(spec, config); });
}

TEST_P(HardRowsTest, ValuesKeepTheDeclaredError) {
  if (Registry::Builtin().Parse(GetParam()).value().codec->make_values == nullptr) GTEST_SKIP() << "of keys alone";
  Check(Side::kValues, [](const ParsedSpec& spec, const CodecConfig& config) { return MakeValues(spec, config); });
}

std::vector<std::string> AllSpecs() {
  std::vector<std::string> specs = test::CoveringSpecs(Registry::Builtin());
  for (const char* kind : {"mean", "block", "channels", "matrix", "pair", "bias"}) {
    for (const char* codes : {"turboquant_mse:bits=3,gauge=none", "gaussian_vq", "kivi:bits=2", "rabitq:bits=1", "f16"}) {
      specs.push_back("gauge:kind=" + std::string(kind) + ",codes=(" + codes + ")");
    }
  }
  specs.insert(specs.end(),
               {"outlier:hot=(f16),rest=(kivi:bits=2)", "outlier:channels=16,rest=(turboquant_mse:bits=2,gauge=none)",
                "gauge:kind=bias,codes=(turboquant_mse:bits=3,gauge=mean)"});
  return specs;
}

INSTANTIATE_TEST_SUITE_P(Registry, HardRowsTest, testing::ValuesIn(AllSpecs()), [](const auto& spec) {
  std::string name = spec.param;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
});

}  // namespace
}  // namespace kvant::quantizers
