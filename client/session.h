// A session with a daemon: what a Client is. Owns the connection, the arena, the scratch space for tensors that are not in the
// arena, and the counters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <kvant/client.h>

#include "client/arena.h"
#include "client/connection.h"
#include "client/housekeeper.h"
#include "quantizers/attention/attention.h"
#include "quantizers/attention/worker_team.h"
#include "quantizers/sequence/view.h"

namespace kvant::client {

DaemonInfo ReadDaemonInfo(wire::DaemonInfo::Reader from);

/// What a connection says and checks first. `boot_token` 0.
void WriteHello(std::string_view client_name, wire::Hello::Builder to);

/// Threads and scratch of attention in this process; made at the first call with local placement.
struct LocalAttention {
  explicit LocalAttention(std::size_t threads) : team(threads - 1), attention(team) {}
  quantizers::WorkerTeam team;
  quantizers::Attention attention;
  std::vector<quantizers::LayerView> views;  // kept for their capacity
  std::vector<quantizers::AttendItem> items;
};

/// All methods but the destructor belong to the thread that connected; Connection::Enter has been called before them.
class Session {
 public:
  static Result<std::shared_ptr<Session>> Open(Endpoint endpoint);

  [[nodiscard]] Connection& connection() noexcept { return *connection_; }
  [[nodiscard]] wire::Session::Client& remote() noexcept { return remote_; }
  [[nodiscard]] const DaemonInfo& daemon() const noexcept { return daemon_; }
  [[nodiscard]] ClientCounters& counters() noexcept { return counters_; }

  /// The arena, made at first use.
  Result<std::shared_ptr<Arena>> GetArena();
  /// kDisconnected if the daemon has given up on this client: what was read of blocks since may have been rewritten.
  [[nodiscard]] Result<void> CheckLease(std::string_view operation) const;
  /// Allocates in it.
  Result<ArenaMemory> Allocate(std::size_t bytes, std::string_view purpose);
  /// Offset in the arena, if [data, data + bytes) lies there. Never makes the arena.
  [[nodiscard]] std::optional<std::uint64_t> ArenaOffset(const void* data, std::size_t bytes) const noexcept;
  [[nodiscard]] std::uint32_t arena_id() const noexcept { return arena_id_; }

  /// Memory in the arena for tensors of one call, at multiples of 64; all of it free again after ResetScratch.
  Result<std::byte*> Scratch(std::size_t bytes);
  void ResetScratch() noexcept { scratch_used_ = 0; }

  LocalAttention& local();
  /// Requires an arena.
  Housekeeper& housekeeper() { return *housekeeper_; }

  /// Connection::Call for calls that let the daemon write to the arena. If the deadline passes, freed memory is kept from use
  /// until the late answer is in, and `late` is called with that answer.
  template <typename Params, typename Results, typename Late>
  Result<capnp::Response<Results>> Call(capnp::Request<Params, Results>& request, std::string_view operation, Late late) {
    auto call = connection_->Send(request, operation);
    if (!call) return call.error();
    auto answer = connection_->Wait(**call, operation);
    if (!answer && answer.error().code == ErrorCode::kDeadlineExceeded) {
      if (arena_) arena_->Hold();
      scratch_.clear();
      scratch_used_ = 0;
      connection_->Forget(std::move(*call), [arena = arena_, late = std::move(late)](Inflight<Results>& done) mutable {
        if (arena) arena->Release();
        if (done.exception() == nullptr) late(done.TakeResponse());
      });
    }
    return answer;
  }

 private:
  Session(std::unique_ptr<Connection> connection, wire::Session::Client remote, DaemonInfo daemon,
          std::chrono::milliseconds lease);

  std::unique_ptr<Connection> connection_;
  wire::Session::Client remote_;
  DaemonInfo daemon_;
  std::chrono::milliseconds lease_;
  std::size_t arena_bytes_;
  std::size_t threads_;
  ClientCounters counters_;
  std::shared_ptr<Arena> arena_;  // shared with the memory allocated in it
  std::uint32_t arena_id_ = 0;
  std::unique_ptr<Housekeeper> housekeeper_;  // with the arena, whose heartbeat it counts
  std::vector<ArenaMemory> scratch_;          // the last one is in use, the others wait for the end of the call
  std::size_t scratch_used_ = 0;
  std::unique_ptr<LocalAttention> local_;
};

/// What a Tensor is.
struct ArenaTensor {
  std::shared_ptr<Session> session;  // outlives memory
  ArenaMemory memory;
  TensorView view;
};

/// Ends what a handle owned: here in the session's own thread, elsewhere when that thread next calls the library. If that
/// thread is gone the connection is cut, so that the daemon frees its side, and the rest is leaked; in a forked child it is
/// just leaked. `object` keeps `connection`.
void Dispose(Connection& connection, std::shared_ptr<void> object);

}  // namespace kvant::client
