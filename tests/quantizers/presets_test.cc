#include "quantizers/presets.h"

#include <gtest/gtest.h>

#include <string>

#include "quantizers/plan.h"

namespace kvant::quantizers {
namespace {

StoreSpec SpecOf(std::string_view preset, std::uint32_t head_dim, ElementType dtype = ElementType::kBF16) {
  StoreSpec spec;
  spec.name = "presets";
  spec.model = "model";
  spec.tokenizer = "bytes";
  spec.layers = 2;
  spec.kv_heads = 2;
  spec.head_dim = head_dim;
  spec.dtype = dtype;
  spec.plan.keys = spec.plan.values = std::string(preset);
  return spec;
}

TEST(PresetsTest, WorkForEveryHeadSizeWithoutCalibration) {
  const Registry registry = Registry::Builtin();
  for (const Preset& preset : Presets()) {
    for (const std::uint32_t dim : {8u, 32u, 40u, 48u, 64u, 72u, 80u, 96u, 128u, 256u, 576u}) {
      const auto plan = Plan::Make(registry, SpecOf(preset.name, dim));
      ASSERT_TRUE(plan) << preset.name << " " << dim << ": " << plan.error().message;
      EXPECT_EQ((*plan)->canonical().find(preset.name), std::string::npos)
          << "plans spell codecs out: " << (*plan)->canonical();
      EXPECT_LE((*plan)->memory_bytes(), PlanBytes(registry, SpecOf(preset.name, dim)));
    }
  }
}

TEST(PresetsTest, TakeTheBitsThatTheyPromise) {
  const Registry registry = Registry::Builtin();
  const auto bits = [&](std::string_view preset, std::uint32_t dim) {
    const auto plan = std::move(Plan::Make(registry, SpecOf(preset, dim))).value();
    return (plan->bits_per_element(Side::kKeys) + plan->bits_per_element(Side::kValues)) / 2;
  };
  EXPECT_EQ(bits("exact", 64), 16.0);
  EXPECT_EQ(bits("hq", 64), 4.34375);
  EXPECT_EQ(bits("hq", 128), 4.21875);
  EXPECT_EQ(bits("balanced", 64), 3.34375);
  EXPECT_EQ(bits("balanced", 128), 3.21875);
  EXPECT_EQ(bits("small", 128), 2.71875);
  EXPECT_EQ(bits("tiny", 64), 2.34375);
  EXPECT_EQ(bits("tiny", 128), 2.21875);
}

TEST(PresetsTest, ExactIsWhatTheModelComputes) {
  for (const ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
    for (const Side side : {Side::kKeys, Side::kValues}) {
      EXPECT_EQ(ResolvePreset("exact", side, SpecOf("exact", 64, type)), ElementTypeName(type));
    }
  }
}

TEST(PresetsTest, AreLloydCodesWhereTrellisCodesDoNotServeTheHeadSize) {
  EXPECT_EQ(ResolvePreset("balanced", Side::kKeys, SpecOf("balanced", 48)), "turboquant_tcq:bits=3");
  EXPECT_EQ(ResolvePreset("balanced", Side::kKeys, SpecOf("balanced", 32)), "turboquant_mse:bits=3");
  EXPECT_EQ(ResolvePreset("tiny", Side::kValues, SpecOf("tiny", 72)), "turboquant_mse:bits=2");
}

TEST(PresetsTest, AnyOtherTextIsACodecSpec) {
  const StoreSpec spec = SpecOf("hq", 64);
  EXPECT_EQ(ResolvePreset("int8", Side::kKeys, spec), "int8");
  EXPECT_EQ(ResolvePreset("HQ", Side::kKeys, spec), "HQ");
  EXPECT_EQ(ResolvePreset("", Side::kKeys, spec), "");
}

TEST(PresetsTest, AnUnknownWordIsToldTheirNames) {
  const auto plan = Plan::Make(Registry::Builtin(), SpecOf("medium", 64));
  ASSERT_FALSE(plan);
  EXPECT_NE(plan.error().message.find("presets: exact, hq, balanced, small, tiny"), std::string::npos) << plan.error().message;
}

/// A preset's name and the codecs that it stands for are one plan, so stores made either way share blocks.
TEST(PresetsTest, NamesAndCodecsAreOnePlan) {
  const Registry registry = Registry::Builtin();
  StoreSpec spelled = SpecOf("balanced", 128);
  spelled.plan.keys = spelled.plan.values = "turboquant_tcq:bits=3";
  EXPECT_EQ(std::move(Plan::Make(registry, SpecOf("balanced", 128))).value()->canonical(),
            std::move(Plan::Make(registry, spelled)).value()->canonical());
}

}  // namespace
}  // namespace kvant::quantizers
