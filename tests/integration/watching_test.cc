// What operators see of a running kvantd with their own tools: who is connected, what happens as it happens, and that a new
// process takes over when they ask for it.
#include <unistd.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tests/support/child.h"

namespace kvant::testing {
namespace {

using Json = nlohmann::json;

constexpr std::chrono::seconds kPatience{120};
const std::string kKvantctl = std::string(KVANT_PROGRAM_DIR) + "/kvantctl";
const std::string kClient = std::string(KVANT_PROGRAM_DIR) + "/kvant_test_client";

Admin Connect(const KvantdProcess& daemon) { return Admin::Connect(daemon.socket(), {.deadline = kPatience}).value(); }

std::unique_ptr<Child> StartClient(const std::string& socket) {
  auto child = std::make_unique<Child>(std::vector<std::string>{kClient, socket, "service"});
  EXPECT_EQ(child->ReadLine(kPatience).value_or(""), "ok ready");
  return child;
}

/// Reads events until one of that kind for which `is` holds; an empty object if none comes.
Json NextEvent(Child& monitor, const std::string& kind, const std::function<bool(const Json&)>& is = nullptr) {
  while (const auto line = monitor.ReadLine(kPatience)) {
    Json event = Json::parse(*line, nullptr, false);
    if (event.is_discarded()) {
      ADD_FAILURE() << "no JSON: " << *line;
      return {};
    }
    if (event["event"] == kind && (!is || is(event))) return event;
  }
  ADD_FAILURE() << "no " << kind;
  return {};
}

TEST(WatchingTest, ClientsAreListedWithWhatTheyHold) {
  KvantdProcess daemon;
  Admin admin = Connect(daemon);
  auto client = StartClient(daemon.socket());
  EXPECT_EQ(client->Ask("open 1 0").value_or("").substr(0, 3), "ok ");
  EXPECT_EQ(client->Ask("feed 1 300 50").value_or("").substr(0, 3), "ok ");
  const auto rows = admin.Clients().value();
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_TRUE(rows[0].admin);
  EXPECT_EQ(rows[0].pid, static_cast<std::uint64_t>(::getpid()));
  const ClientRow& row = rows[1];
  EXPECT_FALSE(row.admin);
  EXPECT_EQ(row.pid, static_cast<std::uint64_t>(client->pid()));
  EXPECT_EQ(row.uid, ::getuid());
  EXPECT_EQ(row.tenant, "uid-" + std::to_string(::getuid()));
  EXPECT_EQ(row.stores, 1U);
  EXPECT_EQ(row.sequences, 1U);
  EXPECT_EQ(row.arenas, admin.Stats().value().figures.Find("arenas"));
  EXPECT_EQ(row.arena_bytes, admin.Stats().value().figures.Find("arena_bytes"));
  EXPECT_EQ(row.leases, admin.Stats().value().figures.Find("leases"));
  EXPECT_GT(row.leases, 0U);
  EXPECT_GT(row.calls, 6U);
  EXPECT_EQ(row.refused, 0U);
  EXPECT_LE(row.idle, row.connected);
  EXPECT_EQ(client->Ask("fork 12345 1 0").value_or("").substr(0, 6), "error ");
  EXPECT_EQ(admin.Clients().value()[1].refused, 1U);
  client->Signal(SIGKILL);
  client->Wait();
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (admin.Clients().value().size() != 1 && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(admin.Clients().value().size(), 1U);
}

TEST(WatchingTest, MonitorTellsWhatHappensOverAnUpgrade) {
  KvantdProcess daemon({"--holder", "on", "--restart-pause", "0"});
  Child monitor({kKvantctl, "--socket", daemon.socket(), "-o", "json", "monitor"});
  const Json watching = NextEvent(monitor, "watching");
  auto client = StartClient(daemon.socket());
  const auto of_client = [&](const Json& event) { return event.value("pid", 0) == client->pid(); };
  const Json connected = NextEvent(monitor, "client_connected", of_client);
  EXPECT_EQ(connected["uid"], ::getuid());
  EXPECT_EQ(NextEvent(monitor, "session_opened", of_client)["connection"], connected["connection"]);
  NextEvent(monitor, "store_opened");
  client->Ask("open 1 0");
  client->Ask("feed 1 300 50");
  const Json sealed = NextEvent(monitor, "block_sealed");
  EXPECT_EQ(sealed["first_position"], 0);
  EXPECT_GT(sealed["bytes"], 0);
  EXPECT_EQ(sealed["time"].get<std::string>().size(), std::string("2026-01-01T00:00:00.000Z").size());
  client->Ask("fork 12345 1 0");
  const Json refused = NextEvent(monitor, "refused");
  EXPECT_EQ(refused["connection"], connected["connection"]);
  EXPECT_FALSE(refused["message"].get<std::string>().empty());

  Child upgrade({kKvantctl, "--socket", daemon.socket(), "-o", "json", "upgrade"});
  std::string said;
  while (const auto line = upgrade.ReadLine(kPatience)) said += *line;
  EXPECT_EQ(upgrade.Wait(), 0) << said;
  const Json report = Json::parse(said, nullptr, false);
  ASSERT_FALSE(report.is_discarded()) << said;
  EXPECT_EQ(report["before"]["pid"], watching["pid"]);
  EXPECT_NE(report["after"]["pid"], watching["pid"]);
  EXPECT_EQ(report["before"]["version"], report["after"]["version"]);
  EXPECT_GT(report["blocks"], 0) << "what was sealed is served by the new process";
  EXPECT_EQ(NextEvent(monitor, "daemon_gone")["pid"], watching["pid"]);
  EXPECT_EQ(NextEvent(monitor, "watching")["pid"], report["after"]["pid"]);
  monitor.Signal(SIGTERM);
  EXPECT_EQ(monitor.Wait(), 0);
}

TEST(WatchingTest, WithoutAHolderAnUpgradeIsRefusedAndTheDaemonStays) {
  KvantdProcess daemon;
  Admin admin = Connect(daemon);
  const auto refused = admin.Upgrade();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_TRUE(admin.Ping());
}

TEST(WatchingTest, AWatcherThatNeverTakesKeepsNobodyWaitingAndIsToldWhatItLost) {
  KvantdProcess daemon;
  Admin watcher = Connect(daemon);
  EXPECT_EQ(watcher.TakeEvents().error().code, ErrorCode::kInvalidArgument);
  ASSERT_TRUE(watcher.Watch());
  Admin busy = Connect(daemon);
  constexpr std::uint64_t kCalls = 4500;  // more than a watcher's queue
  for (std::uint64_t i = 0; i < kCalls; ++i) EXPECT_FALSE(busy.Unpin(99));
  std::uint64_t heard = 0;
  std::uint64_t lost = 0;
  for (;;) {
    const auto batch = watcher.TakeEvents().value();
    for (const Event& event : batch.events) heard += event.kind == "refused" ? 1 : 0;
    lost += batch.lost;
    if (batch.events.empty() || lost != 0) break;
  }
  EXPECT_GT(lost, 0U);
  EXPECT_EQ(heard + lost, kCalls);
  EXPECT_EQ(busy.Stats().value().figures.Find("refusals_not_found"), kCalls);
  std::vector<Admin> more;
  for (int i = 0; i < 15; ++i) {
    more.push_back(Connect(daemon));
    EXPECT_TRUE(more.back().Watch()) << i;
  }
  EXPECT_EQ(busy.Watch().error().code, ErrorCode::kUnavailable);
}

}  // namespace
}  // namespace kvant::testing
