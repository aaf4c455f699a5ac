// A kvantd whose worker is killed, whose holder is, and that is replaced: what was sealed is there afterwards, bit for bit, and
// nothing is left behind. KVANT_KILL_ROUNDS in the environment: how often the worker is killed in the loop.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tests/integration/held_memory.h"
#include "tests/integration/sealed_reader.h"
#include "tests/support/child.h"
#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::uint64_t kBudget = std::uint64_t{8} << 20;
const std::vector<std::string> kHeld = {"--holder", "on", "--restart-pause", "0", "--budget", "8MiB"};

class WarmRestartTest : public ::testing::Test {
 protected:
  [[nodiscard]] pid_t holder() { return daemon_.child().pid(); }
  [[nodiscard]] Figures Stats() { return Admin::Connect(daemon_.socket()).value().Stats().value().figures; }
  [[nodiscard]] std::unique_ptr<Child> StartClient(const std::string& placement) {
    auto child = std::make_unique<Child>(
        std::vector<std::string>{std::string(KVANT_PROGRAM_DIR) + "/kvant_test_client", daemon_.socket(), placement});
    EXPECT_EQ(child->ReadLine().value_or("nothing"), "ok ready");
    return child;
  }

  KvantdProcess daemon_{kHeld};
};

/// Private memory of a process that is resident.
std::size_t PrivateBytes(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("RssAnon:")) return std::stoul(line.substr(8)) * 1024;
  }
  return 0;
}

/// Files of ours in /dev/shm: there never is one.
std::size_t NamesInSharedMemory() {
  std::size_t names = 0;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", none)) {
    names += entry.path().filename().string().find("kvant") != std::string::npos ? 1 : 0;
  }
  return names;
}

std::size_t Rounds() {
  const char* const rounds = std::getenv("KVANT_KILL_ROUNDS");
  return rounds == nullptr ? 30 : static_cast<std::size_t>(std::max(1, std::atoi(rounds)));
}

