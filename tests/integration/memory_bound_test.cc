// Hostile clients of a kvantd with a small budget: what the process really takes, as the system counts it, stays within the
// budget and what is documented beside it (tools/docs/memory.md).
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <capnp/message.h>
#include <capnp/rpc.capnp.h>
#include <capnp/serialize.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>

#include "protocol/memfd.h"
#include "protocol/wire.h"
#include "tests/daemon/rpc_client.h"
#include "tests/support/child.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

using daemon::RpcClient;
using daemon::RpcSpec;
using daemon::RpcTail;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kBudget = 64 * kMiB;
/// Beside the budget, when no messages are piled up: allocators' slack, stacks, scratch of the threads.
constexpr std::size_t kFixed = 48 * kMiB;
/// Messages of all connections together.
constexpr std::size_t kMessages = 128 * kMiB;

int Dial(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  EXPECT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0) << std::strerror(errno);
  return fd;
}

/// Writes all of it, or as much as is taken before the other side ends the connection or reads nothing for a while.
std::size_t SendAll(int fd, const void* data, std::size_t bytes) {
  std::size_t sent = 0;
  while (sent < bytes) {
    const ssize_t n = ::send(fd, static_cast<const char*>(data) + sent, bytes - sent, MSG_NOSIGNAL);
    if (n > 0) {
      sent += static_cast<std::size_t>(n);
      continue;
    }
    pollfd ready{fd, POLLOUT, 0};
    if ((errno != EAGAIN && errno != EINTR) || ::poll(&ready, 1, 1000) <= 0) break;
  }
  return sent;
}

class MemoryBoundTest : public ::testing::Test {
 protected:
  MemoryBoundTest() : good_(*io_, Dial(daemon_.socket())) {
    if (kSanitized) return;
    good_.Hello();
    good_.OpenStore(RpcSpec());
    before_ = Status("VmRSS");
  }
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "sanitizers take memory of their own";
  }

  /// Bytes, from /proc/PID/status.
  [[nodiscard]] std::size_t Status(const std::string& field) {
    std::ifstream file("/proc/" + std::to_string(daemon_.child().pid()) + "/status");
    for (std::string line; std::getline(file, line);) {
      if (line.starts_with(field + ":")) return std::stoul(line.substr(field.size() + 1)) * 1024;
    }
    ADD_FAILURE() << "no " << field;
    return 0;
  }

  [[nodiscard]] std::size_t Descriptors() {
    const std::filesystem::directory_iterator entries("/proc/" + std::to_string(daemon_.child().pid()) + "/fd");
    return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
  }

  /// The most that was ever resident since the test began, private and shared.
  void ExpectWithin(std::size_t bytes) {
    const std::size_t peak = Status("VmHWM");
    RecordProperty("peak_mib", static_cast<int>((peak - before_) / kMiB));
    EXPECT_LE(peak, before_ + bytes) << (peak - before_) / kMiB << " MiB were taken";
    // And whoever behaves is served.
    good_.Wait(good_.session().pingRequest().send());
    good_.OpenStore(RpcSpec());
  }

  KvantdProcess daemon_{{"--budget", "64MiB", "--workers", "2"}};
  std::unique_ptr<kj::AsyncIoContext> io_ = daemon::MakeLoop();
  RpcClient good_;
  std::size_t before_ = 0;
};

TEST_F(MemoryBoundTest, SegmentsOfStoresThatWereEvicted) {
  RpcClient client(*io_, Dial(daemon_.socket()));
  client.Hello();
  const std::uint32_t arena = client.MakeArena(8 * kMiB);
  std::vector<protocol::UniqueFd> kept;
  for (int round = 0; round < 6; ++round) {
    StoreSpec spec = RpcSpec("store" + std::to_string(round));
    spec.salt = std::to_string(round);
    spec.layers = 8;
    spec.kv_heads = 8;
    spec.head_dim = 128;
    const std::uint32_t store = client.OpenStore(spec);
    const RpcTail tail{.spec = spec};
    for (std::uint32_t seed = 0; seed < 40; ++seed) {  // 1 MiB of blocks each
      const auto state = client.OpenSequence(store, arena, tail);
      std::vector<std::uint32_t> tokens(16);
      for (std::uint32_t step = 0; step < 3; ++step) {
        for (std::uint32_t i = 0; i < 16; ++i) tokens[i] = seed * 1000 + step * 16 + i;
        client.Beat();
        client.Wait(daemon::AdvanceRequest(client, state.getSequence(), tokens).send());
      }
      auto close = client.session().closeRequest();
      close.setSequence(state.getSequence());
      client.Wait(close.send());
    }
    auto slabs = client.session().slabsRequest();
    slabs.setStore(store);
    const auto answer = client.Wait(slabs.send());
    for (auto slab : answer.getOk()) {
      const auto fd = slab.getSegment().getFd().wait(io_->waitScope);
      KJ_IF_MAYBE (number, fd) kept.emplace_back(::fcntl(*number, F_DUPFD_CLOEXEC, 0));
    }
  }
  ASSERT_GE(kept.size(), 6u);
  std::size_t held = 0;
  for (const auto& fd : kept) {
    struct stat status {};
    ASSERT_EQ(::fstat(fd.get(), &status), 0);
    held += static_cast<std::size_t>(status.st_blocks) * 512;
  }
  EXPECT_LE(held, kBudget);
  ExpectWithin(kBudget + kFixed);
}

