// A kvantd in bad weather: room for one block, floods of calls, connections and refusals while somebody else is served, no
// place for its log or its socket.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "protocol/memfd.h"
#include "tests/integration/held_memory.h"
#include "tests/integration/sealed_reader.h"
#include "tests/support/child.h"
#include "tests/support/conversation.h"

namespace kvant::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::chrono::seconds kPatience{100};

/// Blocks of 5.2 MiB, so that the smallest budget of a daemon is no help.
StoreSpec LargeSpec() { return SpecOf({.layers = 20, .kv_heads = 4, .q_heads = 4, .head_dim = 128}, "int8", "int8", 256); }

TEST(OneBlockTest, ABudgetOfExactlyOneBlockHoldsOneBlockAtATime) {
  std::string needed;
  {
    KvantdProcess daemon({"--budget", "2MiB"});
    auto client = Client::Connect(daemon.socket()).value();
    const auto refused = client.OpenStore(LargeSpec());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kStoreFull);
    const std::string& text = refused.error().message;
    const std::string before = "one block needs ";
    ASSERT_THAT(text, HasSubstr(before));
    needed = text.substr(text.find(before) + before.size());
    needed = needed.substr(0, needed.find(' '));
  }
  // A thousandth of the budget remembers what was evicted: the least budget that leaves as much as is needed.
  std::uint64_t least = std::stoull(needed);
  while (least - least / 1024 < std::stoull(needed)) ++least;
  for (const bool enough : {false, true}) {
    const std::uint64_t budget = least - (enough ? 0 : 1);
    SCOPED_TRACE(std::to_string(budget) + " bytes");
    KvantdProcess daemon({"--budget", std::to_string(budget)});
    auto admin = Admin::Connect(daemon.socket()).value();
    auto client = Client::Connect(daemon.socket(), {.arena_bytes = std::size_t{256} << 20}).value();
    auto store = client.OpenStore(LargeSpec());
    EXPECT_EQ(store.has_value(), enough);
    if (!enough) continue;
    const auto feed = [&](TokenId seed) -> Result<void> {
      auto sequence = store->Open({}, {.recent_tokens = 0, .max_step_tokens = 256});
      if (!sequence) return sequence.error();
      Result<void> advanced = Error{ErrorCode::kInternal, "nothing was fed"};
      for (int half = 0; half < 12; ++half) {
        auto rows = sequence->Reserve(128);
        if (!rows) return rows.error();
        for (std::size_t layer = 0; layer < 20; ++layer) {
          for (const TensorView& side : {rows->Keys(layer), rows->Values(layer)}) {
            for (std::size_t t = 0; t < 128; ++t) {
              for (std::size_t h = 0; h < 4; ++h) {
                std::memset(static_cast<std::byte*>(side.data) + (t * side.token_stride + h * side.head_stride) * 2, 0,
                            128 * 2);
              }
            }
          }
        }
        std::vector<TokenId> tokens(128);
        for (TokenId& token : tokens) token = seed++;
        advanced = sequence->Advance(tokens);
        EXPECT_TRUE(advanced || half > 1) << advanced.error().message;
        if (!advanced) return advanced;
      }
      return advanced;
    };
    for (TokenId seed = 0; seed < 5000; seed += 1000) {
      const auto second = feed(seed);  // the second block finds no room while the first is held
      ASSERT_FALSE(second);
      EXPECT_EQ(second.error().code, ErrorCode::kStoreFull) << second.error().message;
      const Figures figures = admin.Stats().value().figures;
      EXPECT_EQ(figures.Find("blocks"), 1u);
      EXPECT_LE(figures.Find("used_bytes").value() + figures.Find("opening_bytes").value(), budget);
      EXPECT_LE(HeldMemory::Of(daemon.child().pid()).bytes, budget + (std::uint64_t{256} << 20)) << "the arena is beside it";
    }
    EXPECT_EQ(admin.Stats().value().figures.Find("evicted_blocks"), 4u);
  }
}