TEST_F(WarmRestartTest, AWorkerKilledAgainAndAgainLosesNothingThatWasSealed) {
  const HeldMemory at_start = HeldMemory::Of(holder());
  const auto metadata_at_start = Stats().Find("metadata_bytes");
  const std::size_t names_at_start = NamesInSharedMemory();
  std::size_t private_at_start = 0;  // of the holder, once it has seen a few workers
  std::map<std::string, std::unique_ptr<Child>> writers;
  std::uint64_t next_seed = 1;
  const auto start_writer = [&](const std::string& placement) {
    writers[placement] = StartClient(placement);
    writers[placement]->Send("flood " + std::to_string(next_seed));
    next_seed += 1'000'000;
  };
  start_writer("service");
  start_writer("local");
  auto reader = std::make_unique<SealedReader>(daemon_.socket());
  SealedReader reference("embedded:");
  std::mt19937 random(20261201);
  std::deque<std::uint64_t> texts;  // that a writer has fed as a whole, the newest last
  std::size_t checked = 0;
  std::uint64_t evicted = 0;
  /// Takes note of what a writer has done until it says `word`.
  const auto read_until = [&texts](Child& writer, const std::string& word) {
    for (;;) {
      const auto line = writer.ReadLine(seconds(120));
      ASSERT_TRUE(line) << "waiting for " << word;
      if (*line == word) return;
      ASSERT_THAT(*line, StartsWith("done "));
      texts.push_back(std::stoull(line->substr(5)));
    }
  };
  for (std::size_t round = 0; round < Rounds(); ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    for (auto& [placement, writer] : writers) {
      const auto first_wait = texts.empty() ? milliseconds(20'000) : milliseconds(5);
      for (auto line = writer->ReadLine(first_wait); line; line = writer->ReadLine(milliseconds(5))) {
        ASSERT_THAT(*line, StartsWith("done "));
        texts.push_back(std::stoull(line->substr(5)));
      }
    }
    ASSERT_FALSE(texts.empty());
    while (texts.size() > 3) texts.pop_front();
    if (round % 7 == 6) start_writer(round % 2 == 0 ? "service" : "local");  // its predecessor is killed with -9
    std::this_thread::sleep_for(std::chrono::microseconds(std::uniform_int_distribution<int>(0, 150'000)(random)));
    if (round == 9) private_at_start = PrivateBytes(holder());
    if (round % 10 == 9) evicted += Stats().Find("evicted_blocks").value_or(0);
    // Held until the kill, and writers do not come back before all is compared: nothing here may be evicted, however slow
    // this thread is.
    std::map<std::uint64_t, Sequence> sealed;
    for (const std::uint64_t seed : texts) sealed.emplace(seed, reader->Open(RandomTokens(kTextTokens, seed)));

    const pid_t killed = reader->worker();
    ASSERT_EQ(::kill(killed, SIGKILL), 0);
    reader->Reconnect();
    ASSERT_FALSE(HasFatalFailure());
    EXPECT_NE(reader->worker(), killed);
    for (const auto& [seed, held] : sealed) {
      SCOPED_TRACE("text " + std::to_string(seed));
      const std::uint64_t length = reader->ExpectSameAs(reference, RandomTokens(kTextTokens, seed));
      ASSERT_GE(length, held.length());
      checked += length / 64;
    }
    EXPECT_LE(HeldMemory::Of(holder()).bytes, kBudget);
    EXPECT_EQ(Stats().Find("corrupt_parts"), 0u);
    for (auto& [placement, writer] : writers) {
      read_until(*writer, "lost");
      ASSERT_FALSE(HasFatalFailure());
      writer->Send("on");
      read_until(*writer, "back");  // else the next kill could find it between two daemons, and it would not stop
      ASSERT_FALSE(HasFatalFailure());
    }
  }
  EXPECT_GT(checked, Rounds());
  RecordProperty("blocks_checked", std::to_string(checked));
  RecordProperty("blocks_evicted_at_least", std::to_string(evicted));
  std::cout << "killed " << Rounds() << " times, " << checked << " blocks compared, at least " << evicted << " evicted\n";

  // What nobody holds any more is the daemon's to give back, all of it.
  const pid_t worker = reader->worker();
  writers.clear();
  reader.reset();
  ASSERT_TRUE(WaitUntil([&] { return Stats().Find("sequences") == 0; }));
  auto admin = Admin::Connect(daemon_.socket()).value();
  const std::vector<StoreRow> stores = admin.Stores().value();
  for (const StoreRow& store : stores) ASSERT_TRUE(admin.Drop(store.name));
  EXPECT_TRUE(WaitUntil([&] { return HeldMemory::Of(holder()).segments == 0; }));
  EXPECT_TRUE(WaitUntil([&] { return HeldMemory::Of(worker).segments == 0; }));
  EXPECT_EQ(HeldMemory::Of(holder()).descriptors, at_start.descriptors);
  EXPECT_EQ(Stats().Find("metadata_bytes"), metadata_at_start) << "what the daemon remembers of evicted blocks";
  if (!kSanitized) {
    EXPECT_LE(PrivateBytes(holder()), private_at_start + (std::size_t{1} << 20));
  }
  EXPECT_EQ(NamesInSharedMemory(), names_at_start);
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(daemon_.socket()).parent_path())) {
    left.push_back(entry.path().filename().string());
  }
  EXPECT_THAT(left, ::testing::UnorderedElementsAre("kvantd.sock", "kvantd.sock.lock"));
}

TEST_F(WarmRestartTest, AMappingOfTheDeadWorkersSlabsIsNotReadAfterwards) {
  auto local = StartClient("local");
  ASSERT_THAT(local->Ask("open 1 0").value_or(""), StartsWith("ok"));
  ASSERT_THAT(local->Ask("feed 1 400 50").value_or(""), StartsWith("ok 400"));
  ASSERT_EQ(local->Ask("look").value_or(""), "ok looked");
  SealedReader reader(daemon_.socket());
  ASSERT_EQ(::kill(reader.worker(), SIGKILL), 0);
  reader.Reconnect();
  const std::string looked = local->Ask("look").value_or("");
  EXPECT_THAT(looked, StartsWith("error disconnected"));
  EXPECT_THAT(looked, HasSubstr("another one has taken over"));
  ASSERT_THAT(local->Ask("reconnect").value_or(""), StartsWith("ok"));
  EXPECT_THAT(local->Ask("open 1 400").value_or(""), HasSubstr(" 384"));
  EXPECT_THAT(local->Ask("feed 1 20 20").value_or(""), StartsWith("ok 404"));
}

TEST_F(WarmRestartTest, ASuccessorTakesOverAndAnswersWithTheSameBits) {
  auto client = StartClient("service");
  ASSERT_THAT(client->Ask("open 1 0").value_or(""), StartsWith("ok"));
  ASSERT_THAT(client->Ask("feed 1 300 60").value_or(""), StartsWith("ok 300"));
  const std::string outputs = client->Ask("feed 1 20 20").value_or("");
  SealedReader reader(daemon_.socket());
  const pid_t before = reader.worker();
  ASSERT_EQ(::kill(holder(), SIGUSR2), 0);
  ASSERT_TRUE(WaitUntil([&] { return !reader.client().Ping().has_value(); }));
  reader.Reconnect();
  EXPECT_NE(reader.worker(), before);
  EXPECT_THAT(client->Ask("ping").value_or(""), StartsWith("error disconnected"));
  ASSERT_THAT(client->Ask("reconnect").value_or(""), StartsWith("ok"));
  ASSERT_THAT(client->Ask("open 1 300").value_or(""), HasSubstr(" 256"));
  ASSERT_THAT(client->Ask("feed 1 44 44").value_or(""), StartsWith("ok 300"));
  EXPECT_EQ(client->Ask("feed 1 20 20").value_or(""), outputs);
  daemon_.child().Signal(SIGTERM);
  EXPECT_EQ(daemon_.child().Wait(), 0);
  EXPECT_FALSE(std::filesystem::exists(daemon_.socket()));
  EXPECT_FALSE(std::filesystem::exists(daemon_.socket() + ".lock"));
}

TEST_F(WarmRestartTest, WhatOperatorsSetOutlivesTheWorker) {
  const std::vector<TokenId> text = RandomTokens(kTextTokens, 5);
  SealedReader reader(daemon_.socket());
  reader.Write(text);
  auto admin = Admin::Connect(daemon_.socket()).value();
  const StoreRow store = admin.Stores().value().at(0);
  const PinRow pin = admin.Pin({.tenant = "", .store = store.name, .chain = "", .tokens = text}, std::chrono::hours(2)).value();
  ASSERT_TRUE(
      admin.SetQuota({.tenant = store.tenant, .store = "", .limit_bytes = std::uint64_t{6} << 20, .ttl = std::nullopt}));
  ASSERT_TRUE(admin.SetQuota({.tenant = "", .store = store.name, .limit_bytes = std::nullopt, .ttl = std::chrono::hours(3)}));
  const auto rows = [&] {
    std::vector<std::string> lines;
    const auto quotas = Admin::Connect(daemon_.socket()).value().Quotas().value();
    for (const QuotaRow& row : quotas) {
      lines.push_back(row.tenant + "/" + row.store + " " + std::to_string(row.limit_bytes.value_or(0)) + " " +
                      std::to_string(row.ttl.count()));
    }
    return lines;
  };
  const std::vector<std::string> before = rows();
  EXPECT_THAT(before, ::testing::Contains(HasSubstr("6291456")));
  EXPECT_THAT(before, ::testing::Contains(HasSubstr("10800000")));
  for (const int signal : {SIGKILL, SIGUSR2}) {
    ASSERT_EQ(::kill(signal == SIGKILL ? reader.worker() : holder(), signal), 0);
    ASSERT_TRUE(WaitUntil([&] { return !reader.client().Ping().has_value(); }));
    reader.Reconnect();
    EXPECT_EQ(rows(), before);
    const std::vector<PinRow> pins = Admin::Connect(daemon_.socket()).value().Pins().value();
    ASSERT_EQ(pins.size(), 1u);
    EXPECT_EQ(pins[0].id, pin.id);
    EXPECT_EQ(pins[0].blocks, pin.blocks);
    EXPECT_LE(pins[0].left, pin.left);
  }
  ASSERT_TRUE(Admin::Connect(daemon_.socket()).value().Unpin(pin.id));
}

TEST_F(WarmRestartTest, DamagedMemoryIsDroppedAndTheRestServed) {
  const std::vector<TokenId> text = RandomTokens(kTextTokens, 5);
  SealedReader reader(daemon_.socket());
  reader.Write(text);
  const std::uint64_t sealed = reader.Length(text);
  ASSERT_GE(sealed, 320u);
  ASSERT_TRUE(DamageABlock(holder(), 192));
  ASSERT_EQ(::kill(reader.worker(), SIGKILL), 0);
  reader.Reconnect();
  Sequence sequence = reader.Open(text);
  EXPECT_EQ(sequence.length(), 192u);
  SealedReader reference("embedded:");
  reference.Write(text);
  Sequence same = reference.Open(text);
  EXPECT_EQ(reader.Rows(sequence, 192), reference.Rows(same, 192));
  EXPECT_EQ(Stats().Find("corrupt_parts"), (sealed - 192) / 64);
}

TEST(HolderTest, AProgramThatIsMissingForAWhileCostsNothingThatIsHeld) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("kvant-program-" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const std::filesystem::path program = folder / "kvantd";
  std::filesystem::copy_file(std::string(KVANT_PROGRAM_DIR) + "/kvantd", program);
  {
    KvantdProcess daemon(kHeld, program.string());
    const std::vector<TokenId> text = RandomTokens(kTextTokens, 5);
    SealedReader reader(daemon.socket());
    reader.Write(text);
    const std::uint64_t sealed = reader.Length(text);
    ASSERT_GE(sealed, 320u);
    std::filesystem::rename(program, folder / "other");
    const std::uintmax_t bytes = std::filesystem::file_size(folder / "other");
    ASSERT_EQ(::kill(reader.worker(), SIGKILL), 0);
    std::this_thread::sleep_for(milliseconds(700));  // as an installation takes
    std::filesystem::copy_file(folder / "other", folder / "half");
    std::filesystem::resize_file(folder / "half", bytes / 2);
    std::filesystem::rename(folder / "half", program);  // not whole yet
    std::this_thread::sleep_for(milliseconds(300));
    std::filesystem::rename(folder / "other", program);
    reader.Reconnect();
    EXPECT_EQ(reader.Length(text), sealed);
  }
  std::filesystem::remove_all(folder);
}

TEST_F(WarmRestartTest, WithoutItsHolderAWorkerEnds) {
  SealedReader reader(daemon_.socket());
  const pid_t worker = reader.worker();
  ASSERT_EQ(::kill(holder(), SIGKILL), 0);
  EXPECT_EQ(daemon_.child().Wait(), 128 + SIGKILL);
  EXPECT_TRUE(WaitUntil([&] { return !std::filesystem::exists(daemon_.socket()); }));
  EXPECT_TRUE(WaitUntil([&] { return !IsRunning(worker); }));
  EXPECT_EQ(reader.client().Ping().error().code, ErrorCode::kDisconnected);
  daemon_.Restart();
  reader.Reconnect();
  EXPECT_NE(reader.worker(), worker);
}

TEST(HolderTest, AnErrorThatNoRestartMendsIsReportedOnceAndEnds) {
  for (const auto& [arguments, code] : {std::pair(std::vector<std::string>{"--budget", "1KiB"}, 3),
                                        std::pair(std::vector<std::string>{"--budget", "much"}, 2)}) {
    std::vector<std::string> command = {std::string(KVANT_PROGRAM_DIR) + "/kvantd", "--socket",
                                        ::testing::TempDir() + "/kvant-holder-test.sock"};
    command.insert(command.end(), arguments.begin(), arguments.end());
    Child daemon(command);
    EXPECT_EQ(daemon.Wait(), code);
    EXPECT_FALSE(std::filesystem::exists(command[2]));
  }
}

}  // namespace
}  // namespace kvant::testing