TEST_F(MemoryBoundTest, LongTextsInStoreSpecs) {
  RpcClient client(*io_, Dial(daemon_.socket()));
  client.Hello();
  StoreSpec spec = RpcSpec();
  spec.tokenizer = spec.adapter = std::string(4096, 'x');
  spec.layers = 1024;
  spec.kv_heads = 1;
  spec.block_tokens = 64;
  std::size_t opened = 0;
  for (std::uint32_t i = 0; i < 4096; ++i) spec.plan.overrides.push_back({i % 1024, i % 1024, "turboquant_mse:bits=4", "int8"});
  for (int i = 0; i < 200; ++i) {
    spec.salt = std::string(4000, 's') + std::to_string(i);
    auto request = client.session().openStoreRequest();
    wire::WriteStoreSpec(spec, request.initSpec());
    if (client.Wait(request.send()).isOk()) ++opened;
  }
  EXPECT_GT(opened, 0u);
  ExpectWithin(kBudget + kFixed);
}

TEST_F(MemoryBoundTest, LargePlans) {
  std::vector<std::unique_ptr<RpcClient>> clients;
  std::vector<capnp::RemotePromise<wire::Outcome<wire::StoreOpened>>> opens;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(std::make_unique<RpcClient>(*io_, Dial(daemon_.socket())));
    clients.back()->Hello();
    for (int j = 0; j < 4; ++j) {
      StoreSpec spec = RpcSpec("large");
      spec.salt = std::to_string(4 * i + j);
      spec.layers = 64;
      spec.kv_heads = 64;
      spec.head_dim = 64;  // 17 MiB of rotations
      spec.block_tokens = 64;
      spec.plan.keys = spec.plan.values = "turboquant_mse:bits=4";
      auto request = clients.back()->session().openStoreRequest();
      wire::WriteStoreSpec(spec, request.initSpec());
      opens.push_back(request.send());
    }
  }
  std::size_t opened = 0;
  for (auto& open : opens) opened += open.wait(io_->waitScope).isOk() ? 1 : 0;
  EXPECT_GT(opened, 0u);
  ExpectWithin(kBudget + kFixed);
}

TEST_F(MemoryBoundTest, LongArtifactHeaders) {
  RpcClient client(*io_, Dial(daemon_.socket()));
  client.Hello();
  const std::uint32_t arena = client.MakeArena(16 * kMiB);
  std::string header = "{";
  for (int i = 0; header.size() < 12 * kMiB; ++i) {
    header += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}";
  }
  header += "}";
  const std::uint64_t size = header.size();
  std::memcpy(client.arena() + 4096, &size, sizeof(size));
  std::memcpy(client.arena() + 4096 + sizeof(size), header.data(), header.size());
  for (int i = 0; i < 4; ++i) {
    auto request = client.session().openStoreRequest();
    wire::WriteStoreSpec(RpcSpec(), request.initSpec());
    auto artifact = request.getSpec().initArtifact();
    artifact.setArena(arena);
    artifact.setOffset(4096);
    artifact.setBytes(sizeof(size) + header.size());
    client.Beat();
    EXPECT_TRUE(client.Wait(request.send()).isError());
  }
  ExpectWithin(kBudget + kFixed + 16 * kMiB);  // the arena is touched by the daemon, too
}

TEST_F(MemoryBoundTest, MillionsOfOverrides) {
  for (int i = 0; i < 3; ++i) {
    RpcClient client(*io_, Dial(daemon_.socket()));
    client.Hello();
    auto request = client.session().openStoreRequest();
    wire::WriteStoreSpec(RpcSpec(), request.initSpec());
    request.getSpec().initOverrides(1'000'000);
    const auto answer = client.Wait(request.send());
    ASSERT_TRUE(answer.isError());
    EXPECT_THAT(answer.getError().getMessage().cStr(), ::testing::HasSubstr("4096"));
  }
  ExpectWithin(kFixed + kMessages);
}

// A client drops its session and keeps what gives it the arena's memory.
TEST_F(MemoryBoundTest, ArenasOfSessionsThatEnded) {
  constexpr std::uint64_t kArena = std::uint64_t{1} << 30;
  constexpr std::uint64_t kMost = std::uint64_t{4} << 30;  // of one connection
  RpcClient client(*io_, Dial(daemon_.socket()));
  std::vector<wire::Segment::Client> kept;
  for (int i = 0; i < 12; ++i) {
    client.Hello();
    auto request = client.session().createArenaRequest();
    request.setBytes(kArena);
    const auto answer = client.Wait(request.send());
    if (answer.isOk()) kept.push_back(answer.getOk().getSegment());
    client.DropSession();
  }
  EXPECT_GE(kept.size(), 1u);
  EXPECT_LE(kept.size() * kArena, kMost);
  kept.clear();
  client.Hello();
  client.MakeArena(kArena);  // fails the test unless the memory came back with the capabilities
}

