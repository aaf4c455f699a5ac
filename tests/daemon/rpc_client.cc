#include "tests/daemon/rpc_client.h"

#include <atomic>
#include <chrono>
#include <utility>

#include <gtest/gtest.h>

#include "protocol/segment_layout.h"
#include "protocol/wire.h"

namespace kvant::daemon {

StoreSpec RpcSpec(std::string name) {
  StoreSpec spec;
  spec.name = std::move(name);
  spec.model = "model-digest";
  spec.tokenizer = "bytes";
  spec.layers = 2;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.block_tokens = 16;
  spec.sink_tokens = 4;
  spec.plan.keys = "f32";
  spec.plan.values = "f32";
  return spec;
}

DaemonOptions RpcOptions(std::string socket) {
  DaemonOptions options;
  options.socket = std::move(socket);
  options.budget_bytes = std::size_t{8} << 20;
  options.workers = 1;
  options.lease = std::chrono::hours(1);  // nobody counts up the arena's heartbeat here
  return options;
}

std::unique_ptr<kj::AsyncIoContext> MakeLoop() { return std::make_unique<kj::AsyncIoContext>(kj::setupAsyncIo()); }

RpcClient::RpcClient(kj::AsyncIoContext& io, int fd)
    : io_(io),
      stream_(io.lowLevelProvider->wrapUnixSocketFd(fd, kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP)),
      client_(kj::heap<capnp::TwoPartyClient>(*stream_, wire::kMaxFdsPerMessage)),
      bootstrap_(client_->bootstrap().castAs<wire::Daemon>()) {}

RpcClient::~RpcClient() noexcept = default;

void RpcClient::Hello() {
  auto request = bootstrap_.helloRequest();
  auto hello = request.initHello();
  hello.setProtocolVersion(wire::kProtocolVersion);
  hello.setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
  hello.setClientName("rpc test");
  auto response = Wait(request.send());
  ASSERT_TRUE(response.isOk()) << response.getError().getMessage().cStr();
  session_ = response.getOk().getSession();
  boot_token_ = response.getOk().getDaemon().getBootToken();
}

std::uint32_t RpcClient::MakeArena(std::uint64_t bytes) {
  auto request = session().createArenaRequest();
  request.setBytes(bytes);
  auto response = Wait(request.send());
  if (!response.isOk()) {
    ADD_FAILURE() << response.getError().getMessage().cStr();
    return 0;
  }
  auto segment = response.getOk().getSegment();
  const auto fd = segment.getFd().wait(io_.waitScope);
  KJ_IF_MAYBE (number, fd) {
    auto mapped = protocol::MapSegment(*number, {.kind = protocol::SegmentKind::kArena,
                                                 .access = protocol::Access::kReadWrite,
                                                 .bytes = response.getOk().getBytes(),
                                                 .boot_token = boot_token_,
                                                 .identity = {}});
    if (mapped) {
      segment_ = std::make_unique<protocol::MappedSegment>(*std::move(mapped));
    } else {
      ADD_FAILURE() << mapped.error().message;
    }
  } else {
    ADD_FAILURE() << "no descriptor";
  }
  return response.getOk().getArena();
}

void RpcClient::Beat() {
  auto* header = reinterpret_cast<protocol::ArenaHeader*>(arena());
  std::atomic_ref<std::uint64_t>(header->heartbeat).fetch_add(1, std::memory_order_relaxed);
}

std::uint32_t RpcClient::OpenStore(const StoreSpec& spec) {
  auto request = session().openStoreRequest();
  wire::WriteStoreSpec(spec, request.initSpec());
  auto response = Wait(request.send());
  if (response.isOk()) return response.getOk().getStore();
  ADD_FAILURE() << response.getError().getMessage().cStr();
  return 0;
}

wire::SequenceState::Reader RpcClient::OpenSequence(std::uint32_t store, std::uint32_t arena_number, const RpcTail& tail,
                                                    std::span<const std::uint32_t> tokens, wire::Placement placement) {
  auto request = session().openSequenceRequest();
  request.setStore(store);
  auto list = request.initTokens(static_cast<unsigned>(tokens.size()));
  for (unsigned i = 0; i < list.size(); ++i) list.set(i, tokens[i]);
  FillOptions(request.initOptions(), arena_number, tail, placement);
  states_.push_back(kj::heap(Wait(request.send())));
  auto& response = *states_.back();
  if (response.isOk()) return response.getOk();
  ADD_FAILURE() << response.getError().getMessage().cStr();
  return {};
}

void FillOptions(wire::SequenceOptions::Builder options, std::uint32_t arena, const RpcTail& tail, wire::Placement placement) {
  options.setPlacement(placement);
  options.setRecentTokens(8);
  options.setMaxStepTokens(16);
  options.setLabel("label");
  auto place = options.initTail();
  place.setArena(arena);
  place.setElementType(wire::ElementType::F32);
  place.setCapacityTokens(tail.capacity);
  place.setOffset(tail.offset);
}

void FillTensor(wire::Tensor::Builder tensor, std::uint32_t arena, std::uint64_t offset, std::uint32_t tokens,
                std::uint32_t heads, std::uint32_t dim) {
  tensor.setArena(arena);
  tensor.setElementType(wire::ElementType::F32);
  tensor.setOffset(offset);
  tensor.setTokens(tokens);
  tensor.setHeads(heads);
  tensor.setDim(dim);
  tensor.setTokenStride(std::uint64_t{heads} * dim);
  tensor.setHeadStride(dim);
}

capnp::Request<wire::Session::AdvanceParams, wire::Session::AdvanceResults> AdvanceRequest(
    RpcClient& client, std::uint64_t sequence, std::span<const std::uint32_t> tokens) {
  auto request = client.session().advanceRequest();
  auto item = request.initItems(1)[0];
  item.setSequence(sequence);
  auto list = item.initTokens(static_cast<unsigned>(tokens.size()));
  for (unsigned i = 0; i < list.size(); ++i) list.set(i, tokens[i]);
  return request;
}

}  // namespace kvant::daemon
