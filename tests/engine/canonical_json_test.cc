// The canonical form against the examples of RFC 8785.
#include "client/examples/llama/canonical_json.h"

#include <bit>
#include <cstdint>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "quantizers/bounded_json.h"

namespace kvant::examples {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Parsed(const char* text) { return quantizers::ParseJson(text, {}, "x").value(); }

TEST(CanonicalJsonTest, TheExampleOfTheRfc) {
  const char* text =
      R"({"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
          "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]})";
  EXPECT_EQ(CanonicalJson(Parsed(text)).value(),
            "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],"
            "\"string\":\"\u20ac$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}");
}

TEST(CanonicalJsonTest, FieldsStandInOrderOfUtf16) {
  const char* text = R"({"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\ud83d\ude00": 5, "\u0080": 6, "\u00f6": 7, "": 8})";
  EXPECT_EQ(CanonicalJson(Parsed(text)).value(),
            "{\"\":8,\"\\r\":2,\"1\":4,\"\u0080\":6,\"\u00f6\":7,\"\u20ac\":1,\"\U0001F600\":5,\"\ufb33\":3}");
}

TEST(CanonicalJsonTest, NumbersAsEcmaScriptPrintsThem) {
  const std::pair<std::uint64_t, const char*> samples[] = {
      // RFC 8785, appendix B
      {0x0000000000000000, "0"},
      {0x8000000000000000, "0"},
      {0x0000000000000001, "5e-324"},
      {0x8000000000000001, "-5e-324"},
      {0x7fefffffffffffff, "1.7976931348623157e+308"},
      {0x4340000000000000, "9007199254740992"},
      {0x4430000000000000, "295147905179352830000"},
      {0x44b52d02c7e14af5, "9.999999999999997e+22"},
      {0x44b52d02c7e14af6, "1e+23"},
      {0x44b52d02c7e14af7, "1.0000000000000001e+23"},
      {0x444b1ae4d6e2ef4e, "999999999999999700000"},
      {0x444b1ae4d6e2ef4f, "999999999999999900000"},
      {0x444b1ae4d6e2ef50, "1e+21"},
      {0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"},
      {0x3eb0c6f7a0b5ed8d, "0.000001"},
      {0x41b3de4355555553, "333333333.3333332"},
      {0xbecbf647612f3696, "-0.0000033333333333333333"},
      {0x43143ff3c1cb0959, "1424953923781206.2"},
  };
  for (const auto& [bits, text] : samples) EXPECT_EQ(CanonicalJson(Json(std::bit_cast<double>(bits))).value(), text);
}

TEST(CanonicalJsonTest, HowANumberWasWrittenDoesNotMatter) {
  for (const char* text : {"500000", "500000.0", "5e5", "0.5E+6"}) {
    EXPECT_EQ(CanonicalJson(Parsed(text)).value(), "500000") << text;
  }
  EXPECT_EQ(CanonicalJson(Parsed("-9007199254740992")).value(), "-9007199254740992");
  for (const char* text : {"9007199254740993", "-9007199254740993", "18446744073709551615"}) {
    const auto canonical = CanonicalJson(Parsed(text));
    ASSERT_FALSE(canonical) << text;
    EXPECT_THAT(canonical.error().message, HasSubstr(text));
  }
}

}  // namespace
}  // namespace kvant::examples
