// kvantd under a service manager: a stand-in for systemd that has its socket, its file descriptor store and its notifications,
// and the configuration that is read again.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>

#include "daemon/holder/held.h"
#include "protocol/memfd.h"
#include "tests/support/child.h"

namespace kvant::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

bool WaitUntil(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

protocol::UniqueFd BoundSocket(const std::string& path, int type) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  protocol::UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    throw std::runtime_error("bind " + path);
  }
  return socket;
}

/// What of systemd a unit sees: sd_notify(3), sd_listen_fds(3), and one unit's state.
class Systemd {
 public:
  Systemd() {
    std::string pattern = (std::filesystem::temp_directory_path() / "kvant-systemd-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    folder_ = pattern;
    notify_ = BoundSocket(folder_ + "/notify", SOCK_DGRAM);
    listener_ = BoundSocket(socket(), SOCK_STREAM);
    ::listen(listener_.get(), 16);
  }
  ~Systemd() {
    unit_.reset();
    std::filesystem::remove_all(folder_);
  }
  Systemd(const Systemd&) = delete;
  Systemd& operator=(const Systemd&) = delete;

  [[nodiscard]] std::string socket() const { return folder_ + "/kvantd.sock"; }
  [[nodiscard]] Child& unit() { return *unit_; }
  [[nodiscard]] const daemon::Held& store() const { return held_; }
  [[nodiscard]] const std::set<std::string>& heard() const { return heard_; }

  /// With everything that the store has; waits until the unit is ready.
  void StartUnit() {
    std::vector<int> passed = {listener_.get()};
    for (const auto& [name, fd] : held_.all()) passed.push_back(fd.get());
    std::string script;
    std::vector<protocol::UniqueFd> copies;  // out of the way of the numbers they are to get, and inherited
    for (std::size_t i = 0; i < passed.size(); ++i) {
      copies.emplace_back(::fcntl(passed[i], F_DUPFD, 100));
      script += "exec " + std::to_string(3 + i) + "<&" + std::to_string(copies.back().get()) + "; ";
    }
    for (const auto& copy : copies) script += "exec " + std::to_string(copy.get()) + "<&-; ";
    script += "export NOTIFY_SOCKET='" + folder_ + "/notify' LISTEN_PID=$$ LISTEN_FDS=" + std::to_string(passed.size()) +
              "; exec '" + KVANT_PROGRAM_DIR + "/kvantd' --holder systemd --log-level warn --socket '" + socket() + "'";
    heard_.clear();
    unit_ = std::make_unique<Child>(std::vector<std::string>{"/bin/bash", "-c", script});
    if (!WaitUntil([this] { return Listen(), heard_.contains("READY=1"); })) throw std::runtime_error("the unit is not ready");
  }

  /// All notifications that are there.
  void Listen() {
    while (auto told = daemon::ReceiveNotification(notify_.get())) {
      heard_.insert(told->text);
      EXPECT_NE(held_.Hear(told->text, std::move(told->fd)), daemon::Held::Heard::kRefused) << told->text;
    }
  }

 private:
  std::string folder_;
  protocol::UniqueFd notify_;
  protocol::UniqueFd listener_;
  daemon::Held held_;
  std::set<std::string> heard_;
  std::unique_ptr<Child> unit_;
};

TEST(SystemdTest, MemoryOutlivesACrashAndARestartInTheFileDescriptorStore) {
  Systemd systemd;
  systemd.StartUnit();
  EXPECT_TRUE(WaitUntil([&] { return systemd.Listen(), systemd.heard().contains("WATCHDOG=1"); }));
  Child client({std::string(KVANT_PROGRAM_DIR) + "/kvant_test_client", systemd.socket(), "service"});
  ASSERT_EQ(client.ReadLine().value_or("nothing"), "ok ready");
  ASSERT_THAT(client.Ask("open 1 0").value_or(""), StartsWith("ok"));
  ASSERT_THAT(client.Ask("feed 1 300 60").value_or(""), StartsWith("ok 300"));
  const std::string outputs = client.Ask("feed 1 20 20").value_or("");
  const auto expect_warm = [&] {
    ASSERT_THAT(client.Ask("reconnect").value_or(""), StartsWith("ok"));
    ASSERT_THAT(client.Ask("open 1 300").value_or(""), HasSubstr(" 256"));
    ASSERT_THAT(client.Ask("feed 1 44 44").value_or(""), StartsWith("ok 300"));
    EXPECT_EQ(client.Ask("feed 1 20 20").value_or(""), outputs);
  };

  systemd.unit().Signal(SIGKILL);
  EXPECT_EQ(systemd.unit().Wait(), 128 + SIGKILL);
  systemd.Listen();
  EXPECT_GE(systemd.store().all().size(), 2u);
  systemd.StartUnit();
  expect_warm();

  systemd.unit().Signal(SIGTERM);
  EXPECT_EQ(systemd.unit().Wait(), 0);
  systemd.Listen();
  EXPECT_TRUE(systemd.heard().contains("STOPPING=1"));
  EXPECT_TRUE(std::filesystem::exists(systemd.socket())) << "systemd's socket";
  systemd.StartUnit();
  expect_warm();
}

TEST(SystemdTest, WithoutASocketToNotifyItSaysSo) {
  Child daemon({"/usr/bin/env", "-u", "NOTIFY_SOCKET", std::string(KVANT_PROGRAM_DIR) + "/kvantd", "--holder", "systemd",
                "--socket", ::testing::TempDir() + "/kvant-no-systemd.sock"});
  EXPECT_EQ(daemon.Wait(), 3);
}

TEST(ReloadTest, SighupRaisesTheBudgetAndABadFileChangesNothing) {
  const std::string path = ::testing::TempDir() + "/kvant-reload-" + std::to_string(::getpid()) + ".toml";
  const auto write = [&](const std::string& content) { std::ofstream(path) << content; };
  for (const char* holder : {"on", "off"}) {
    write("budget = \"8MiB\"\n");
    KvantdProcess daemon({"--config", path, "--holder", holder, "--log-level", "off"});
    const auto budget = [&] { return Admin::Connect(daemon.socket()).value().Stats().value().figures.Find("budget_bytes"); };
    ASSERT_EQ(budget(), std::uint64_t{8} << 20);
    write("budget = \"16MiB\"\n");
    daemon.child().Signal(SIGHUP);
    EXPECT_TRUE(WaitUntil([&] { return budget() == std::uint64_t{16} << 20; }));
    for (const char* bad : {"budget = \"4MiB\"\n", "bugdet = \"32MiB\"\n", "budget = \"32TiB\"\n", "budget = [\n"}) {
      write(bad);
      daemon.child().Signal(SIGHUP);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      EXPECT_EQ(budget(), std::uint64_t{16} << 20) << bad;
    }
    write("budget = \"24MiB\"\n");
    daemon.child().Signal(SIGHUP);
    EXPECT_TRUE(WaitUntil([&] { return budget() == std::uint64_t{24} << 20; })) << "it still listens";
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace kvant::testing
