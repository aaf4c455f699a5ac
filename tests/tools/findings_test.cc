#include "tools/kvantctl/doctor/findings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>

namespace kvant::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

StatsReport With(std::map<std::string, std::uint64_t> values) {
  values.emplace("budget_bytes", std::uint64_t{1} << 30);
  auto infos = std::make_shared<std::vector<FigureInfo>>();
  std::vector<std::uint64_t> numbers;
  for (const auto& [name, value] : values) {
    infos->push_back({.name = name, .kind = FigureKind::kGauge, .unit = FigureUnit::kCount, .help = ""});
    numbers.push_back(value);
  }
  return {.daemon = {}, .figures = Figures(infos, numbers), .histograms = {}};
}

std::vector<std::string> AboutOf(const std::vector<Finding>& findings) {
  std::vector<std::string> about;
  for (const Finding& finding : findings) {
    about.push_back((finding.severity == Severity::kWrong ? "wrong " : "note ") + finding.about);
    EXPECT_FALSE(finding.advice.empty());
  }
  return about;
}

TEST(FindingsTest, AHealthyDaemonHasNone) {
  EXPECT_THAT(FindingsOf(With({}), {StoreRow{}}, {}, {.available_bytes = std::uint64_t{8} << 30, .shmem_huge_pages = "never"}),
              IsEmpty());
  EXPECT_THAT(
      FindingsOf(With({{"evicted_blocks", 5}, {"prefix_lookup_tokens", 100'000}, {"prefix_hit_tokens", 10}}), {}, {}, {}),
      IsEmpty())
      << "evicted by hand, not for lack of room";
}

TEST(FindingsTest, EachTroubleIsToldWithItsFigure) {
  const std::pair<const char*, const char*> troubles[] = {{"store_full_errors", "wrong budget"},
                                                          {"lost_blocks", "wrong budget"},
                                                          {"not_finite_errors", "wrong rows"},
                                                          {"dropped_clients", "wrong clients"},
                                                          {"refusals_connection_limit", "wrong clients"},
                                                          {"refusals_no_descriptor", "wrong clients"},
                                                          {"refusals_version", "wrong clients"},
                                                          {"refusals_not_admin", "note clients"},
                                                          {"room_refusals_tenant_quota", "note quota"},
                                                          {"room_refusals_store_quota", "note quota"},
                                                          {"evicted_then_wanted_blocks", "note budget"}};
  for (const auto& [figure, about] : troubles) {
    const auto findings = FindingsOf(With({{figure, 1234}}), {}, {}, {});
    EXPECT_THAT(AboutOf(findings), ElementsAre(about)) << figure;
    EXPECT_THAT(findings.at(0).what, HasSubstr("1,234")) << figure;
  }
}

TEST(FindingsTest, AFewBlocksWantedAgainAreNotWorthAWordAndManySayWhen) {
  EXPECT_THAT(FindingsOf(With({{"evicted_then_wanted_blocks", 9}, {"sealed_blocks", 1000}}), {}, {}, {}), IsEmpty());
  StatsReport stats = With({{"evicted_then_wanted_blocks", 10}, {"sealed_blocks", 1000}});
  stats.histograms.push_back(
      {.name = "block_evict_to_wanted_seconds", .help = "", .bounds = {60, 900}, .counts = {4, 6, 0}, .sum = 0});
  const auto findings = FindingsOf(stats, {}, {}, {});
  EXPECT_THAT(AboutOf(findings), ElementsAre("note budget"));
  EXPECT_THAT(findings.at(0).what,
              HasSubstr("10 blocks were wanted again after they had been evicted, half of them within 15 min"));
}

TEST(FindingsTest, AClientThatSleepsOnBlocksIsNamed) {
  const auto client = [](const char* name, std::uint64_t pid, std::chrono::milliseconds idle, std::uint64_t leases) {
    ClientRow row;
    row.name = name;
    row.pid = pid;
    row.idle = idle;
    row.leases = leases;
    return row;
  };
  const ClientRow busy = client("busy", 11, std::chrono::minutes(9), 5);
  const ClientRow idle = client("idle", 12, std::chrono::hours(2), 0);
  const ClientRow stale = client("stale", 13, std::chrono::hours(2), 7);
  const auto findings = FindingsOf(With({}), {}, {busy, idle, stale}, {});
  EXPECT_THAT(AboutOf(findings), ElementsAre("note clients"));
  EXPECT_THAT(findings.at(0).what, HasSubstr("\"stale\" (process 13) has called nothing for 02:00:00 and holds 7 blocks"));
}

TEST(FindingsTest, ABudgetThatLosesPrefixesIsANote) {
  std::map<std::string, std::uint64_t> figures{{"resident_bytes", (std::uint64_t{1} << 30) - 1000},
                                               {"evicted_blocks", 7},
                                               {"prefix_lookup_tokens", 20'000},
                                               {"prefix_hit_tokens", 9'999}};
  EXPECT_THAT(AboutOf(FindingsOf(With(figures), {}, {}, {})), ElementsAre("note budget"));
  figures["prefix_hit_tokens"] = 10'001;
  EXPECT_THAT(FindingsOf(With(figures), {}, {}, {}), IsEmpty());
}

TEST(FindingsTest, AStoresOwnWarningIsPassedOn) {
  StoreRow store;
  store.name = "qwen";
  store.warning = "its keys share a mean";
  const auto findings = FindingsOf(With({}), {StoreRow{}, store}, {}, {});
  EXPECT_THAT(AboutOf(findings), ElementsAre("wrong keys"));
  EXPECT_EQ(findings.at(0).what, "Store \"qwen\": its keys share a mean");
}

TEST(FindingsTest, WhatIsWrongComesFirst) {
  const auto findings =
      FindingsOf(With({{"dropped_clients", 1}}), {}, {}, {.available_bytes = 4096, .shmem_huge_pages = "always"});
  EXPECT_THAT(AboutOf(findings), ElementsAre("wrong clients", "note memory", "note memory"));
}

TEST(FindingsTest, ReadsWhatLinuxWrites) {
  EXPECT_EQ(AvailableBytes("MemTotal:  99 kB\nMemAvailable:   123 kB\nBuffers: 1 kB\n"), 123u * 1024);
  EXPECT_EQ(AvailableBytes("MemTotal:  99 kB\n"), std::nullopt);
  EXPECT_EQ(AvailableBytes("MemAvailable:"), std::nullopt);
  EXPECT_EQ(AvailableBytes("MemAvailable: 18446744073709551615 kB"), std::nullopt);
  EXPECT_EQ(ChosenWord("always within_size advise [never] deny force\n"), "never");
  EXPECT_EQ(ChosenWord("never]"), std::nullopt);
  EXPECT_EQ(ChosenWord(""), std::nullopt);
}

}  // namespace
}  // namespace kvant::tools
