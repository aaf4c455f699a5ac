#include "quantizers/attention/worker_team.h"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace kvant::quantizers {
namespace {

struct Visits {
  explicit Visits(std::size_t n) : count(n), threads(64) {}
  std::vector<std::atomic<int>> count;
  std::vector<std::atomic<int>> threads;
};

void Visit(void* context, std::size_t i, std::size_t thread) {
  auto* visits = static_cast<Visits*>(context);
  visits->count[i].fetch_add(1);
  visits->threads[thread].fetch_add(1);
}

TEST(WorkerTeamTest, CallsEveryIndexOnceAndReturnsWhenAllAreDone) {
  for (const std::size_t helpers : {0, 1, 3, 7}) {
    for (const auto spin : {std::chrono::microseconds(0), std::chrono::microseconds(200)}) {
      WorkerTeam team(helpers, spin);
      EXPECT_EQ(team.threads(), helpers + 1);
      for (std::size_t n = 0; n < 200; ++n) {
        Visits visits(n);
        team.ForEach(n, Visit, &visits);
        for (const auto& count : visits.count) ASSERT_EQ(count.load(), 1);
        for (std::size_t t = helpers + 1; t < visits.threads.size(); ++t) ASSERT_EQ(visits.threads[t].load(), 0);
      }
    }
  }
}

TEST(WorkerTeamTest, HelpersJoinInAfterSleeping) {
  WorkerTeam team(1, std::chrono::microseconds(0));
  for (int repeat = 0; repeat < 3; ++repeat) {
    // The caller's task ends only once a helper has taken the other one.
    std::atomic<int> arrived{0};
    team.ForEach(
        2,
        [](void* context, std::size_t, std::size_t) {
          auto* both = static_cast<std::atomic<int>*>(context);
          both->fetch_add(1);
          while (both->load() < 2) std::this_thread::yield();
        },
        &arrived);
    EXPECT_EQ(arrived.load(), 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // lets the helper fall asleep
  }
}

TEST(WorkerTeamTest, EndsWhileHelpersSleepOrSpin) {
  for (int i = 0; i < 50; ++i) {
    WorkerTeam team(2, std::chrono::microseconds(i % 2 == 0 ? 0 : 100));
    Visits visits(3);
    if (i % 3 == 0) team.ForEach(3, Visit, &visits);
  }
}

}  // namespace
}  // namespace kvant::quantizers
