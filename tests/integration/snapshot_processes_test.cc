// Snapshots among processes: saved while others append, killed at any moment, two at once. KVANT_KILL_ROUNDS in the
// environment: how often savers and restorers are killed.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/snapshot.h>

#include "tests/support/child.h"

namespace kvant::testing {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

int Rounds() {
  const char* const given = std::getenv("KVANT_KILL_ROUNDS");
  return given == nullptr ? 6 : std::max(1, std::atoi(given));
}

class SnapshotProcessesTest : public ::testing::Test {
 protected:
  ~SnapshotProcessesTest() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] static std::filesystem::path NewFolder() {
    auto folder = std::filesystem::temp_directory_path() / ("kvant-snapshots-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder);
    return folder;
  }
  [[nodiscard]] std::string File() const { return folder_ / "saved.safetensors"; }
  [[nodiscard]] std::unique_ptr<Child> Client(KvantdProcess& daemon) {
    auto child = std::make_unique<Child>(
        std::vector<std::string>{std::string(KVANT_PROGRAM_DIR) + "/kvant_test_client", daemon.socket(), "service"});
    EXPECT_EQ(child->ReadLine().value_or(""), "ok ready");
    return child;
  }
  [[nodiscard]] std::unique_ptr<Child> Kvantctl(KvantdProcess& daemon, std::vector<std::string> words) {
    std::vector<std::string> command = {std::string(KVANT_PROGRAM_DIR) + "/kvantctl", "--socket", daemon.socket(), "snapshot"};
    command.insert(command.end(), words.begin(), words.end());
    return std::make_unique<Child>(command);
  }
  /// Two processes that append texts of their own, of which each has fed at least `texts`; the seeds of those.
  std::vector<std::string> StartStorm(int texts) {
    std::vector<std::string> fed;
    for (const char* seed : {"1000", "2000"}) {
      auto writer = Client(daemon_);
      writer->Send(std::string("flood ") + seed);
      for (int i = 0; i < texts; ++i) {
        const std::string line = writer->ReadLine().value_or("");
        EXPECT_THAT(line, StartsWith("done "));
        fed.push_back(line.substr(5));
      }
      writers_.push_back(std::move(writer));
    }
    return fed;
  }
  /// What attention says of 16 tokens behind the sealed prefix of a text.
  [[nodiscard]] std::string Answer(KvantdProcess& daemon, const std::string& seed) {
    auto client = Client(daemon);
    EXPECT_THAT(client->Ask("open " + seed + " 384").value_or(""), HasSubstr(" 384"));
    return client->Ask("feed " + seed + " 16 16").value_or("");
  }
  [[nodiscard]] static std::uint64_t Blocks(KvantdProcess& daemon) {
    return Admin::Connect(daemon.socket()).value().Stats().value().figures.Find("blocks").value_or(0);
  }
  static void WaitUntilNothingIsHeld(KvantdProcess& daemon) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (Admin::Connect(daemon.socket()).value().Stats().value().figures.Find("leases") != 0) {
      ASSERT_LT(std::chrono::steady_clock::now(), end);
      std::this_thread::sleep_for(milliseconds(5));
    }
  }

  const std::filesystem::path folder_ = NewFolder();
  KvantdProcess daemon_{{"--budget", "64MiB"}};
  std::vector<std::unique_ptr<Child>> writers_;
};

TEST_F(SnapshotProcessesTest, SavedUnderAStormEveryBlockIsWholeAndAnswersAreTheSame) {
  const std::vector<std::string> fed = StartStorm(4);
  ASSERT_EQ(Kvantctl(daemon_, {"save", File()})->Wait(), 0);
  for (const auto& writer : writers_) writer->Stop();
  const auto damaged = VerifySnapshot(File());
  ASSERT_TRUE(damaged) << damaged.error().message;
  EXPECT_TRUE(damaged->empty());
  const auto info = ReadSnapshotInfo(File());
  ASSERT_EQ(info->stores.size(), 1u);
  EXPECT_GE(info->stores.front().blocks, fed.size() * 5);

  KvantdProcess fresh{{"--budget", "64MiB"}};
  ASSERT_EQ(Kvantctl(fresh, {"restore", File()})->Wait(), 0);
  EXPECT_EQ(Blocks(fresh), info->stores.front().blocks);
  for (const std::string& seed : {fed.front(), fed.back()}) EXPECT_EQ(Answer(fresh, seed), Answer(daemon_, seed)) << seed;
}

