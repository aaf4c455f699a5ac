// What is kept and for whom, with real processes: a storm of appends against the budget as the kernel counts it, many clients
// at once, blocks that outlive their time, and tenants by uid.
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>

#include "tests/support/child.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::size_t kMiB = std::size_t{1} << 20;
/// A loaded machine may take its time.
constexpr std::chrono::seconds kPatience{120};

const std::string kClient = std::string(KVANT_PROGRAM_DIR) + "/kvant_test_client";

std::string Words(const std::optional<std::string>& line, std::size_t word) {
  std::istringstream stream(line.value_or("nothing"));
  std::string text;
  for (std::size_t i = 0; i <= word; ++i) stream >> text;
  return text;
}

std::unique_ptr<Child> StartClient(const std::string& socket) {
  auto child = std::make_unique<Child>(std::vector<std::string>{kClient, socket, "service"});
  EXPECT_EQ(child->ReadLine(kPatience).value_or(""), "ok ready");
  return child;
}

/// Bytes of all slabs that the process has open, each once, as the kernel counts their pages.
std::size_t SlabBytes(pid_t pid) {
  std::size_t bytes = 0;
  std::set<ino_t> seen;
  std::error_code gone;  // a descriptor may be closed while we look
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    struct stat status {};
    if (gone || target.find("kvant-slab") == std::string::npos || ::stat(entry.path().c_str(), &status) != 0) continue;
    if (seen.insert(status.st_ino).second) bytes += static_cast<std::size_t>(status.st_blocks) * 512;
  }
  return bytes;
}

class RetentionStormTest : public ::testing::TestWithParam<const char*> {};