int Dial(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (fd >= 0 && ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  ::close(fd);
  return -1;
}

/// Runs kvantd with its log in a file.
struct LoggingDaemon {
  explicit LoggingDaemon(const std::string& log, const std::vector<std::string>& more = {})
      : directory((std::filesystem::temp_directory_path() / "kvant-storm-XXXXXX").string()) {
    if (::mkdtemp(directory.data()) == nullptr) throw std::runtime_error("mkdtemp");
    socket = directory + "/kvantd.sock";
    log_path = log.empty() ? directory + "/log" : log;
    std::string command = "exec '" + std::string(KVANT_PROGRAM_DIR) + "/kvantd' --holder off --socket '" + socket + "'";
    for (const std::string& word : more) command += " '" + word + "'";
    child = std::make_unique<Child>(std::vector<std::string>{"/bin/sh", "-c", command + " 2>'" + log_path + "'"});
    EXPECT_TRUE(WaitUntil([&] { return Client::Connect(socket).has_value(); }));
  }
  ~LoggingDaemon() {
    child.reset();
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
  [[nodiscard]] std::size_t LogLines() const {
    std::ifstream file(log_path);
    std::size_t lines = 0;
    for (std::string line; std::getline(file, line);) ++lines;
    return lines;
  }
  std::string directory;
  std::string socket;
  std::string log_path;
  std::unique_ptr<Child> child;
};

/// Each flood goes on until a neighbour's work is done, however long that takes, and must have got somewhere itself.
TEST(FloodTest, ANeighbourIsServedAndTheDaemonStaysSmall) {
  LoggingDaemon daemon("", {"--budget", "8MiB", "--max-connections", "40"});
  const pid_t pid = daemon.child->pid();
  const std::size_t descriptors = HeldMemory::Of(pid).descriptors;
  std::atomic<bool> over{false};
  std::atomic<std::uint64_t> calls{0}, dials{0}, garbage{0};
  std::vector<std::thread> floods;
  floods.emplace_back([&] {  // as many calls as a connection takes
    while (!over) {
      auto client = Client::Connect(daemon.socket);  // which others may keep from coming in
      while (!over && client && client->Ping()) ++calls;
    }
  });
  floods.emplace_back([&] {  // connections that come, stay for a while without a word, and go
    std::vector<protocol::UniqueFd> open;
    while (!over) {
      open.emplace_back(Dial(daemon.socket));
      ++dials;
      if (open.size() == 60) open.clear();  // more than are allowed
    }
  });
  floods.emplace_back([&] {  // no message at all: each connection's end is an event
    while (!over) {
      const protocol::UniqueFd fd(Dial(daemon.socket));
      const char noise[64] = "\xff\xff\xff\x7fnoise";
      if (fd.valid() && ::send(fd.get(), noise, sizeof noise, MSG_NOSIGNAL) > 0) ++garbage;
    }
  });
  std::size_t most_descriptors = 0;
  std::uint64_t served = 0;
  {
    Child neighbour({std::string(KVANT_PROGRAM_DIR) + "/kvant_test_client", daemon.socket, "service"});
    // It may be refused while others have all connections: it comes again, as a client does.
    std::unique_ptr<SealedReader> reader;
    EXPECT_TRUE(WaitUntil([&] {
      try {
        reader = std::make_unique<SealedReader>(daemon.socket);
      } catch (const std::exception&) {
      }
      return reader != nullptr;
    }));
    for (std::uint64_t seed = 1; reader != nullptr && seed <= 10; ++seed) {
      reader->Write(RandomTokens(kTextTokens, seed));
      served += reader->Length(RandomTokens(kTextTokens, seed));
      most_descriptors = std::max(most_descriptors, HeldMemory::Of(pid).descriptors);
    }
  }
  EXPECT_TRUE(WaitUntil([&] { return calls > 100 && dials > 100 && garbage > 20; }));
  over = true;
  for (std::thread& flood : floods) flood.join();
  EXPECT_GE(served, 10u * 320);
  EXPECT_LE(most_descriptors, descriptors + 40 + 64) << "connections, and the neighbour's segments";
  EXPECT_LE(daemon.LogLines(), 100u) << "what clients cause is logged so often and no more";
  EXPECT_TRUE(WaitUntil([&] { return Client::Connect(daemon.socket).has_value(); })) << "and then everybody is served";
  EXPECT_TRUE(WaitUntil([&] { return HeldMemory::Of(pid).descriptors <= descriptors + 16; }));
}

TEST(FullDiskTest, ADaemonThatCannotWriteItsLogServes) {
  LoggingDaemon daemon("/dev/full", {"--log-level", "debug"});
  SealedReader reader(daemon.socket);
  const std::vector<TokenId> text = RandomTokens(kTextTokens, 1);
  reader.Write(text);
  EXPECT_GE(reader.Length(text), 320u);
  daemon.child->Signal(SIGTERM);
  EXPECT_EQ(daemon.child->Wait(), 0);
}

/// A directory that nobody can write to: a file system that is mounted read-only, in a name space of its own.
TEST(ReadOnlyDiskTest, WithoutAPlaceForItsSocketItSaysSo) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may mount";
  const std::string directory =
      (std::filesystem::temp_directory_path() / ("kvant-read-only-" + std::to_string(::getpid()))).string();
  std::filesystem::create_directory(directory);
  const std::string command = "mount -t tmpfs -o ro none '" + directory + "' || exit 77; '" + std::string(KVANT_PROGRAM_DIR) +
                              "/kvantd' --socket '" + directory + "/s' 2>&1; echo code $?";
  Child child({"/usr/bin/unshare", "-m", "/bin/sh", "-c", command});
  const auto line = child.ReadLine(kPatience);
  std::filesystem::remove(directory);
  if (!line) GTEST_SKIP() << "no name space may be made here";
  EXPECT_THAT(*line, StartsWith("kvantd: "));
  EXPECT_THAT(*line, HasSubstr(directory + "/s"));
  EXPECT_THAT(*line, HasSubstr("Read-only file system"));
  EXPECT_EQ(child.ReadLine(kPatience), "code 3");
}

}  // namespace
}  // namespace kvant::testing
