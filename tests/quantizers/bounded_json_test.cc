// JSON that nobody vouches for: limits, depth, names that stand twice.
#include "quantizers/bounded_json.h"

#include <string>

#include <gtest/gtest.h>

namespace kvant::quantizers {
namespace {

using Json = nlohmann::json;

std::string Nested(const char* open, const char* inner, const char* close, std::size_t depth) {
  std::string text;
  for (std::size_t i = 0; i < depth; ++i) text += open;
  text += inner;
  for (std::size_t i = 0; i < depth; ++i) text += close;
  return text;
}

/// The error of a text, or "parsed".
std::string Message(std::string_view text, const JsonLimits& limits = {}) {
  const auto parsed = ParseJson(text, limits, "x");
  return parsed ? std::string("parsed") : parsed.error().message;
}

TEST(BoundedJsonTest, LimitsAreExact) {
  const JsonLimits limits{.bytes = 20, .depth = 3, .values = 4};
  EXPECT_EQ(Message("[[[1]]]", limits), "parsed");
  EXPECT_EQ(Message("[[[[]]]]", limits), "x: more than 3 levels of JSON");
  EXPECT_EQ(Message("[1,2,3]", limits), "parsed");
  EXPECT_EQ(Message("[1,2,3,4]", limits), "x: more than 4 values of JSON");
  EXPECT_EQ(Message("[1,2" + std::string(20, ' ') + "]", limits), "x: more than 20 bytes of JSON");
}

TEST(BoundedJsonTest, DepthIsBoundedHoweverDeepTheText) {
  const JsonLimits limits{.bytes = std::size_t{32} << 20, .depth = 64};
  EXPECT_EQ(Message(Nested("[", "1", "]", 64), limits), "parsed");
  EXPECT_EQ(Message(Nested("{\"a\":", "{}", "}", 63), limits), "parsed");
  for (const std::size_t depth : {65u, 200'000u, 3'000'000u}) {
    for (const std::string& text :
         {Nested("[", "1", "]", depth), Nested("[", "", "", depth), Nested("{\"a\":", "1", "}", depth)}) {
      EXPECT_EQ(Message(text, limits), "x: more than 64 levels of JSON") << depth;
    }
  }
}

TEST(BoundedJsonTest, WhatIsNoJsonIsRefused) {
  for (const char* text : {"", "{", "[1,2", "[1,]", "{\"a\":1}x", "NaN", "\"\xff\"", "01", "'a'"}) {
    EXPECT_EQ(Message(text), "x: not JSON") << text;
  }
  EXPECT_EQ(ParseJson("null", {}, "x").value(), Json());
}

// Readers of JSON differ in which of the two they take, so that one file would mean two things.
TEST(BoundedJsonTest, ANameThatStandsTwiceIsRefused) {
  EXPECT_EQ(Message(R"({"a": {"b": 1}, "b": [{"a": 1}, {"a": 1}], "c": 2})"), "parsed");
  EXPECT_EQ(Message(R"({"a": {"b": 1}, "b": [{"a": 1}], "a": 2})"), "x: the name \"a\" stands twice in one object");
  EXPECT_EQ(Message(R"([{"a": {"b": [], "\u0062": {}}}])"), "x: the name \"b\" stands twice in one object");
  const auto parsed = ParseJson(R"({"a": 1, "a": 1})", {}, "x");
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code, ErrorCode::kCorrupt);
  const std::string name(9000, 'n');
  EXPECT_LT(Message("{\"" + name + "\": 1, \"" + name + "\": 1}").size(), 200u) << "an error must not repeat the text";
}

TEST(BoundedJsonTest, ShownValuesAreShortAndPrintable) {
  EXPECT_EQ(ShownJson(Json("a\nb\x1b")), R"("a\nb\u001b")");
  EXPECT_EQ(ShownJson(std::string(200, 'x')), "\"" + std::string(99, 'x') + "...");
}

}  // namespace
}  // namespace kvant::quantizers
