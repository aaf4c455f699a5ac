// kvantd --state-dir: drained or told to end, a daemon comes back with the same blocks, and no accident takes the old file.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tests/support/child.h"

namespace kvant::testing {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kStateNotSaved = 5;

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Standard error of this process, and of those it starts, goes to a file meanwhile.
class CapturedErrors {
 public:
  explicit CapturedErrors(std::filesystem::path file) : file_(std::move(file)), before_(::dup(STDERR_FILENO)) {
    const int fd = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    ::dup2(fd, STDERR_FILENO);
    ::close(fd);
  }
  ~CapturedErrors() {
    ::dup2(before_, STDERR_FILENO);
    ::close(before_);
  }
  CapturedErrors(const CapturedErrors&) = delete;
  CapturedErrors& operator=(const CapturedErrors&) = delete;
  [[nodiscard]] std::string text() const { return ReadFile(file_); }

 private:
  const std::filesystem::path file_;
  const int before_;
};

class StateDirTest : public ::testing::Test {
 protected:
  ~StateDirTest() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] static std::filesystem::path NewFolder() {
    auto folder = std::filesystem::temp_directory_path() / ("kvant-state-dir-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder / "state");
    return folder;
  }
  [[nodiscard]] std::filesystem::path state_dir() const { return folder_ / "state"; }
  [[nodiscard]] std::filesystem::path file() const { return state_dir() / "state.safetensors"; }
  void Start(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"--state-dir", state_dir(), "--log-level", "info"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    daemon_ = std::make_unique<KvantdProcess>(arguments);
  }
  [[nodiscard]] int End() {
    daemon_->child().Signal(SIGTERM);
    return daemon_->child().Wait();
  }
  [[nodiscard]] std::uint64_t Blocks() {
    return Admin::Connect(daemon_->socket()).value().Stats().value().figures.Find("blocks").value_or(0);
  }
  /// A client that has fed 300 tokens and then 20 more, whose outputs it answers with.
  [[nodiscard]] std::string Write(Child& client) {
    EXPECT_EQ(client.ReadLine().value_or(""), "ok ready");
    EXPECT_THAT(client.Ask("open 1 0").value_or(""), StartsWith("ok"));
    EXPECT_THAT(client.Ask("feed 1 300 60").value_or(""), StartsWith("ok 300"));
    return client.Ask("feed 1 20 20").value_or("");
  }
  /// The same of a new sequence over what is sealed, in a daemon that has come since.
  [[nodiscard]] std::string WriteAgain(Child& client) {
    EXPECT_THAT(client.Ask("reconnect").value_or(""), StartsWith("ok"));
    EXPECT_THAT(client.Ask("open 1 300").value_or(""), HasSubstr(" 256"));
    EXPECT_THAT(client.Ask("feed 1 44 44").value_or(""), StartsWith("ok 300"));
    return client.Ask("feed 1 20 20").value_or("");
  }
  [[nodiscard]] std::unique_ptr<Child> Client(const char* placement = "service") {
    return std::make_unique<Child>(
        std::vector<std::string>{std::string(KVANT_PROGRAM_DIR) + "/kvant_test_client", daemon_->socket(), placement});
  }

  const std::filesystem::path folder_ = NewFolder();
  CapturedErrors log_{folder_ / "log"};
  std::unique_ptr<KvantdProcess> daemon_;
};

TEST_F(StateDirTest, TheWarmAnswerAfterwardsIsTheSameBitForBit) {
  Start();
  auto service = Client(), local = Client("local");
  const std::string outputs = Write(*service), outputs_local = Write(*local);
  EXPECT_EQ(End(), 0);
  EXPECT_THAT(log_.text(), HasSubstr("state saved file=" + file().string()));
  daemon_->Restart();
  EXPECT_EQ(WriteAgain(*service), outputs);
  EXPECT_EQ(WriteAgain(*local), outputs_local);
}

TEST_F(StateDirTest, WhatAHolderHoldsIsNewerThanTheFile) {
  Start({"--holder", "on", "--restart-pause", "0"});
  auto client = Client();
  const std::string outputs = Write(*client);
  EXPECT_EQ(End(), 0);
  daemon_->Restart();
  EXPECT_EQ(WriteAgain(*client), outputs);
  ASSERT_GT(Blocks(), 0u);
  client.reset();

  // An administrator drops everything: a worker that dies must not bring it back from the file.
  auto admin = Admin::Connect(daemon_->socket()).value();
  const pid_t worker = static_cast<pid_t>(admin.daemon().pid);
  for (const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);;) {
    const auto stores = admin.Stores().value();
    if (!stores.empty() && admin.Drop(stores.front().name)) break;
    ASSERT_LT(std::chrono::steady_clock::now(), end);
    std::this_thread::sleep_for(milliseconds(5));
  }
  ASSERT_EQ(::kill(worker, SIGKILL), 0);
  for (const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);;) {
    auto again = Admin::Connect(daemon_->socket());
    if (again && static_cast<pid_t>(again->daemon().pid) != worker) break;
    ASSERT_LT(std::chrono::steady_clock::now(), end);
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_EQ(Blocks(), 0u);
  EXPECT_THAT(log_.text(), HasSubstr("state file not read"));
  EXPECT_EQ(End(), 0);
  daemon_->Restart();
  EXPECT_EQ(Blocks(), 0u) << "the file was not replaced";
}

