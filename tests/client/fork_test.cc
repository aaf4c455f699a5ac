// What a forked child may do with what it inherits: nothing, and that without harm to the parent.
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

/// Runs `body` in a forked child; what it returns is the child's answer, empty for success. A child that hangs is ended by an
/// alarm.
template <typename Body>
void InChild(Body body) {
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::alarm(20);
    const std::string answer = body();
    if (::write(pipe_ends[1], answer.data(), answer.size()) < 0) ::_exit(2);
    ::_exit(0);
  }
  ::close(pipe_ends[1]);
  std::string answer(4096, '\0');
  const ssize_t bytes = ::read(pipe_ends[0], answer.data(), answer.size());
  ::close(pipe_ends[0]);
  answer.resize(bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  EXPECT_EQ(answer, "");
}

template <typename T>
std::string Refused(const char* call, const Result<T>& result) {
  if (!result.has_value() && result.error().code == ErrorCode::kDisconnected) return {};
  return std::string(call) + (result.has_value() ? " succeeded; " : " failed with " + result.error().message + "; ");
}

class ForkTest : public ::testing::TestWithParam<Placement> {};

TEST_P(ForkTest, HandlesAreInertInTheChildAndTheParentGoesOn) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer allows no threads in a forked child, and the child makes a client of its own";
#endif
  DaemonEnv env;
  const FakeModel model{ModelShape{}};
  std::optional<Client> client = env.Connect();
  std::optional<Store> store = client->OpenStore(SpecOf(model.shape(), "int8", "int8")).value();
  std::optional<Admin> admin = Admin::Connect(env.socket()).value();
  std::optional<Tensor> tensor = client->Allocate(1, 1, 8).value();
  std::optional<Conversation> talk;
  talk.emplace(*client, store->Open({}, {.placement = GetParam(), .recent_tokens = 16, .max_step_tokens = 64}).value(), model,
               std::vector<TokenId>(), 64);
  talk->Feed(RandomTokens(150, 1), 50);
  ASSERT_TRUE(talk->sequence().Reserve(1));
  InChild([&] {
    Sequence& sequence = talk->sequence();
    std::string wrong = Refused("Ping", client->Ping());
    wrong += Refused("OpenStore", client->OpenStore(SpecOf(model.shape(), "f16", "f16")));
    wrong += Refused("Open", store->Open({}, {}));
    wrong += Refused("Allocate", client->Allocate(1, 1, 1));
    wrong += Refused("Reserve", sequence.Reserve(1));
    wrong += Refused("Attend", sequence.Attend(0, {}));
    wrong += Refused("Advance", sequence.Advance({}));
    wrong += Refused("SetMark", sequence.SetMark());
    wrong += Refused("Fork", sequence.Fork());
    wrong += Refused("Stats", admin->Stats());
    if (const auto again = Client::Connect(env.socket()); again || again.error().code != ErrorCode::kUnsupported) {
      wrong += "Connect in the forked thread; ";
    }
    std::thread([&] {
      if (const auto fresh = Client::Connect(env.socket()); !fresh) wrong += fresh.error().message;
    }).join();
    talk.reset();
    tensor.reset();
    store.reset();
    admin.reset();
    client.reset();
    return wrong;
  });
  EXPECT_TRUE(client->Ping());
  EXPECT_TRUE(admin->Stats());
  talk->Feed(RandomTokens(100, 2), 20);
}

INSTANTIATE_TEST_SUITE_P(Placements, ForkTest, ::testing::Values(Placement::kService, Placement::kLocal),
                         [](const auto& param_info) { return param_info.param == Placement::kLocal ? "Local" : "Service"; });

}  // namespace
}  // namespace kvant::testing
