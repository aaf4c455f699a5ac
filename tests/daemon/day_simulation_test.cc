// Hours of operations at speed, checked after every step against plain maps of what must be there. KVANT_DAY_HOURS in the
// environment: how many (24 for a day; they take about a minute).
#include <cstdlib>
#include <iostream>
#include <string>

#include <gtest/gtest.h>

#include "tests/daemon/day_world.h"
#include "tests/support/seeds.h"

namespace kvant::daemon {
namespace {

double Hours() {
  const char* const hours = std::getenv("KVANT_DAY_HOURS");
  return hours == nullptr ? 1.0 : std::atof(hours);
}

class DaySimulationTest : public ::testing::TestWithParam<EvictionKind> {};

TEST_P(DaySimulationTest, EverythingIsWhereThePlainMapsSay) {
  const std::uint32_t seed = kvant::testing::Seeds({20261201}).front();
  SCOPED_TRACE("seed " + std::to_string(seed));
  DayWorld world(seed, GetParam());
  std::uint64_t steps = 0;
  const auto end_ms = static_cast<std::uint64_t>(Hours() * 3600e3);
  for (; world.elapsed_ms() < end_ms && !HasFailure(); ++steps) {
    SCOPED_TRACE("step " + std::to_string(steps));
    world.Step();
  }
  if (!HasFailure()) world.End();
  std::cout << steps << " steps:";
  for (const auto& [what, count] : world.happened()) std::cout << ' ' << what << ' ' << count << ',';
  std::cout << '\n';
  for (const char* const what : {"open", "prefix found", "advance", "fork", "trim", "mark", "rewind", "pin", "pin over",
                                 "quota", "ttl", "save", "restore", "restart", "evict for room or time", "coarse"}) {
    EXPECT_TRUE(HasFailure() || world.happened().contains(what)) << what << " never happened";
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, DaySimulationTest, ::testing::Values(EvictionKind::kLru, EvictionKind::kS3Fifo),
                         [](const auto& of) { return std::string(kEvictionKinds[static_cast<std::size_t>(of.param)].first); });

}  // namespace
}  // namespace kvant::daemon