TEST_P(RetentionStormTest, AStormOfAppendsNeverTakesAByteMoreThanTheBudget) {
  constexpr std::size_t kBudget = 3 * kMiB;
  KvantdProcess daemon({"--budget", "3MiB", "--workers", "2", "--eviction", GetParam()});
  auto admin = Admin::Connect(daemon.socket(), {.deadline = kPatience}).value();
  std::vector<std::unique_ptr<Child>> clients;
  for (int i = 0; i < 4; ++i) clients.push_back(StartClient(daemon.socket()));
  std::size_t most = 0;
  for (int round = 0; round < 6; ++round) {
    for (std::size_t i = 0; i < clients.size(); ++i) {
      const std::string seed = std::to_string(round * 10 + static_cast<int>(i));
      clients[i]->Send("open " + seed + " 0");
      clients[i]->Send("feed " + seed + " 600 60");
    }
    std::size_t answered = 0;
    std::vector<int> lines(clients.size());
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (answered < 2 * clients.size() && std::chrono::steady_clock::now() < end) {
      for (std::size_t i = 0; i < clients.size(); ++i) {
        if (lines[i] == 2) continue;
        const auto line = clients[i]->ReadLine(milliseconds(20));
        if (!line) continue;
        // A store that is full of held blocks refuses with a word for it; anything else is a fault.
        EXPECT_TRUE(line->starts_with("ok") || line->starts_with("error store_full")) << *line;
        ++lines[i];
        ++answered;
      }
      const std::size_t slabs = SlabBytes(daemon.child().pid());
      const Figures figures = admin.Stats().value().figures;
      most = std::max(most, slabs);
      ASSERT_LE(slabs, kBudget);
      ASSERT_LE(figures.Find("used_bytes").value() + figures.Find("opening_bytes").value(), kBudget);
      ASSERT_LE(figures.Find("resident_bytes").value(), kBudget);
    }
    ASSERT_EQ(answered, 2 * clients.size());
  }
  const Figures figures = admin.Stats().value().figures;
  EXPECT_GT(most, kBudget / 4) << "the storm must reach it";
  EXPECT_GT(figures.Find("evicted_blocks").value(), 0u);
  EXPECT_GT(figures.Find("room_steps").value(), 0u);
  EXPECT_EQ(figures.Find("room_failures").value(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Policies, RetentionStormTest, ::testing::Values("lru", "s3fifo"),
                         [](const auto& of) { return std::string(of.param); });

TEST(RetentionProcessTest, SixtyFourClientsAtOnce) {
  KvantdProcess daemon({"--budget", "8MiB", "--workers", "2"});
  auto admin = Admin::Connect(daemon.socket(), {.deadline = kPatience}).value();
  std::vector<std::unique_ptr<Child>> clients;
  for (int i = 0; i < 64; ++i) clients.push_back(StartClient(daemon.socket()));
  for (std::size_t i = 0; i < clients.size(); ++i) {
    clients[i]->Send("open " + std::to_string(i) + " 0");
    clients[i]->Send("feed " + std::to_string(i) + " 100 50");
  }
  for (const auto& client : clients) {
    EXPECT_EQ(Words(client->ReadLine(kPatience), 0), "ok");
    EXPECT_EQ(Words(client->ReadLine(kPatience), 1), "100");
  }
  EXPECT_EQ(admin.Stats().value().figures.Find("sequences"), 64u);
  EXPECT_LE(SlabBytes(daemon.child().pid()), 8 * kMiB);
}

TEST(RetentionProcessTest, BlocksThatNobodyUsesGoAfterTheirTime) {
  KvantdProcess daemon({"--ttl", "400ms"});
  auto admin = Admin::Connect(daemon.socket(), {.deadline = kPatience}).value();
  auto client = StartClient(daemon.socket());
  ASSERT_EQ(Words(client->Ask("open 1 0"), 0), "ok");
  ASSERT_EQ(Words(client->Ask("feed 1 300 60"), 1), "300");
  std::this_thread::sleep_for(milliseconds(1500));
  EXPECT_GT(admin.Stats().value().figures.Find("blocks"), 0u) << "held blocks stay";
  client.reset();
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (admin.Stats().value().figures.Find("blocks") != 0u && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(milliseconds(20));
  }
  const Figures figures = admin.Stats().value().figures;
  EXPECT_EQ(figures.Find("blocks"), 0u);
  EXPECT_GT(figures.Find("expired_blocks"), 0u);
}

TEST(RetentionProcessTest, AnotherUidIsAnotherTenant) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may run a client under another uid";
  KvantdProcess daemon({"--tenant", "red=0", "--tenant", "blue=1,2"});
  const std::filesystem::path socket(daemon.socket());
  std::filesystem::permissions(socket.parent_path(), std::filesystem::perms(0755));
  std::filesystem::permissions(socket, std::filesystem::perms(0666));
  const auto start_as = [&](const char* uid) {
    auto child = std::make_unique<Child>(std::vector<std::string>{"/usr/bin/setpriv", "--reuid", uid, "--regid", uid,
                                                                  "--clear-groups", kClient, daemon.socket(), "service"});
    EXPECT_EQ(child->ReadLine(kPatience).value_or(""), "ok ready");
    return child;
  };
  auto red = StartClient(daemon.socket());
  const auto opened = red->Ask("open 1 0");
  ASSERT_EQ(Words(red->Ask("feed 1 300 60"), 1), "300");
  auto blue = start_as("1");
  EXPECT_EQ(Words(blue->Ask("open 1 300"), 2), "0") << "another tenant's prefix is not found";
  ASSERT_EQ(Words(blue->Ask("feed 1 300 60"), 1), "300");
  const std::string refused = blue->Ask("fork " + Words(opened, 1) + " 1 100").value_or("");
  EXPECT_THAT(refused, StartsWith("error not_found"));
  EXPECT_THAT(refused, HasSubstr("is closed or was never opened"));
  auto also_blue = start_as("2");
  EXPECT_EQ(Words(also_blue->Ask("open 1 300"), 2), "256") << "the same tenant's is";
  auto admin = Admin::Connect(daemon.socket(), {.deadline = kPatience}).value();
  EXPECT_GT(admin.Stats().value().figures.Find("refused_foreign_sequences"), 0u);
  EXPECT_EQ(admin.Stats().value().figures.Find("tenants"), 2u);
  std::set<std::string> tenants;
  const std::vector<StoreRow> rows = admin.Stores().value();
  for (const StoreRow& row : rows) tenants.insert(row.tenant);
  EXPECT_EQ(tenants, (std::set<std::string>{"blue", "red"}));
  red.reset();
  blue.reset();
  also_blue.reset();
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (admin.Stats().value().figures.Find("sequences") != 0u && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(milliseconds(20));
  }
  const std::string identity = rows.at(0).identity;
  EXPECT_EQ(admin.Drop(identity).error().code, ErrorCode::kInvalidArgument) << "an identity of two tenants is ambiguous";
  EXPECT_EQ(admin.Drop(identity, "green").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(admin.Drop(identity, "blue").value().blocks, 4u);
  EXPECT_EQ(admin.Stores().value().at(0).tenant, "red");
  EXPECT_EQ(admin.Demote({.store = identity, .planes = 1, .tenant = "blue"}).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace kvant::testing
