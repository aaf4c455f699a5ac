#include "tools/kvantctl/render.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string_view>
#include <vector>

#include "tools/kvantctl/printable.h"

namespace kvant::tools {
namespace {

Figures Bytes(std::uint64_t logical, std::uint64_t compressed) {
  return {std::make_shared<const std::vector<FigureInfo>>(
              std::vector<FigureInfo>{{"logical_f16_bytes", FigureKind::kGauge, FigureUnit::kBytes, "as f16"},
                                      {"compressed_bytes", FigureKind::kCounter, FigureUnit::kBytes, "as codes"}}),
          {logical, compressed}};
}

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
  EXPECT_EQ(HumanCompressed(Bytes(4096, 1056)), "1.0 KiB  (f16 is 3.88x)");
  EXPECT_EQ(HumanCompressed({}), "0 B");
  EXPECT_EQ(HumanPrefixHits({}), "0 of 0  (-)");
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
  stats.figures = Bytes(9007199254740993, 0);  // not a double
  stats.daemon.boot_token = UINT64_MAX;
  const std::string text = ToJson(stats).dump();
  EXPECT_THAT(text, testing::HasSubstr("\"logical_f16_bytes\":9007199254740993"));
  EXPECT_THAT(text, testing::HasSubstr("\"boot_token\":18446744073709551615"));
}

TEST(RenderTest, FiguresAreShownByTheirKindAndUnitWithTheirHelp) {
  Listing listing;
  listing.Add(Bytes(2048, 1536), FigureKind::kGauge);
  listing.Add(Bytes(2048, 1536), FigureKind::kCounter);
  EXPECT_EQ(listing.ToString(), "  logical_f16_bytes  2.0 KiB  as f16\n  compressed_bytes   1.5 KiB  as codes\n");
  EXPECT_EQ(HumanFigure(3661, FigureUnit::kSeconds), "01:01:01");
  EXPECT_EQ(HumanFigure(1234, FigureUnit::kTokens), "1,234");
  EXPECT_EQ(HumanFigure(2500, FigureUnit::kPartsPerMillion), "0.25 %");
}

TEST(PrintableTest, EscapesWhatCannotBeSeenAndNothingElse) {
  EXPECT_EQ(Printable("plain text, ümlaut, 漢字, 🙂"), "plain text, ümlaut, 漢字, 🙂");
  EXPECT_EQ(Printable("a\nb\tc\rd\x1b[2J\x7f"), R"(a\nb\tc\x0dd\x1b[2J\x7f)");
  EXPECT_EQ(Printable(std::string_view("\0", 1)), R"(\x00)");
  EXPECT_EQ(Printable("back\\slash"), R"(back\\slash)");
  EXPECT_EQ(Printable("\u0085\u009b"), R"(\u0085\u009b)");                          // C1: NEL, CSI
  EXPECT_EQ(Printable("\u202e\u2066\u200f\u061c"), R"(\u202e\u2066\u200f\u061c)");  // bidirectional
  EXPECT_EQ(Printable("\u2028\u200b\ufeff"), R"(\u2028\u200b\ufeff)");              // line separator, no width
  EXPECT_EQ(Printable("\U000e0041"), R"(\U000e0041)");                              // tag characters
}

TEST(PrintableTest, BytesThatAreNoUtf8AreShownAsBytes) {
  EXPECT_EQ(Printable("\x9b\xff"), R"(\x9b\xff)");
  EXPECT_EQ(Printable("\xc0\xaf"), R"(\xc0\xaf)");          // an overlong slash
  EXPECT_EQ(Printable("\xed\xa0\x80"), R"(\xed\xa0\x80)");  // a surrogate
  EXPECT_EQ(Printable("\xf4\x90\x80\x80"), R"(\xf4\x90\x80\x80)");
  EXPECT_EQ(Printable("\xe6\xbc"), R"(\xe6\xbc)");  // cut off
}

TEST(PrintableTest, ColumnsCountCharacters) { EXPECT_EQ(Columns("üx漢"), 3U); }

TEST(RenderTest, HistogramsAreToldByTheBoundsOfTheirShares) {
  const auto of = [](std::vector<std::uint64_t> counts) {
    return HumanHistogram({.name = "x_seconds", .help = "", .bounds = {5, 300, 43'200}, .counts = std::move(counts), .sum = 0});
  };
  EXPECT_EQ(of({0, 0, 0, 0}), "none");
  EXPECT_EQ(of({5, 4, 1, 0}), "10: half within 5 s, nine tenths within 5 min");
  EXPECT_EQ(of({4, 4, 2, 0}), "10: half within 5 min, nine tenths within 12 h");
  EXPECT_EQ(of({0, 0, 0, 1000}), "1,000: half beyond 12 h, nine tenths beyond 12 h");
}

TEST(RenderTest, CellsCannotBreakATable) {
  Table table({{"NAME"}, {"SIZE", Align::kRight}});
  table.Add({"a\n", "1"});
  table.Add({"ü", "22"});
  EXPECT_EQ(table.ToString(),
            "NAME  SIZE\n"
            "a\\n      1\n"
            "ü       22\n");
}

TEST(RenderTest, JsonIsAscii) {
  testing::internal::CaptureStdout();
  Print(Json{{"label", "\xff\u009b\x7f\u202e"}});
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "{\n  \"label\": \"\\ufffd\\u009b\\u007f\\u202e\"\n}\n");
}

}  // namespace
}  // namespace kvant::tools
