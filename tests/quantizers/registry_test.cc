#include "quantizers/registry.h"

#include <set>
#include <string>

#include <gtest/gtest.h>

namespace kvant::quantizers {
namespace {

constexpr std::int64_t kSteps[] = {1, 4, 9};
constexpr ParamSpec kParams[] = {
    {.name = "bits", .default_value = "4", .meaning = "bits", .min = 1, .max = 9, .allowed = kSteps},
    {.name = "shift", .default_value = "0", .meaning = "shift", .min = -3, .max = 3}};
const Codec kSample{.name = "sample", .version = 7, .summary = "for tests", .params = kParams};

Registry WithSample() {
  Registry registry = Registry::Builtin();
  EXPECT_TRUE(registry.Add(kSample));
  return registry;
}

TEST(RegistryTest, NamesAreUniqueAndDescribed) {
  const Registry registry = Registry::Builtin();
  std::set<std::string_view> names;
  for (const Codec* codec : registry.codecs()) {
    EXPECT_TRUE(names.insert(codec->name).second) << codec->name;
    EXPECT_FALSE(codec->summary.empty()) << codec->name;
    EXPECT_TRUE(codec->make_keys != nullptr || codec->make_values != nullptr) << codec->name;
    for (const char c : codec->name) EXPECT_TRUE((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_') << codec->name;
  }
  // Names are stored and sent: taking one away breaks stores.
  for (const char* name : {"f32", "f16", "bf16", "int8", "turboquant_mse"}) EXPECT_TRUE(names.contains(name)) << name;
}

TEST(RegistryTest, ParsesParametersInAnyOrderAndSpellsThemOut) {
  const Registry registry = WithSample();
  const auto canonical = [&](const char* spec) {
    const auto parsed = registry.Parse(spec);
    return parsed ? parsed->Canonical() : parsed.error().message;
  };
  EXPECT_EQ(canonical("sample"), "sample@7:bits=4,shift=0");
  EXPECT_EQ(canonical("sample:bits=9"), "sample@7:bits=9,shift=0");
  EXPECT_EQ(canonical("sample:shift=-3,bits=1"), "sample@7:bits=1,shift=-3");
  EXPECT_EQ(canonical("f32"), "f32@1");
}

TEST(RegistryTest, ErrorsNameCodecParameterValueAndWhatIsAllowed) {
  const Registry registry = WithSample();
  const auto refused = [&](const std::string& spec, std::initializer_list<const char*> parts) {
    const auto parsed = registry.Parse(spec);
    ASSERT_FALSE(parsed) << spec;
    EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument);
    for (const char* part : parts)
      EXPECT_NE(parsed.error().message.find(part), std::string::npos) << spec << ": " << parsed.error().message;
  };
  refused("", {"unknown codec \"\"", "f32", "sample"});
  refused("int3", {"unknown codec \"int3\"", "int8"});
  refused("sample:", {"sample", "not of the form"});
  refused("sample:bits", {"sample", "\"bits\""});
  refused("sample:depth=2", {"sample", "\"depth\"", "bits, shift"});
  refused("f16:bits=2", {"f16", "\"bits\"", "none"});
  refused("sample:bits=5", {"sample", "bits=5", "1, 4, 9"});
  refused("sample:shift=4", {"sample", "shift=4", "-3..3"});
  refused("sample:shift=two", {"sample", "shift=two"});
  refused("sample:shift=1x", {"shift=1x"});
  refused("sample:shift=", {"shift="});
  refused("sample:shift=99999999999999999999", {"shift=99999999999999999999"});
  refused("sample:bits=4,bits=4", {"sample", "bits", "twice"});
  refused("sample:bits=4,", {"sample", "not of the form"});
}

TEST(RegistryTest, AVersionOfANameIsTakenOnce) {
  Registry registry = WithSample();
  const auto again = registry.Add(kSample);
  ASSERT_FALSE(again);
  EXPECT_NE(again.error().message.find("version 7 of codec sample"), std::string::npos) << again.error().message;
}

constexpr std::string_view kModes[] = {"soft", "hard"};
constexpr ParamSpec kWrapperParams[] = {
    {.name = "share", .kind = ParamKind::kNumber, .default_value = "0.25", .meaning = "share", .min = 0, .max = 1},
    {.name = "mode", .kind = ParamKind::kChoice, .default_value = "hard", .meaning = "mode", .choices = kModes},
    {.name = "inner", .kind = ParamKind::kSpec, .default_value = "sample:bits=9", .meaning = "inner"},
};
const Codec kWrapper{.name = "wrapper", .version = 2, .summary = "for tests", .params = kWrapperParams};
const Codec kOldSample{.name = "sample", .version = 3, .summary = "for tests", .params = kParams};

Registry WithWrapper() {
  Registry registry = WithSample();
  EXPECT_TRUE(registry.Add(kWrapper));
  EXPECT_TRUE(registry.Add(kOldSample));
  return registry;
}

bool Same(const ParsedSpec& a, const ParsedSpec& b) {
  if (a.codec != b.codec || a.params.size() != b.params.size()) return false;
  for (std::size_t i = 0; i < a.params.size(); ++i) {
    const bool nested = a.codec->params[i].kind == ParamKind::kSpec;
    if (nested ? !Same(Params(a.params).Spec(i), Params(b.params).Spec(i)) : a.params[i] != b.params[i]) return false;
  }
  return true;
}

TEST(RegistryTest, ACanonicalSpecReadsBackToTheSame) {
  const Registry registry = WithWrapper();
  for (const char* spec :
       {"f32", "sample@3", "sample:shift=-3", "wrapper", "wrapper:share=0.1,mode=soft", "wrapper:share=1e-300",
        "wrapper:inner=(f16)", "wrapper@2:inner=(wrapper:inner=(sample@3:bits=1),mode=soft),share=0.3333333333333333"}) {
    const auto parsed = registry.Parse(spec);
    ASSERT_TRUE(parsed) << parsed.error().message;
    const auto again = registry.Parse(parsed->Canonical());
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_TRUE(Same(*parsed, *again)) << parsed->Canonical();
    EXPECT_EQ(parsed->Canonical(), again->Canonical());
  }
  EXPECT_EQ(registry.Parse("wrapper:mode=soft")->Canonical(), "wrapper@2:share=0.25,mode=soft,inner=(sample@7:bits=9,shift=0)");
}

TEST(RegistryTest, FindsOldVersionsAndTakesTheNewestOtherwise) {
  const Registry registry = WithWrapper();
  EXPECT_EQ(registry.Parse("sample")->codec, &kSample);
  EXPECT_EQ(registry.Parse("sample@7")->codec, &kSample);
  EXPECT_EQ(registry.Parse("sample@3:bits=1")->codec, &kOldSample);
  const auto unknown = registry.Parse("sample@4");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().message, "codec sample: version \"4\" is unknown (known: 7, 3)");
}

TEST(RegistryTest, ErrorsOfNestedSpecsSayWhere) {
  const Registry registry = WithWrapper();
  const auto message = [&](const std::string& spec) {
    const auto parsed = registry.Parse(spec);
    return parsed ? "parsed as " + parsed->Canonical() : parsed.error().message;
  };
  EXPECT_EQ(message("wrapper:mode=loud"), "codec wrapper: parameter mode=loud is not one of soft, hard");
  EXPECT_EQ(message("wrapper:share=2"), "codec wrapper: parameter share=2 is not a number in 0..1");
  EXPECT_EQ(message("wrapper:share=nan"), "codec wrapper: parameter share=nan is not a number in 0..1");
  EXPECT_EQ(message("wrapper:inner=f16"), "codec wrapper: parameter inner=f16 is not a codec spec in parentheses");
  EXPECT_EQ(message("wrapper:inner=(f16"), "codec wrapper: parameter inner: no \")\" after f16@1");
  EXPECT_EQ(message("wrapper:inner=(sample:bits=5)"),
            "codec wrapper: parameter inner: codec sample: parameter bits=5 is not one of the integers 1, 4, 9");
  EXPECT_EQ(message("f16)"), "codec spec: \")\" follows f16@1");
  EXPECT_EQ(message("wrapper:inner=(f16)x"), "codec spec: \"x\" follows wrapper@2:share=0.25,mode=hard,inner=(f16@1)");
}

TEST(RegistryTest, LengthAndNestingAreLimited) {
  const Registry registry = WithWrapper();
  const auto nested = [](std::size_t depth) {
    std::string spec = "f16";
    for (std::size_t i = 0; i < depth; ++i) spec = "wrapper:inner=(" + spec + ")";
    return spec;
  };
  EXPECT_TRUE(registry.Parse(nested(kMaxSpecNesting)));
  const auto deep = registry.Parse(nested(kMaxSpecNesting + 1));
  ASSERT_FALSE(deep);
  EXPECT_NE(deep.error().message.find("nested deeper than 4"), std::string::npos) << deep.error().message;
  // As deep as the length allows, and longer than that: errors are short whatever the text.
  for (const std::string& hostile : {nested(60), std::string(200000, '('), "f16:" + std::string(2000, 'x')}) {
    const auto refused = registry.Parse(hostile);
    ASSERT_FALSE(refused);
    EXPECT_LT(refused.error().message.size(), 2 * kMaxSpecBytes);
  }
}

constexpr ParamSpec kBadDefault[] = {{.name = "bits", .default_value = "5", .meaning = "bits", .min = 1, .max = 4}};
const Codec kBad{.name = "bad", .summary = "for tests", .params = kBadDefault};

TEST(RegistryTest, ADefaultMustBeAValue) {
  Registry registry = Registry::Builtin();
  const auto added = registry.Add(kBad);
  ASSERT_FALSE(added);
  EXPECT_NE(added.error().message.find("the default \"5\" of parameter bits"), std::string::npos) << added.error().message;
  EXPECT_FALSE(registry.Parse("bad"));
}

}  // namespace
}  // namespace kvant::quantizers