TEST_F(SnapshotProcessesTest, ASaverThatIsKilledLeavesTheOldFileOrTheNewOne) {
  (void)StartStorm(4);
  ASSERT_EQ(Kvantctl(daemon_, {"save", File()})->Wait(), 0);
  std::mt19937 random(7);
  for (int round = 0; round < Rounds(); ++round) {
    auto saver = Kvantctl(daemon_, {"save", File()});
    std::this_thread::sleep_for(std::chrono::microseconds(std::uniform_int_distribution<int>(0, 60'000)(random)));
    saver->Signal(SIGKILL);
    (void)saver->Wait();
    const auto damaged = VerifySnapshot(File());
    ASSERT_TRUE(damaged) << "round " << round << ": " << damaged.error().message;
    EXPECT_TRUE(damaged->empty());
  }
  writers_.clear();
  WaitUntilNothingIsHeld(daemon_);
  ASSERT_EQ(Kvantctl(daemon_, {"save", File()})->Wait(), 0);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1) << "the next saver takes over what was left";
}

TEST_F(SnapshotProcessesTest, ARestorerThatIsKilledLeavesAllOrNothing) {
  (void)StartStorm(4);
  for (const auto& writer : writers_) writer->Stop();
  ASSERT_EQ(Kvantctl(daemon_, {"save", File()})->Wait(), 0);
  const std::uint64_t all = ReadSnapshotInfo(File())->stores.front().blocks;
  KvantdProcess fresh{{"--budget", "64MiB"}};
  std::mt19937 random(8);
  for (int round = 0; round < Rounds(); ++round) {
    auto restorer = Kvantctl(fresh, {"restore", File()});
    std::this_thread::sleep_for(std::chrono::microseconds(std::uniform_int_distribution<int>(0, 60'000)(random)));
    restorer->Signal(SIGKILL);
    (void)restorer->Wait();
    WaitUntilNothingIsHeld(fresh);
    const std::uint64_t blocks = Blocks(fresh);
    EXPECT_TRUE(blocks == 0 || blocks == all) << blocks << " of " << all;
    ASSERT_TRUE(Admin::Connect(fresh.socket())->Evict({}));
    EXPECT_EQ(Blocks(fresh), 0u);
  }
  ASSERT_EQ(Kvantctl(fresh, {"restore", File()})->Wait(), 0);
  EXPECT_EQ(Blocks(fresh), all);

  // The daemon dies under a restorer: that one says so.
  auto restorer = Kvantctl(fresh, {"restore", File()});
  fresh.child().Signal(SIGKILL);
  const int code = restorer->Wait();
  EXPECT_TRUE(code == 0 || code == 3) << code;
}

TEST_F(SnapshotProcessesTest, TwoSaversAtOnceLeaveOneWholeFile) {
  (void)StartStorm(2);
  for (int round = 0; round < 4; ++round) {
    auto first = Kvantctl(daemon_, {"save", File()}), second = Kvantctl(daemon_, {"save", File()});
    const int codes[] = {first->Wait(), second->Wait()};
    EXPECT_TRUE(codes[0] == 0 || codes[1] == 0) << codes[0] << " and " << codes[1];
    for (const int code : codes) EXPECT_TRUE(code == 0 || code == 8) << code;  // 8: not now, another is writing it
    EXPECT_TRUE(VerifySnapshot(File())->empty());
  }
}

TEST_F(SnapshotProcessesTest, ADiskThatIsFullAndAFolderThatIsNotThereAreSaid) {
  (void)StartStorm(2);
  ASSERT_EQ(Kvantctl(daemon_, {"save", File()})->Wait(), 0);
  const auto bytes = std::filesystem::file_size(File());
  Child full({"/bin/sh", "-c",
              "ulimit -f 8; exec " KVANT_PROGRAM_DIR "/kvantctl --socket " + daemon_.socket() + " snapshot save " + File()});
  EXPECT_EQ(full.Wait(), 1);
  EXPECT_TRUE(VerifySnapshot(File())->empty());
  const std::string link = folder_ / "link";
  std::filesystem::create_symlink(File(), link);
  EXPECT_EQ(Kvantctl(daemon_, {"save", link})->Wait(), 1) << "a link would be replaced";
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_EQ(Kvantctl(daemon_, {"save", folder_ / "none" / "file"})->Wait(), 1);
  EXPECT_EQ(Kvantctl(daemon_, {"restore", folder_ / "none"})->Wait(), 4);
  EXPECT_EQ(std::filesystem::file_size(File()), bytes);
}

}  // namespace
}  // namespace kvant::testing
