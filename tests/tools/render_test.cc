#include "tools/kvantctl/render.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

namespace kvant::tools {
namespace {

TEST(RenderTest, BytesHaveBinaryUnitsAndStayShort) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1024), "1.0 KiB");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(1048575), "1.0 MiB");  // not "1024.0 KiB"
  EXPECT_EQ(HumanBytes(std::uint64_t{512} << 20), "512.0 MiB");
  EXPECT_EQ(HumanBytes(UINT64_MAX), "16.0 EiB");
}

TEST(RenderTest, CountsAreGroupedByThousands) {
  EXPECT_EQ(HumanCount(0), "0");
  EXPECT_EQ(HumanCount(999), "999");
  EXPECT_EQ(HumanCount(1000), "1,000");
  EXPECT_EQ(HumanCount(1234567), "1,234,567");
  EXPECT_EQ(HumanCount(UINT64_MAX), "18,446,744,073,709,551,615");
}

TEST(RenderTest, DurationsShowDaysOnlyWhenThereAreAny) {
  using namespace std::chrono_literals;
  EXPECT_EQ(HumanDuration(0s), "00:00:00");
  EXPECT_EQ(HumanDuration(3661s), "01:01:01");
  EXPECT_EQ(HumanDuration(3 * 24h + 4h + 5min + 6s), "3 d 04:05:06");
}

TEST(RenderTest, SharesAndRatiosOfNothingAreADash) {
  EXPECT_EQ(HumanShare(1, 8), "12.5 %");
  EXPECT_EQ(HumanShare(0, 0), "-");
  EXPECT_EQ(HumanRatio(66, 16), "4.12x");
  EXPECT_EQ(HumanRatio(1, 0), "-");
  EXPECT_EQ(HumanCompressed({.logical_f16_bytes = 4096, .compressed_bytes = 1056, .resident_bytes = 0}),
            "1.0 KiB  (f16 is 3.88x)");
  EXPECT_EQ(HumanCompressed({}), "0 B");
}

TEST(RenderTest, TableColumnsAlignAndLinesHaveNoTrailingBlanks) {
  Table table({{"NAME"}, {"SIZE", Align::kRight}, {"NOTE"}});
  table.Add({"a", "1", ""});
  table.Add({"longer", "1000", "x"});
  EXPECT_EQ(table.ToString(),
            "NAME    SIZE  NOTE\n"
            "a          1\n"
            "longer  1000  x\n");
}

TEST(RenderTest, ListingAlignsValues) {
  Listing listing;
  listing.Heading("memory");
  listing.Add("a", "1");
  listing.Add("longer", "2");
  listing.Heading("more");
  listing.Add("b", "3");
  EXPECT_EQ(listing.ToString(), "memory\n  a       1\n  longer  2\n\nmore\n  b       3\n");
}

TEST(RenderTest, JsonKeepsIntegersExact) {
  StatsReport stats;
  stats.bytes.logical_f16_bytes = 9007199254740993;  // not a double
  stats.daemon.boot_token = UINT64_MAX;
  const std::string text = ToJson(stats).dump();
  EXPECT_THAT(text, testing::HasSubstr("\"logical_f16_bytes\":9007199254740993"));
  EXPECT_THAT(text, testing::HasSubstr("\"boot_token\":18446744073709551615"));
}

TEST(RenderTest, ControlCharactersOfAClientsNameDoNotReachTheTerminal) {
  testing::internal::CaptureStdout();
  Print(std::string("evil\x1b[2Jname\n"));
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "evil?[2Jname\n");
}

}  // namespace
}  // namespace kvant::tools
