// A kvantd as a process among others: paused with the machine, short of descriptors, under a file-size limit, told to end.
#include <signal.h>
#include <sys/resource.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tests/support/child.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class DaemonLifeTest : public ::testing::Test {
 protected:
  /// Sets a limit of the running daemon, whatever it set itself.
  void Limit(__rlimit_resource resource, rlim_t value) {
    const rlimit limit{value, value};
    ASSERT_EQ(::prlimit(daemon_.child().pid(), resource, &limit, nullptr), 0);
  }
  [[nodiscard]] std::size_t Descriptors() {
    const std::filesystem::directory_iterator entries("/proc/" + std::to_string(daemon_.child().pid()) + "/fd");
    return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
  }
  [[nodiscard]] Figures Stats() { return Admin::Connect(daemon_.socket()).value().Stats().value().figures; }

  KvantdProcess daemon_{{"--lease", "2000"}};
};

TEST_F(DaemonLifeTest, APauseOfTheWholeMachineDropsNobody) {
  Child client({std::string(KVANT_PROGRAM_DIR) + "/kvant_test_client", daemon_.socket(), "service"});
  ASSERT_EQ(client.ReadLine().value_or(""), "ok ready");
  ASSERT_THAT(client.Ask("open 1 0").value_or(""), HasSubstr("ok"));
  client.Stop();
  daemon_.child().Stop();
  std::this_thread::sleep_for(milliseconds(2500));  // more than the lease
  daemon_.child().Signal(SIGCONT);
  std::this_thread::sleep_for(milliseconds(100));  // the daemon looks before the client has beaten
  client.Signal(SIGCONT);
  ASSERT_THAT(client.Ask("feed 1 50 50").value_or(""), HasSubstr("ok 50"));
  EXPECT_EQ(Stats().Find("dropped_clients"), 0u);
}

TEST_F(DaemonLifeTest, WithoutDescriptorsItRefusesAndLaterAccepts) {
  if (kSanitized) GTEST_SKIP() << "the check of virtual tables reads memory through a pipe, for which there is no descriptor";
  Limit(RLIMIT_NOFILE, Descriptors() + 2);
  std::vector<Admin> held;
  bool refused = false;
  for (int i = 0; i < 8 && !refused; ++i) {
    auto admin = Admin::Connect(daemon_.socket(), {.deadline = milliseconds(500)});
    if (admin) {
      held.push_back(std::move(*admin));
    } else {
      refused = true;
    }
  }
  ASSERT_TRUE(refused);
  ASSERT_FALSE(held.empty());
  EXPECT_TRUE(held.front().Stats());
  held.clear();
  EXPECT_TRUE(Admin::Connect(daemon_.socket(), {.deadline = std::chrono::seconds(20)}));
}

TEST_F(DaemonLifeTest, AFileSizeLimitIsAnErrorAndNotTheEnd) {
  Limit(RLIMIT_FSIZE, rlim_t{1} << 20);
  auto client = Client::Connect(daemon_.socket(), {.arena_bytes = std::size_t{32} << 20}).value();
  const auto tensor = client.Allocate(1, 1, 64);
  ASSERT_FALSE(tensor);
  EXPECT_EQ(tensor.error().code, ErrorCode::kSystem);
  EXPECT_THAT(tensor.error().message, HasSubstr("File too large"));
  EXPECT_TRUE(client.Ping());
}

TEST_F(DaemonLifeTest, SigtermEndsItThoughClientsAreConnected) {
  auto client = Client::Connect(daemon_.socket()).value();
  daemon_.child().Signal(SIGTERM);
  EXPECT_EQ(daemon_.child().Wait(), 0);
  EXPECT_EQ(client.Ping().error().code, ErrorCode::kDisconnected);
  EXPECT_FALSE(std::filesystem::exists(daemon_.socket()));
}

/// Feeds tokens of zeros to a sequence until the store refuses a block; the error.
Error FeedUntilRefused(Sequence& sequence, std::uint32_t head_dim) {
  TokenId next = 0;
  for (;;) {
    auto rows = sequence.Reserve(256);
    if (!rows) return rows.error();
    for (const TensorView& side : {rows->Keys(0), rows->Values(0)}) {
      for (std::size_t t = 0; t < rows->tokens(); ++t) {
        std::memset(static_cast<std::byte*>(side.data) + t * side.token_stride * 2, 0, head_dim * 2);
      }
    }
    std::vector<TokenId> tokens(rows->tokens());
    for (TokenId& token : tokens) token = next++;
    if (auto advanced = sequence.Advance(tokens); !advanced) return advanced.error();
  }
}

/// Blocks much smaller than a page fill small budgets: full means an error, and a daemon that answers others and ends when
/// told.
TEST(SmallBlocksTest, AFullBudgetIsAnErrorAndNothingElse) {
  for (const char* budget : {"1MiB", "3MiB", "6MiB"}) {
    for (const char* codec : {"int8", "f16"}) {
      KvantdProcess daemon({"--budget", budget});
      const ClientOptions options{.deadline = std::chrono::seconds(20)};
      auto client = Client::Connect(daemon.socket(), options).value();
      StoreSpec spec;
      spec.name = "tiny";
      spec.model = "m";
      spec.tokenizer = "t";
      spec.layers = spec.kv_heads = 1;
      spec.head_dim = 8;
      spec.block_tokens = 16;
      spec.sink_tokens = 0;
      spec.plan.keys = spec.plan.values = codec;
      auto store = client.OpenStore(spec).value();
      auto sequence = store.Open({}, {.recent_tokens = 0, .max_step_tokens = 256}).value();
      EXPECT_EQ(FeedUntilRefused(sequence, spec.head_dim).code, ErrorCode::kStoreFull) << budget << " " << codec;
      auto other = Client::Connect(daemon.socket(), options);
      ASSERT_TRUE(other) << other.error().message;
      EXPECT_TRUE(other->Ping());
      daemon.child().Signal(SIGTERM);
      EXPECT_EQ(daemon.child().Wait(), 0);
    }
  }
}

}  // namespace
}  // namespace kvant::testing
