#include "tools/kvantctl/top/view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "tools/kvantctl/printable.h"

namespace kvant::tools {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

Figures Make(std::vector<std::pair<std::string, std::uint64_t>> values) {
  auto infos = std::make_shared<std::vector<FigureInfo>>();
  std::vector<std::uint64_t> numbers;
  for (auto& [name, value] : values) {
    infos->push_back({.name = name, .kind = FigureKind::kCounter, .unit = FigureUnit::kCount, .help = ""});
    numbers.push_back(value);
  }
  return {infos, numbers};
}

StoreRow Store(const std::string& name, std::uint64_t resident, std::uint64_t sealed) {
  StoreRow row;
  row.name = row.identity = name;
  row.block_tokens = 128;
  row.figures = Make({{"resident_bytes", resident}, {"sealed_blocks", sealed}});
  return row;
}

/// At `seconds` after the first.
Sample At(int seconds, std::uint64_t attends, std::vector<StoreRow> stores, std::uint64_t boot_token = 1) {
  Sample sample;
  sample.at = std::chrono::steady_clock::time_point(std::chrono::seconds(seconds));
  sample.stats.daemon.boot_token = boot_token;
  sample.stats.figures = Make({{"attend_calls", attends}, {"budget_bytes", 1000}, {"resident_bytes", 250}, {"sessions", 3}});
  sample.stores = std::move(stores);
  return sample;
}

TEST(TopViewTest, RatesAreThoseBetweenTwoLooksAtOneDaemon) {
  const Sample before = At(10, 100, {Store("a", 5, 1)});
  const Sample now = At(12, 300, {Store("a", 5, 4)});
  const auto lines = TopLines(now, &before, StoreOrder::kName, 200);
  EXPECT_THAT(lines.at(1), HasSubstr("[#####---------------] 25.0 % of 1000 B"));
  EXPECT_THAT(lines.at(2), HasSubstr("3 clients"));
  EXPECT_THAT(lines.at(3), HasSubstr("100 attention calls"));  // 200 in 2 s
  EXPECT_THAT(lines.at(kStoresLine), StartsWith("STORE"));
  EXPECT_THAT(lines.at(kStoresLine + 1), HasSubstr(" 192 "));  // 3 blocks of 128 tokens in 2 s
  for (const Sample* none : {static_cast<const Sample*>(nullptr), &now}) {
    EXPECT_THAT(TopLines(now, none, StoreOrder::kName, 200).at(3), HasSubstr(" - attention calls"));
  }
  const Sample other = At(8, 0, {}, 2);
  EXPECT_THAT(TopLines(now, &other, StoreOrder::kName, 200).at(3), HasSubstr(" - attention calls"));
}

TEST(TopViewTest, StoresAreSortedAsAskedAndLinesAreCutByCharacters) {
  const Sample before = At(0, 0, {Store("a", 5, 0), Store("\xc3\xa4", 9, 0), Store("c", 1, 0)});
  const Sample now = At(1, 0, {Store("a", 5, 0), Store("\xc3\xa4", 9, 1), Store("c", 1, 7)});
  const auto first = [&](StoreOrder order) { return TopLines(now, &before, order, 3).at(kStoresLine + 1).substr(0, 1); };
  EXPECT_EQ(first(StoreOrder::kName), "a");
  EXPECT_EQ(first(StoreOrder::kResident), "\xc3");
  EXPECT_EQ(first(StoreOrder::kSealing), "c");
  for (const std::string& line : TopLines(now, &before, StoreOrder::kName, 1)) EXPECT_LE(Columns(line), 1u);
  EXPECT_EQ(TopLines(now, &before, StoreOrder::kResident, 1).at(kStoresLine + 1), "\xc3\xa4");
  StoreOrder order = StoreOrder::kResident;
  for (int i = 0; i < 3; ++i) order = After(order);
  EXPECT_EQ(order, StoreOrder::kResident);
}

}  // namespace
}  // namespace kvant::tools