TEST_F(StateDirTest, ADamagedFileIsKeptAsideAndTheDaemonBeginsEmpty) {
  Start();
  auto client = Client();
  (void)Write(*client);
  EXPECT_EQ(End(), 0);
  std::string bytes = ReadFile(file());
  for (const std::size_t at : {bytes.size() / 2, std::size_t{100}}) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    std::ofstream(file(), std::ios::binary).write(damaged.data(), static_cast<std::streamsize>(damaged.size()));
    daemon_->Restart();
    EXPECT_EQ(Blocks(), 0u);
    const std::string aside = state_dir() / (at == 100 ? "state.aside-2.safetensors" : "state.aside-1.safetensors");
    EXPECT_TRUE(ReadFile(aside) == damaged);
    EXPECT_FALSE(std::filesystem::exists(file()));
    EXPECT_THAT(log_.text(), HasSubstr("state not restored, the daemon begins empty kept=" + aside + " reason="));
    EXPECT_EQ(End(), 0);
    EXPECT_TRUE(std::filesystem::exists(file())) << "the empty state was saved";
  }
}

TEST_F(StateDirTest, WithoutRoomOnTheDiskOrTimeTheOldFileStaysAndTheExitCodeSaysSo) {
  Start({"--holder", "on"});
  auto client = Client();
  (void)Write(*client);
  ASSERT_TRUE(Admin::Connect(daemon_->socket())->Drain());
  EXPECT_EQ(daemon_->child().Wait(), 0);
  const std::string old = ReadFile(file());
  ASSERT_GT(old.size(), 4096u);

  daemon_->Restart();
  const pid_t worker = static_cast<pid_t>(Admin::Connect(daemon_->socket())->daemon().pid);
  const rlimit limit{.rlim_cur = old.size() / 2, .rlim_max = old.size() / 2};
  ASSERT_EQ(::prlimit(worker, RLIMIT_FSIZE, &limit, nullptr), 0);
  ASSERT_TRUE(Admin::Connect(daemon_->socket())->Drain());
  EXPECT_EQ(daemon_->child().Wait(), kStateNotSaved) << "the holder must not start another worker";
  EXPECT_TRUE(ReadFile(file()) == old);
  EXPECT_THAT(log_.text(), HasSubstr("state not saved, the old file stays as it was"));
  EXPECT_THAT(log_.text(), HasSubstr("File too large"));

  daemon_.reset();
  Start({"--save-timeout", "0"});
  EXPECT_EQ(Blocks(), 4u);
  EXPECT_EQ(End(), kStateNotSaved);
  EXPECT_TRUE(ReadFile(file()) == old);
  EXPECT_THAT(log_.text(), HasSubstr("not done after 0 ms (--save-timeout)"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(state_dir()), {}), 1) << "something was left behind";
}

TEST_F(StateDirTest, AFolderThatCannotBeUsedIsSaidAtTheStart) {
  Start();
  const auto other = [&](const std::string& folder) {
    Child second({std::string(KVANT_PROGRAM_DIR) + "/kvantd", "--socket", folder_ / "other.sock", "--holder", "off",
                  "--state-dir", folder});
    return second.Wait();
  };
  EXPECT_EQ(other(state_dir()), 3);
  EXPECT_THAT(log_.text(), HasSubstr("another daemon uses it"));
  EXPECT_EQ(other(folder_ / "none"), 3);
  EXPECT_EQ(End(), 0);
}

TEST_F(StateDirTest, KilledWhileItSavesTheOldFileStaysOrTheNewOneIsThere) {
  const char* const given = std::getenv("KVANT_KILL_ROUNDS");
  const int rounds = given == nullptr ? 8 : std::max(1, std::atoi(given));
  Start();
  auto client = Client();
  const std::string outputs = Write(*client);
  EXPECT_EQ(End(), 0);
  for (int round = 0; round < rounds; ++round) {
    daemon_->Restart();
    ASSERT_EQ(WriteAgain(*client), outputs) << "round " << round;
    daemon_->child().Signal(SIGTERM);
    std::this_thread::sleep_for(std::chrono::microseconds(8'000 + 1'997 * round % 10'000));  // the save begins after 10 ms
    daemon_->child().Signal(SIGKILL);
    (void)daemon_->child().Wait();
  }
  daemon_->Restart();
  EXPECT_EQ(WriteAgain(*client), outputs);
}

}  // namespace
}  // namespace kvant::testing
