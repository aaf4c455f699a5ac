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

TEST(RegistryTest, ANameIsTakenOnce) {
  Registry registry = WithSample();
  const auto again = registry.Add(kSample);
  ASSERT_FALSE(again);
  EXPECT_NE(again.error().message.find("sample"), std::string::npos);
}

}  // namespace
}  // namespace kvant::quantizers
