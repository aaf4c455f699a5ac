// What form() says is enough to read a block without the codec, as a kernel elsewhere would.
#include "quantizers/code_form.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/lloyd/layout.h"
#include "kernels/trellis/code.h"
#include "kernels/ufloat16.h"
#include "quantizers/registry.h"
#include "tools/codec_calls.h"
#include "tools/codec_specs.h"

namespace kvant::quantizers {
namespace {

constexpr std::size_t kDim = 80;
constexpr std::size_t kTokens = 128;

/// Rows of a block of scalar codes by nothing but its form; in the rotated space if the form says so.
std::vector<double> ReadByForm(const CodeForm& form, const std::byte* block) {
  const auto layout = form.order == CodeOrder::kKeyTiles ? kernels::LloydLayout::kKeys : kernels::LloydLayout::kValues;
  std::vector<double> rows(kTokens * kDim);
  for (std::size_t t = 0; t < kTokens; ++t) {
    std::uint16_t scale = 0;
    std::memcpy(&scale, block + form.scale_offset + t * sizeof(scale), sizeof(scale));
    for (std::size_t k = 0; k < kDim; ++k) {
      const bool trellis = form.family == CodeFamily::kTrellis;
      const auto code = static_cast<int>((trellis ? kernels::TrellisLevelAt : kernels::LloydIndexAt)(
          layout, form.bits, kDim, kTokens, reinterpret_cast<const std::uint8_t*>(block), t, k));
      const int half = 1 << (trellis ? form.bits : form.bits - 1);
      int level = code + form.first_level;
      if (form.magnitudes != nullptr) {
        level = code >= half ? form.magnitudes[code - half] : -form.magnitudes[half - 1 - code];
      }
      rows[t * kDim + k] = level * static_cast<double>(kernels::Ufloat16ToFloat(scale)) / static_cast<double>(form.level_unit);
    }
  }
  return rows;
}

TEST(CodeFormTest, ScalarCodesReadBackAsTheyDecode) {
  const Registry registry = Registry::Builtin();
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  std::vector<float> rows(kTokens * kDim);
  for (float& x : rows) x = normal(random);
  std::size_t checked = 0;
  for (const std::string& spec : std::vector<std::string>{
           "int8", "turboquant_mse:bits=1,gauge=none", "turboquant_mse:bits=2,gauge=none", "turboquant_mse:bits=3,gauge=none",
           "turboquant_mse:bits=4,gauge=none", "turboquant_mse:bits=8,gauge=none", "turboquant_tcq:bits=1,gauge=none",
           "turboquant_tcq:bits=3,gauge=none", "turboquant_tcq:bits=4,gauge=none"}) {
    for (const Side side : {Side::kKeys, Side::kValues}) {
      const auto codec = std::move(tools::MakeCodec(registry, spec, side, kDim, kTokens)).value();
      const CodeForm form = codec->form();
      SCOPED_TRACE(spec + (side == Side::kKeys ? " keys" : " values"));
      ASSERT_EQ(form.family, spec.starts_with("turboquant_tcq") ? CodeFamily::kTrellis : CodeFamily::kScalar);
      ASSERT_EQ(form.scale_format, ScaleFormat::kUfloat16);
      EXPECT_EQ(form.order, side == Side::kKeys ? CodeOrder::kKeyTiles : CodeOrder::kValueTiles);
      EXPECT_EQ(form.rotated, spec != "int8");
      tools::AlignedBytes block(codec->block_bytes());
      ASSERT_TRUE(tools::EncodeBlock(*codec, 0, 0, {rows.data(), ElementType::kF32, kTokens, kDim, kDim}, block.data()));
      std::vector<float> decoded(rows.size());
      tools::DecodeBlock(*codec, 0, 0, block.data(), 0, kTokens, decoded.data(), kDim);
      const std::vector<double> read = ReadByForm(form, block.data());
      // A rotation keeps the products of rows with each other; without one the numbers themselves are equal.
      for (std::size_t a = 0; a < 8; ++a) {
        for (std::size_t b = 0; b < kTokens; ++b) {
          double by_form = 0, by_codec = 0;
          for (std::size_t k = 0; k < kDim; ++k) {
            by_form += read[a * kDim + k] * read[b * kDim + k];
            by_codec += static_cast<double>(decoded[a * kDim + k]) * static_cast<double>(decoded[b * kDim + k]);
          }
          ASSERT_NEAR(by_form, by_codec, 1e-5 * kDim) << a << " " << b;
        }
      }
      for (std::size_t i = 0; !form.rotated && i < read.size(); ++i)
        ASSERT_NEAR(read[i], static_cast<double>(decoded[i]), 1e-6);
      ++checked;
    }
  }
  EXPECT_EQ(checked, 18u);
}

TEST(CodeFormTest, RawRowsSayTheirWidth) {
  const Registry registry = Registry::Builtin();
  for (const auto& [spec, bits] : {std::pair{"f32", 32}, {"f16", 16}, {"bf16", 16}}) {
    const CodeForm form = std::move(tools::MakeCodec(registry, spec, Side::kKeys, kDim, kTokens)).value()->form();
    EXPECT_EQ(form.family, CodeFamily::kRaw);
    EXPECT_EQ(form.order, CodeOrder::kRows);
    EXPECT_EQ(form.bits, bits);
    EXPECT_EQ(form.scale_format, ScaleFormat::kNone);
  }
}

}  // namespace
}  // namespace kvant::quantizers
