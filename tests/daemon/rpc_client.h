// A bare Cap'n Proto client for tests of the daemon's RPC side: says whatever a test wants, also what the client library never
// would.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kvant/kvant.capnp.h>

#include <kvant/daemon.h>
#include <kvant/store_spec.h>

#include "protocol/mapped_segment.h"

namespace kvant::daemon {

/// Of f32 codecs, so that outputs equal plain attention: 2 layers, 2 KV heads, 16 numbers per row, 16 tokens per block.
StoreSpec RpcSpec(std::string name = "store");

/// Rows of the tail ring [layer][K, V][head][capacity][dim] in f32 that an RPC test writes to.
struct RpcTail {
  std::uint64_t offset = 4096;  ///< behind the header page
  std::uint32_t capacity = 64;
  StoreSpec spec = RpcSpec();

  [[nodiscard]] std::uint64_t bytes() const {
    return std::uint64_t{spec.layers} * 2 * spec.kv_heads * capacity * spec.head_dim * 4;
  }
};

/// Small and quick to start.
DaemonOptions RpcOptions(std::string socket = {});

/// The test thread's event loop.
std::unique_ptr<kj::AsyncIoContext> MakeLoop();

/// One connection, driven by the test's thread. The loop must outlive it.
class RpcClient {
 public:
  /// Takes the descriptor.
  RpcClient(kj::AsyncIoContext& io, int fd);
  ~RpcClient() noexcept;
  RpcClient(const RpcClient&) = delete;
  RpcClient& operator=(const RpcClient&) = delete;

  [[nodiscard]] wire::Daemon::Client& bootstrap() { return bootstrap_; }
  [[nodiscard]] wire::Session::Client& session() { return KJ_ASSERT_NONNULL(session_); }
  [[nodiscard]] kj::WaitScope& wait_scope() { return io_.waitScope; }
  [[nodiscard]] std::uint64_t boot_token() const { return boot_token_; }

  /// hello as it should be; fails the test if refused.
  void Hello();
  /// Lets the session's capability go.
  void DropSession() { session_ = nullptr; }

  /// Makes and maps an arena; returns its number.
  std::uint32_t MakeArena(std::uint64_t bytes);
  [[nodiscard]] std::byte* arena() { return segment_->data(); }
  [[nodiscard]] std::size_t arena_bytes() { return segment_->size(); }
  [[nodiscard]] float* floats(std::uint64_t offset) { return reinterpret_cast<float*>(arena() + offset); }
  void Beat();

  /// Opens a store; the session's number of it.
  std::uint32_t OpenStore(const StoreSpec& spec);
  /// Opens a sequence whose tail lies at `tail`, in the arena of number `arena`.
  wire::SequenceState::Reader OpenSequence(std::uint32_t store, std::uint32_t arena, const RpcTail& tail,
                                           std::span<const std::uint32_t> tokens = {},
                                           wire::Placement placement = wire::Placement::SERVICE);

  /// Waits for an answer.
  template <typename Results>
  capnp::Response<Results> Wait(capnp::RemotePromise<Results>&& promise) {
    return promise.wait(io_.waitScope);
  }

 private:
  kj::AsyncIoContext& io_;
  kj::Own<kj::AsyncCapabilityStream> stream_;
  kj::Own<capnp::TwoPartyClient> client_;
  wire::Daemon::Client bootstrap_;
  kj::Maybe<wire::Session::Client> session_;
  std::uint64_t boot_token_ = 0;
  std::unique_ptr<protocol::MappedSegment> segment_;
  std::vector<kj::Own<capnp::Response<wire::Outcome<wire::SequenceState>>>> states_;  // keep what OpenSequence returned
};

/// Tail and options of an OpenSequence or Fork request.
void FillOptions(wire::SequenceOptions::Builder options, std::uint32_t arena, const RpcTail& tail,
                 wire::Placement placement = wire::Placement::SERVICE);

/// A contiguous f32 tensor at `offset`.
void FillTensor(wire::Tensor::Builder tensor, std::uint32_t arena, std::uint64_t offset, std::uint32_t tokens,
                std::uint32_t heads, std::uint32_t dim);

/// An advance request of one item.
capnp::Request<wire::Session::AdvanceParams, wire::Session::AdvanceResults> AdvanceRequest(
    RpcClient& client, std::uint64_t sequence, std::span<const std::uint32_t> tokens);

}  // namespace kvant::daemon