// The same with small arenas: each that is kept holds a descriptor of the daemon's.
TEST_F(MemoryBoundTest, DescriptorsOfArenasOfSessionsThatEnded) {
  RpcClient client(*io_, Dial(daemon_.socket()));
  client.Hello();  // by then the daemon has accepted the connection: its end is counted before
  client.DropSession();
  const std::size_t before = Descriptors();
  std::vector<wire::Segment::Client> kept;
  for (int session = 0; session < 4; ++session) {
    client.Hello();
    for (int i = 0; i < 64; ++i) {
      auto request = client.session().createArenaRequest();
      request.setBytes(64 << 10);
      const auto answer = client.Wait(request.send());
      if (answer.isOk()) kept.push_back(answer.getOk().getSegment());
    }
    client.DropSession();
  }
  EXPECT_EQ(kept.size(), 64u);
  EXPECT_LE(Descriptors(), before + 64);
  kept.clear();
  client.Hello();
  client.MakeArena(64 << 10);  // fails the test unless the descriptors came back with the capabilities
}

TEST_F(MemoryBoundTest, MessagesThatAreNeverWhole) {
  std::vector<protocol::UniqueFd> peers;
  const std::vector<char> zeros(40 * kMiB);
  std::size_t cut = 0;
  for (int i = 0; i < 24; ++i) {
    peers.emplace_back(Dial(daemon_.socket()));
    const std::uint32_t head[2] = {0, 7 << 20};  // one segment of 56 MiB
    SendAll(peers.back().get(), head, sizeof(head));
    if (SendAll(peers.back().get(), zeros.data(), zeros.size()) != zeros.size()) ++cut;
    good_.Wait(good_.session().pingRequest().send());
  }
  ExpectWithin(kBudget + kFixed + kMessages + kMessages / 2);  // a buffer that grows is there twice for a moment
}

TEST_F(MemoryBoundTest, CallsThatAreNeverFinishedAndAnswersThatAreNotRead) {
  std::vector<protocol::UniqueFd> peers;
  for (int peer = 0; peer < 4; ++peer) {
    peers.emplace_back(Dial(daemon_.socket()));
    std::vector<char> burst;
    for (std::uint32_t id = 0; id < 400'000; ++id) {
      capnp::MallocMessageBuilder message(16);
      message.initRoot<capnp::rpc::Message>().initBootstrap().setQuestionId(id);
      const auto words = capnp::messageToFlatArray(message);
      const auto bytes = words.asBytes();
      burst.insert(burst.end(), bytes.begin(), bytes.end());
    }
    SendAll(peers.back().get(), burst.data(), burst.size());
    good_.Wait(good_.session().pingRequest().send());
  }
  ExpectWithin(kBudget + kFixed + kMessages);
}

TEST_F(MemoryBoundTest, CapabilitiesInACall) {
  const protocol::UniqueFd fd(Dial(daemon_.socket()));
  capnp::MallocMessageBuilder bootstrap;
  bootstrap.initRoot<capnp::rpc::Message>().initBootstrap().setQuestionId(0);
  capnp::MallocMessageBuilder message(1 << 16);
  auto call = message.initRoot<capnp::rpc::Message>().initCall();
  call.setQuestionId(1);
  call.initTarget().initPromisedAnswer().setQuestionId(0);
  auto table = call.initParams().initCapTable(1'000'000);
  for (std::uint32_t i = 0; i < table.size(); ++i) table[i].setSenderHosted(i);
  for (auto* each : {&bootstrap, &message}) {
    const auto words = capnp::messageToFlatArray(*each);
    SendAll(fd.get(), words.asBytes().begin(), words.asBytes().size());
  }
  char answer[4096];
  pollfd ready{fd.get(), POLLIN, 0};
  ssize_t n = 1;
  while (n > 0 && ::poll(&ready, 1, 10000) > 0) n = ::recv(fd.get(), answer, sizeof(answer), 0);
  EXPECT_LE(n, 0) << "the connection is still there";
  ExpectWithin(kFixed + 48 * kMiB);  // the message itself
}

TEST_F(MemoryBoundTest, ManyConnectionsWithManySequences) {
  std::vector<std::unique_ptr<RpcClient>> clients;
  const RpcTail tail;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(std::make_unique<RpcClient>(*io_, Dial(daemon_.socket())));
    RpcClient& client = *clients.back();
    client.Hello();
    const std::uint32_t arena = client.MakeArena(256 * 1024);
    const std::uint32_t store = client.OpenStore(RpcSpec());
    std::vector<kj::Promise<void>> opens;
    for (int j = 0; j < 200; ++j) {
      auto request = client.session().openSequenceRequest();
      request.setStore(store);
      daemon::FillOptions(request.initOptions(), arena, tail);
      opens.push_back(request.send().ignoreResult());
    }
    for (auto& open : opens) open.wait(io_->waitScope);
  }
  ExpectWithin(kBudget + kFixed);
}

}  // namespace
}  // namespace kvant::testing
