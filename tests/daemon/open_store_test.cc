// Opening stores whose plans take long to make: nobody else waits.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "protocol/wire.h"
#include "quantizers/artifact.h"
#include "quantizers/registry.h"
#include "tests/daemon/rpc_client.h"

namespace kvant::daemon {
namespace {

std::atomic<bool> gate_open{true};
std::atomic<int> plans_begun{0};

/// f32, made as slowly as the test likes.
Result<std::unique_ptr<quantizers::KeyCodec>> MakeSlowKeys(const quantizers::CodecConfig& config) {
  ++plans_begun;
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);  // a call that waits here has failed its test
  while (!gate_open && std::chrono::steady_clock::now() < limit) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return quantizers::Registry::Builtin().Parse("f32")->codec->make_keys(config);
}

class OpenStoreTest : public ::testing::Test {
 protected:
  OpenStoreTest() {
    gate_open = true;
    plans_begun = 0;
    EXPECT_TRUE(registry_.Add(slow_));
    auto options = RpcOptions();
    options.codecs = &registry_;
    daemon_ = Daemon::Start(options).value();
    client_ = std::make_unique<RpcClient>(*io_, daemon_->Connect().value());
    client_->Hello();
  }
  ~OpenStoreTest() override { gate_open = true; }

  static StoreSpec SlowSpec(const std::string& name = "slow") {
    StoreSpec spec = RpcSpec(name);
    spec.layers = 1;
    spec.plan.keys = "slow";
    return spec;
  }
  auto Open(const StoreSpec& spec) {
    auto request = client_->session().openStoreRequest();
    wire::WriteStoreSpec(spec, request.initSpec());
    return request.send();
  }

