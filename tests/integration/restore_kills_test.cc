// kill -9 of each process that takes part in a restore, at random instants of it: all of the file is there afterwards or
// nothing, others go on, nothing is left behind. KVANT_KILL_ROUNDS in the environment: how often each is killed.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/snapshot.h>

#include "tests/integration/held_memory.h"
#include "tests/integration/sealed_reader.h"
#include "tests/support/child.h"

namespace kvant::testing {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr std::uint64_t kSavedTexts = 40;
constexpr std::uint64_t kOwnText = 900;  // of somebody who does not take part
const std::vector<std::string> kHeld = {"--holder", "on", "--restart-pause", "0", "--budget", "64MiB"};

int Rounds() {
  const char* const given = std::getenv("KVANT_KILL_ROUNDS");
  return given == nullptr ? 12 : std::max(1, std::atoi(given));
}

class RestoreKillsTest : public ::testing::Test {
 protected:
  RestoreKillsTest() {
    KvantdProcess source{{"--budget", "64MiB"}};
    SealedReader writer(source.socket());
    for (std::uint64_t seed = 1; seed <= kSavedTexts; ++seed) writer.Write(RandomTokens(kTextTokens, seed));
    EXPECT_EQ(Kvantctl(source, "save")->Wait(), 0);
    all_ = ReadSnapshotInfo(File())->stores.front().blocks;
    bystander_.Write(own_);
    held_.emplace(bystander_.Open(own_));
    own_blocks_ = held_->length() / 64;
    own_.resize(held_->length());  // a block behind may be sealed late
    EvictOthers();
    own_rows_ = bystander_.Rows(*held_, held_->length());
    const auto begin = Clock::now();
    EXPECT_EQ(Kvantctl(daemon_, "restore")->Wait(), 0);
    took_ = std::chrono::duration_cast<microseconds>(Clock::now() - begin);
    EXPECT_EQ(Blocks(), own_blocks_ + all_);
    EvictOthers();
  }
  ~RestoreKillsTest() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] static std::filesystem::path NewFolder() {
    auto folder = std::filesystem::temp_directory_path() / ("kvant-restore-kills-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder);
    return folder;
  }
  [[nodiscard]] std::string File() const { return folder_ / "saved.safetensors"; }
  [[nodiscard]] std::unique_ptr<Child> Kvantctl(KvantdProcess& daemon, const char* what) {
    return std::make_unique<Child>(std::vector<std::string>{std::string(KVANT_PROGRAM_DIR) + "/kvantctl", "--socket",
                                                            daemon.socket(), "snapshot", what, File()});
  }
  [[nodiscard]] pid_t holder() { return daemon_.child().pid(); }
  [[nodiscard]] std::uint64_t Figure(const char* name) {
    return Admin::Connect(daemon_.socket()).value().Stats().value().figures.Find(name).value_or(0);
  }
  [[nodiscard]] std::uint64_t Blocks() { return Figure("blocks"); }
  /// What nobody leases goes, and its memory with it.
  void EvictOthers() {
    ASSERT_TRUE(WaitUntil([&] { return Figure("leases") == own_blocks_; }));
    ASSERT_TRUE(
        WaitUntil([&] { return Admin::Connect(daemon_.socket()).value().Evict({}).has_value() && Blocks() == own_blocks_; }));
  }
  void ExpectAllOrNothing() {
    const std::uint64_t blocks = Blocks();
    EXPECT_TRUE(blocks == own_blocks_ || blocks == own_blocks_ + all_) << blocks - own_blocks_ << " of " << all_;
    (blocks == own_blocks_ ? nothing_ : whole_) += 1;
  }
  void ExpectBystanderFindsItsOwn() {
    EXPECT_EQ(held_->length(), own_blocks_ * 64);
    EXPECT_TRUE(bystander_.Rows(*held_, held_->length()) == own_rows_);
  }
  /// Starts a restore, and `kill`s at some instant of the time that it takes.
  template <typename Kill>
  int RestoreUntil(Kill&& kill) {
    auto restorer = Kvantctl(daemon_, "restore");
    std::this_thread::sleep_for(microseconds(std::uniform_int_distribution<std::int64_t>(0, took_.count() * 5 / 4)(random_)));
    kill(*restorer);
    return restorer->Wait();
  }
  void Tell() const {
    std::cout << "killed " << Rounds() << " times: nothing was there " << nothing_ << " times, all of " << all_ << " blocks "
              << whole_ << " times\n";
  }

  const std::filesystem::path folder_ = NewFolder();
  KvantdProcess daemon_{kHeld};
  SealedReader bystander_{daemon_.socket()};
  std::vector<TokenId> own_ = RandomTokens(kTextTokens, kOwnText);
  std::optional<Sequence> held_;
  std::vector<float> own_rows_;
  std::uint64_t all_ = 0;
  std::uint64_t own_blocks_ = 0;
  microseconds took_{};
  std::mt19937 random_{20261201};
  int nothing_ = 0;
  int whole_ = 0;
};

TEST_F(RestoreKillsTest, OfTheClient) {
  const pid_t worker = bystander_.worker();
  const HeldMemory holder_before = HeldMemory::Of(holder()), worker_before = HeldMemory::Of(worker);
  for (int round = 0; round < Rounds(); ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    (void)RestoreUntil([](Child& restorer) { restorer.Signal(SIGKILL); });
    ASSERT_TRUE(WaitUntil([&] { return Figure("leases") == own_blocks_; }));
    ExpectAllOrNothing();
    ExpectBystanderFindsItsOwn();
    EvictOthers();
    ASSERT_FALSE(HasFatalFailure());
    EXPECT_TRUE(WaitUntil([&] {
      return HeldMemory::Of(holder()).descriptors == holder_before.descriptors &&
             HeldMemory::Of(worker).descriptors == worker_before.descriptors;
    })) << HeldMemory::Of(worker).descriptors
        << " descriptors, there were " << worker_before.descriptors;
    EXPECT_LE(HeldMemory::Of(worker).bytes, worker_before.bytes + 4096);
  }
  EXPECT_EQ(bystander_.worker(), worker);
  Tell();
}

TEST_F(RestoreKillsTest, OfTheWorker) {
  const HeldMemory before = HeldMemory::Of(holder());
  for (int round = 0; round < Rounds(); ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const int code = RestoreUntil([&](Child&) { ASSERT_EQ(::kill(bystander_.worker(), SIGKILL), 0); });
    EXPECT_TRUE(code == 0 || code == 3) << code;
    held_.reset();
    bystander_.Reconnect();
    held_.emplace(bystander_.Open(own_));
    ExpectBystanderFindsItsOwn();
    ExpectAllOrNothing();
    if (code == 0) {
      EXPECT_EQ(Blocks(), own_blocks_ + all_) << "kvantctl said that all was restored";
    }
    EvictOthers();
    ASSERT_FALSE(HasFatalFailure());
    EXPECT_TRUE(WaitUntil([&] { return HeldMemory::Of(holder()).descriptors == before.descriptors; }))
        << HeldMemory::Of(holder()).descriptors << " descriptors, there were " << before.descriptors;
    EXPECT_EQ(Figure("corrupt_parts"), 0u);
  }
  Tell();
}

/// Memory ends with its holder; what is left is that nothing is, and that the next daemon takes the file.
TEST_F(RestoreKillsTest, OfTheHolder) {
  for (int round = 0; round < std::max(1, Rounds() / 3); ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const pid_t worker = bystander_.worker();
    const int code = RestoreUntil([&](Child&) { daemon_.child().Signal(SIGKILL); });
    EXPECT_TRUE(code == 0 || code == 3) << code;
    EXPECT_EQ(daemon_.child().Wait(), 128 + SIGKILL);
    EXPECT_TRUE(WaitUntil([&] { return !IsRunning(worker); }));
    EXPECT_TRUE(WaitUntil([&] { return !std::filesystem::exists(daemon_.socket()); }));
    daemon_.Restart();
    held_.reset();
    bystander_.Reconnect();
    EXPECT_EQ(Blocks(), 0u);
    ASSERT_EQ(Kvantctl(daemon_, "restore")->Wait(), 0);
    EXPECT_EQ(Blocks(), all_);
  }
}

}  // namespace
}  // namespace kvant::testing
