// Processes that end between two chosen system calls: a worker while it makes, fills, hands over and gives back memory, and
// while it takes memory over; clients in the middle of a message. What was sealed stays, what was taken comes back.
// KVANT_FAULT_ROUNDS in the environment: how often at each call.
#include <signal.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>

#include "tests/integration/fault_file.h"
#include "tests/integration/held_memory.h"
#include "tests/integration/sealed_reader.h"
#include "tests/support/child.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

using ::testing::StartsWith;

constexpr std::uint64_t kBudget = std::uint64_t{3} << 20;
constexpr std::chrono::seconds kPatience{100};

std::int32_t Rounds() {
  const char* const rounds = std::getenv("KVANT_FAULT_ROUNDS");
  return rounds == nullptr ? 2 : std::max(1, std::atoi(rounds));
}

struct FaultCase {
  const char* name;
  kvant_fault call;
  std::int32_t most;  ///< calls until it happens; a worker makes at least as many while it is written to, or starts
};
void PrintTo(const FaultCase& of, std::ostream* out) { *out << of.name; }

class FaultPointsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer's library wants to be the first";
  }
  static std::unique_ptr<Child> StartClient(const std::string& socket, const char* placement) {
    auto child = std::make_unique<Child>(
        std::vector<std::string>{std::string(KVANT_PROGRAM_DIR) + "/kvant_test_client", socket, placement});
    EXPECT_EQ(child->ReadLine(kPatience).value_or("nothing"), "ok ready");
    return child;
  }
  /// Reads what a flooding client has done until it says `word`.
  static void ReadUntil(Child& writer, const std::string& word, std::uint64_t& last_done) {
    for (;;) {
      const auto line = writer.ReadLine(kPatience);
      ASSERT_TRUE(line) << "waiting for " << word;
      if (*line == word) return;
      ASSERT_THAT(*line, StartsWith("done "));
      last_done = std::stoull(line->substr(5));
      if (word == "done") return;
    }
  }
};

class WorkerFaultsTest : public FaultPointsTest, public ::testing::WithParamInterface<FaultCase> {};

TEST_P(WorkerFaultsTest, WhatIsHeldOutlivesAWorkerThatEndsThere) {
  const auto faults = std::make_unique<FaultFile>();
  KvantdProcess daemon({"--holder", "on", "--restart-pause", "0", "--budget", "3MiB"});
  faults->StopLoading();
  const pid_t holder = daemon.child().pid();
  auto writer = StartClient(daemon.socket(), "service");
  writer->Send("flood 1");
  SealedReader reader(daemon.socket());
  SealedReader reference("embedded:");
  std::mt19937 random(static_cast<unsigned>(GetParam().call));
  std::uint64_t last = 0;
  std::uint64_t checked = 0;
  for (std::int32_t round = 1; round <= Rounds(); ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    ReadUntil(*writer, "done", last);
    ASSERT_FALSE(HasFatalFailure());
    const std::vector<TokenId> text = RandomTokens(kTextTokens, last);
    const Sequence held = reader.Open(text);  // nothing evicts it until the end comes
    const pid_t before = reader.worker();
    faults->Arm(GetParam().call, 1 + static_cast<std::int32_t>(random() % static_cast<unsigned>(GetParam().most)));
    std::unique_ptr<Child> newcomer;
    if (GetParam().call == KVANT_FAULT_MAP) {
      ASSERT_EQ(::kill(before, SIGKILL), 0);  // the next one maps what is held
    } else {
      // Memory goes and comes again, and somebody is given descriptors. Either may end with the worker.
      if (auto admin = Admin::Connect(daemon.socket())) static_cast<void>(admin->Evict({}).has_value());
      newcomer = std::make_unique<Child>(
          std::vector<std::string>{std::string(KVANT_PROGRAM_DIR) + "/kvant_test_client", daemon.socket(), "local"});
      newcomer->Send("open " + std::to_string(1'000'000 + round) + " 0");
      newcomer->Send("feed " + std::to_string(1'000'000 + round) + " 400 60");
    }
    ASSERT_TRUE(WaitUntil([&] { return faults->fired() == round; }));
    faults->Disarm();
    newcomer.reset();
    reader.Reconnect();
    ASSERT_FALSE(HasFatalFailure());
    EXPECT_NE(reader.worker(), before);
    ReadUntil(*writer, "lost", last);
    ASSERT_FALSE(HasFatalFailure());
    const std::uint64_t length = reader.ExpectSameAs(reference, text);
    EXPECT_GE(length, held.length());
    checked += length;
    EXPECT_LE(HeldMemory::Of(holder).bytes, kBudget);
    const Figures figures = Admin::Connect(daemon.socket()).value().Stats().value().figures;
    EXPECT_EQ(figures.Find("corrupt_parts"), 0u);
    EXPECT_LE(figures.Find("used_bytes").value(), kBudget);
    writer->Send("on");
    ReadUntil(*writer, "back", last);
    ASSERT_FALSE(HasFatalFailure());
  }
  EXPECT_GT(checked, 0u);
}

INSTANTIATE_TEST_SUITE_P(Calls, WorkerFaultsTest,
                         ::testing::Values(FaultCase{"MakesASegment", KVANT_FAULT_CREATE, 2},
                                           FaultCase{"IsAboutToSeal", KVANT_FAULT_POPULATE, 20},
                                           FaultCase{"GivesBackPages", KVANT_FAULT_GIVE_BACK, 5},
                                           FaultCase{"HandsADescriptorOver", KVANT_FAULT_SEND_FD, 3},
                                           FaultCase{"Answers", KVANT_FAULT_SEND, 200},
                                           FaultCase{"TakesMemoryOver", KVANT_FAULT_MAP, 12}),
                         [](const auto& of) { return std::string(of.param.name); });