  const quantizers::Codec slow_{.name = "slow", .summary = "waits", .params = {}, .make_keys = MakeSlowKeys};
  quantizers::Registry registry_ = quantizers::Registry::Builtin();
  std::unique_ptr<kj::AsyncIoContext> io_ = MakeLoop();
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<RpcClient> client_;
};

TEST_F(OpenStoreTest, NobodyWaitsForAPlanInWork) {
  gate_open = false;
  auto slow = Open(SlowSpec());
  client_->Wait(client_->session().pingRequest().send());
  RpcClient other(*io_, daemon_->Connect().value());
  other.Hello();
  other.Wait(other.session().pingRequest().send());
  EXPECT_FALSE(slow.poll(io_->waitScope));
  gate_open = true;
  EXPECT_TRUE(client_->Wait(kj::mv(slow)).isOk());
  EXPECT_EQ(plans_begun, 1);
}

TEST_F(OpenStoreTest, TwoThatCreateTheSameStoreShareIt) {
  gate_open = false;
  auto first = Open(SlowSpec());
  auto second = Open(SlowSpec());
  gate_open = true;
  const auto one = client_->Wait(kj::mv(first));
  const auto two = client_->Wait(kj::mv(second));
  ASSERT_TRUE(one.isOk() && two.isOk());
  EXPECT_EQ(one.getOk().getStore(), two.getOk().getStore());
  EXPECT_NE(one.getOk().getCreated(), two.getOk().getCreated());
}

TEST_F(OpenStoreTest, AnAttachMakesNoPlan) {
  client_->OpenStore(SlowSpec());
  ASSERT_EQ(plans_begun, 1);
  gate_open = false;  // a plan would never be ready
  const std::uint32_t number = client_->OpenStore(SlowSpec());
  ASSERT_EQ(plans_begun, 1);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(client_->OpenStore(SlowSpec()), number);
  EXPECT_EQ(client_->OpenStore(SlowSpec("a-label-of-it")), number);
  RpcClient other(*io_, daemon_->Connect().value());
  other.Hello();
  other.OpenStore(SlowSpec());
  EXPECT_EQ(plans_begun, 1);
}

TEST_F(OpenStoreTest, AnAttachWaitsForNobodysPlan) {
  client_->OpenStore(SlowSpec());
  gate_open = false;
  StoreSpec another = SlowSpec("another");
  another.model = "another-model";
  auto slow = Open(another);
  client_->OpenStore(SlowSpec());
  EXPECT_FALSE(slow.poll(io_->waitScope));
  gate_open = true;
  EXPECT_TRUE(client_->Wait(kj::mv(slow)).isOk());
}

TEST_F(OpenStoreTest, ManyThatComeAtOnceCostOnePlan) {
  gate_open = false;
  RpcClient other(*io_, daemon_->Connect().value());
  other.Hello();
  std::vector<capnp::RemotePromise<wire::Outcome<wire::StoreOpened>>> opens;
  for (RpcClient* client : {client_.get(), &other}) {
    for (const char* name : {"slow", "slow", "label"}) {
      auto request = client->session().openStoreRequest();
      wire::WriteStoreSpec(SlowSpec(name), request.initSpec());
      opens.push_back(request.send());
    }
  }
  client_->Wait(client_->session().pingRequest().send());
  gate_open = true;
  int created = 0;
  for (auto& open : opens) {
    const auto answer = client_->Wait(kj::mv(open));
    ASSERT_TRUE(answer.isOk());
    created += answer.getOk().getCreated() ? 1 : 0;
  }
  EXPECT_EQ(created, 1);
  EXPECT_EQ(plans_begun, 1);
}

TEST_F(OpenStoreTest, AnotherSpellingOfASpecCostsOnePlanAndNoMore) {
  const std::uint32_t number = client_->OpenStore(SlowSpec());
  StoreSpec spelled = SlowSpec();
  spelled.plan.keys = "slow@1";
  EXPECT_EQ(client_->OpenStore(spelled), number);
  EXPECT_EQ(plans_begun, 2);
  EXPECT_EQ(client_->OpenStore(spelled), number);
  EXPECT_EQ(client_->OpenStore(SlowSpec()), number);
  EXPECT_EQ(plans_begun, 2);
}

TEST_F(OpenStoreTest, APlanIsMadeAgainOnceItsStoreHasGone) {
  client_->OpenStore(SlowSpec());
  client_.reset();  // and with it the store, which is empty
  client_ = std::make_unique<RpcClient>(*io_, daemon_->Connect().value());
  client_->Hello();
  client_->OpenStore(SlowSpec());
  EXPECT_EQ(plans_begun, 2);
}

TEST_F(OpenStoreTest, ANameThatIsNoneIsRefusedForAKnownSpecToo) {
  client_->OpenStore(SlowSpec());
  const auto refused = client_->Wait(Open(SlowSpec("a name with blanks")));
  ASSERT_TRUE(refused.isError());
  EXPECT_EQ(wire::ReadError(refused.getError()).code, ErrorCode::kInvalidArgument);
}

TEST_F(OpenStoreTest, AnArtifactIsPartOfTheSpelling) {
  const quantizers::ExampleTensor one{"rotation", {4}, {1, 2, 3, 4}};
  const quantizers::ExampleTensor two{"rotation", {4}, {1, 2, 3, 5}};
  const std::uint32_t arena = client_->MakeArena(1 << 16);
  const auto open = [&](const quantizers::ExampleTensor& tensor) {
    const std::vector<std::byte> image = quantizers::ArtifactImage(std::span(&tensor, 1));
    std::memcpy(client_->arena() + 4096, image.data(), image.size());
    auto request = client_->session().openStoreRequest();
    wire::WriteStoreSpec(SlowSpec(), request.initSpec());
    auto place = request.getSpec().initArtifact();
    place.setArena(arena);
    place.setOffset(4096);
    place.setBytes(image.size());
    const auto answer = client_->Wait(request.send());
    EXPECT_TRUE(answer.isOk()) << wire::ReadError(answer.getError()).message;
    return answer.getOk().getStore();
  };
  const std::uint32_t first = open(one);
  EXPECT_EQ(open(one), first);
  EXPECT_EQ(plans_begun, 1);
  EXPECT_NE(open(two), first);
  EXPECT_EQ(plans_begun, 2);
}

TEST_F(OpenStoreTest, OneSessionHasAFewPlansInWorkAtATime) {
  gate_open = false;
  std::vector<capnp::RemotePromise<wire::Outcome<wire::StoreOpened>>> opens;
  for (int i = 0; i < 4; ++i) opens.push_back(Open(SlowSpec("slow" + std::to_string(i))));
  const auto refused = client_->Wait(Open(SlowSpec("one-more")));
  ASSERT_TRUE(refused.isError());
  EXPECT_EQ(wire::ReadError(refused.getError()).code, ErrorCode::kUnavailable);
  gate_open = true;
  for (auto& open : opens) EXPECT_TRUE(client_->Wait(kj::mv(open)).isOk());
}

// One session that opens a store per tenant and never ends: what its stores take comes back when others need the room.
TEST_F(OpenStoreTest, StoresThatAreOpenButEmptyMakeRoomForOthers) {
  auto options = RpcOptions();
  options.budget_bytes = std::uint64_t{4} << 20;
  const auto daemon = Daemon::Start(options).value();
  RpcClient client(*io_, daemon->Connect().value());
  client.Hello();
  const auto spec = [](int i) {
    StoreSpec each = RpcSpec("tenant" + std::to_string(i));
    each.salt = std::to_string(i);
    return each;
  };
  const auto descriptors = [] {
    const std::filesystem::directory_iterator open("/proc/self/fd");
    return std::distance(begin(open), end(open));
  };
  const auto before = descriptors();
  constexpr int kStores = 1500;  // each takes more than a page of the budget
  const std::uint32_t first = client.OpenStore(spec(0));
  for (int i = 1; i < kStores; ++i) {
    auto request = client.session().openStoreRequest();
    wire::WriteStoreSpec(spec(i), request.initSpec());
    const auto opened = client.Wait(request.send());
    ASSERT_TRUE(opened.isOk()) << i << ": " << wire::ReadError(opened.getError()).message;
  }
  EXPECT_LT(descriptors() - before, 1100) << "dropped stores must not keep their manifests";
  auto request = client.session().slabsRequest();
  request.setStore(first);
  const auto slabs = client.Wait(request.send());
  ASSERT_TRUE(slabs.isError());
  EXPECT_EQ(wire::ReadError(slabs.getError()).code, ErrorCode::kNotFound);
  EXPECT_NE(wire::ReadError(slabs.getError()).message.find("open it again"), std::string::npos);
  EXPECT_NE(client.OpenStore(spec(0)), first);
}

TEST_F(OpenStoreTest, ASessionThatEndsMeanwhileLeavesNothingBehind) {
  gate_open = false;
  auto slow = std::make_unique<decltype(Open(SlowSpec()))>(Open(SlowSpec()));
  client_->Wait(client_->session().pingRequest().send());
  slow.reset();
  client_.reset();
  gate_open = true;
  client_ = std::make_unique<RpcClient>(*io_, daemon_->Connect().value());
  client_->Hello();
  client_->OpenStore(SlowSpec());
  daemon_->Stop();
  EXPECT_TRUE(daemon_->Wait());
}

}  // namespace
}  // namespace kvant::daemon
