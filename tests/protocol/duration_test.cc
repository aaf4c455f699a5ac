// Durations as operators write them.
#include "protocol/duration.h"

#include <chrono>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvant::protocol {
namespace {

using std::chrono::milliseconds;

TEST(DurationTest, ReadsUnits) {
  EXPECT_EQ(*ParseDuration("0"), milliseconds(0));
  EXPECT_EQ(*ParseDuration("500ms"), milliseconds(500));
  EXPECT_EQ(*ParseDuration("90s"), milliseconds(90'000));
  EXPECT_EQ(*ParseDuration("15m"), milliseconds(900'000));
  EXPECT_EQ(*ParseDuration("1.5h"), milliseconds(5'400'000));
  EXPECT_EQ(*ParseDuration("7d"), milliseconds(604'800'000));
}

TEST(DurationTest, RefusesWhatIsAmbiguousOrSenseless) {
  for (const char* text : {"", "s", "-1s", "10", "10 s", "1M", "1e3s", "nan", "inf", "0x10s", "1hs", "99999999999999d"}) {
    const auto parsed = ParseDuration(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_THAT(parsed.error().message, ::testing::HasSubstr("\"" + std::string(text) + "\""));
  }
}

}  // namespace
}  // namespace kvant::protocol