class ClientFaultsTest : public FaultPointsTest, public ::testing::WithParamInterface<FaultCase> {};

TEST_P(ClientFaultsTest, EverythingOfAClientThatEndsThereIsFreed) {
  KvantdProcess daemon({"--budget", "3MiB"});
  auto admin = Admin::Connect(daemon.socket(), {.deadline = kPatience}).value();
  const std::size_t descriptors = HeldMemory::Of(daemon.child().pid()).descriptors;
  std::mt19937 random(static_cast<unsigned>(GetParam().call));
  std::uint64_t seed = 1;
  for (std::int32_t round = 1; round <= 2 * Rounds(); ++round, seed += 1000) {
    SCOPED_TRACE("round " + std::to_string(round));
    const auto faults = std::make_unique<FaultFile>();
    auto client = StartClient(daemon.socket(), round % 2 == 0 ? "local" : "service");
    faults->Arm(GetParam().call, 1 + static_cast<std::int32_t>(random() % static_cast<unsigned>(GetParam().most)),
                FaultFile::Whose::kAny);
    client->Send("flood " + std::to_string(seed));
    ASSERT_TRUE(WaitUntil([&] { return faults->fired() == 1; }));
    EXPECT_EQ(client->Wait(), 128 + SIGKILL);
    EXPECT_TRUE(WaitUntil([&] {
      const Figures figures = admin.Stats().value().figures;
      return figures.Find("sequences") == 0u && figures.Find("leases") == 0u && figures.Find("arenas") == 0u;
    }));
  }
  {
    SealedReader reader(daemon.socket());
    SealedReader reference("embedded:");
    for (std::uint64_t text = 1; text < seed; text += 1000) reader.ExpectSameAs(reference, RandomTokens(kTextTokens, text));
  }
  EXPECT_LE(admin.Stats().value().figures.Find("used_bytes").value(), kBudget);
  EXPECT_TRUE(WaitUntil([&] {
    const HeldMemory now = HeldMemory::Of(daemon.child().pid());
    return now.descriptors <= descriptors + 2 * now.segments;  // blocks are cached in slabs
  }));
}

INSTANTIATE_TEST_SUITE_P(Calls, ClientFaultsTest,
                         ::testing::Values(FaultCase{"Asks", KVANT_FAULT_SEND, 120},
                                           FaultCase{"Listens", KVANT_FAULT_RECEIVE, 120}),
                         [](const auto& of) { return std::string(of.param.name); });

/// Years of the date and hours of the machine's own clock.
TEST_F(FaultPointsTest, ClocksThatJumpEndNothingButWhatIsTimedByThem) {
  const auto faults = std::make_unique<FaultFile>();
  KvantdProcess daemon({"--ttl", "1h", "--lease", "5000"});
  faults->StopLoading();
  auto admin = Admin::Connect(daemon.socket(), {.deadline = kPatience}).value();
  SealedReader reader(daemon.socket());
  const std::vector<TokenId> text = RandomTokens(kTextTokens, 1), other = RandomTokens(kTextTokens, 2);
  reader.Write(text);
  reader.Write(other);
  ASSERT_TRUE(WaitUntil([&] { return reader.Length(text) == 384 && reader.Length(other) == 384; }));
  const std::uint64_t sealed = reader.Length(text);
  ASSERT_GE(sealed, 320u);
  const auto steps = [&] { return admin.Stats().value().figures.Find("room_steps").value(); };
  const auto look = [&] {
    const std::uint64_t before = steps();
    ASSERT_TRUE(WaitUntil([&] { return steps() > before + 2; })) << "the daemon goes on";
  };
  const std::string store = admin.Stores().value().at(0).name;
  const PinRow pin = admin.Pin({.tenant = "", .store = store, .chain = "", .tokens = text}, std::chrono::hours(20)).value();
  constexpr std::int64_t kYear = 365 * 86400;
  for (const std::int64_t date : {10 * kYear, -10 * kYear, std::int64_t{0}}) {
    faults->MoveClocks(date, 0);
    look();
    EXPECT_TRUE(reader.client().Ping());
    EXPECT_EQ(reader.Length(other), sealed) << "the date is nobody's business";
    EXPECT_EQ(admin.Pins().value().size(), 1u);
  }
  faults->MoveClocks(0, 2 * 3600);
  ASSERT_TRUE(WaitUntil([&] { return admin.Stats().value().figures.Find("expired_blocks").value() > 0; }));
  look();
  EXPECT_EQ(reader.Length(other), 0u) << "nobody has used it for two hours";
  EXPECT_GE(reader.Length(text), sealed / 64 * 64) << "and this is pinned for twenty";
  EXPECT_EQ(admin.Pins().value().at(0).id, pin.id);
  EXPECT_TRUE(reader.client().Ping()) << "a client whose heart the daemon has not heard for two hours of its own absence";
  EXPECT_EQ(admin.Stats().value().figures.Find("dropped_clients"), 0u);
  faults->MoveClocks(0, 48 * 3600);
  ASSERT_TRUE(WaitUntil([&] { return admin.Pins().value().empty(); }));
  reader.Write(other);
  EXPECT_TRUE(WaitUntil([&] { return reader.Length(other) == sealed; }));
}

}  // namespace
}  // namespace kvant::testing
