#include "client/session.h"

#include <algorithm>
#include <string>
#include <utility>

#include "protocol/mapped_segment.h"
#include "protocol/memfd.h"
#include "protocol/wire.h"

namespace kvant::client {
namespace {

constexpr std::size_t kFirstScratchBytes = std::size_t{1} << 20;

std::string Str(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

}  // namespace

DaemonInfo ReadDaemonInfo(wire::DaemonInfo::Reader from) {
  return {.version = Str(from.getVersion()),
          .boot_token = from.getBootToken(),
          .pid = from.getPid(),
          .budget_bytes = from.getBudgetBytes(),
          .protocol_version = from.getProtocolVersion(),
          .segment_layout_version = from.getSegmentLayoutVersion()};
}

void WriteHello(std::string_view client_name, wire::Hello::Builder to) {
  to.setProtocolVersion(wire::kProtocolVersion);
  to.setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
  to.setClientName(capnp::Text::Reader(std::string(client_name).c_str(), client_name.size()));
}

Session::Session(std::unique_ptr<Connection> connection, wire::Session::Client remote, DaemonInfo daemon,
                 std::chrono::milliseconds lease)
    : connection_(std::move(connection)),
      remote_(kj::mv(remote)),
      daemon_(std::move(daemon)),
      lease_(lease),
      arena_bytes_(connection_->endpoint().options.arena_bytes),
      threads_(std::max<std::size_t>(1, connection_->endpoint().options.threads)) {}

Result<std::shared_ptr<Session>> Session::Open(Endpoint endpoint) {
  auto connection = Connection::Connect(std::move(endpoint));
  if (!connection) return connection.error();
  auto daemon = (*connection)->Bootstrap();
  auto request = daemon.helloRequest();
  WriteHello((*connection)->client_name(), request.initHello());
  auto answer = (*connection)->Call(request, "connect");
  if (!answer) return answer.error();
  if (answer->isError()) return wire::ReadError(answer->getError());
  const auto welcome = answer->getOk();
  const std::chrono::milliseconds lease(welcome.getDaemon().getLeaseMs());
  return std::shared_ptr<Session>(
      new Session(std::move(*connection), welcome.getSession(), ReadDaemonInfo(welcome.getDaemon()), lease));
}

Result<std::shared_ptr<Arena>> Session::GetArena() {
  if (arena_) return arena_;
  auto request = remote_.createArenaRequest();
  request.setBytes(arena_bytes_);
  auto answer = connection_->Call(request, "create the arena");
  if (!answer) return answer.error();
  if (answer->isError()) return wire::ReadError(answer->getError());
  const auto info = answer->getOk();
  auto fd = connection_->TakeFd(info.getSegment(), "create the arena");
  if (!fd) return fd.error();
  const protocol::UniqueFd owned(*fd);
  auto segment = protocol::MapSegment(owned.get(), {.kind = protocol::SegmentKind::kArena,
                                                    .access = protocol::Access::kReadWrite,
                                                    .bytes = info.getBytes(),
                                                    .boot_token = daemon_.boot_token,
                                                    .identity = {}});
  if (!segment) return segment.error();
  auto arena = Arena::Make(std::move(*segment));
  if (!arena) return arena.error();
  // A quarter of the lease: three beats may be late before the daemon gives up on this process.
  housekeeper_ = std::make_unique<Housekeeper>((*arena)->heartbeat(), std::max(lease_ / 4, std::chrono::milliseconds(1)));
  arena_ = std::move(*arena);
  arena_id_ = info.getArena();
  return arena_;
}

Result<void> Session::CheckLease(std::string_view operation) const {
  if (!arena_ || !arena_->revoked()) return {};
  return Error{ErrorCode::kDisconnected,
               std::string(operation) +
                   ": the daemon gave up on this client, which had shown no sign of life for the lease, "
                   "and its blocks are gone; connect again and reopen"};
}

Result<ArenaMemory> Session::Allocate(std::size_t bytes, std::string_view purpose) {
  auto arena = GetArena();
  if (!arena) return arena.error();
  auto memory = (*arena)->Allocate(bytes, purpose);
  if (!memory) return memory.error();
  return ArenaMemory(*arena, *memory, bytes);
}

std::optional<std::uint64_t> Session::ArenaOffset(const void* data, std::size_t bytes) const noexcept {
  return arena_ ? arena_->OffsetOf(data, bytes) : std::nullopt;
}

Result<std::byte*> Session::Scratch(std::size_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  if (scratch_used_ == 0 && scratch_.size() > 1) scratch_.erase(scratch_.begin(), scratch_.end() - 1);
  if (scratch_.empty() || scratch_.back().bytes() - scratch_used_ < bytes) {
    const std::size_t last = scratch_.empty() ? kFirstScratchBytes / 2 : scratch_.back().bytes();
    auto memory = Allocate(std::max(2 * last, 2 * bytes), "staging tensors that do not lie in the arena");
    if (!memory) return memory.error();
    scratch_.push_back(std::move(*memory));
    scratch_used_ = 0;
  }
  std::byte* const place = scratch_.back().data() + scratch_used_;
  scratch_used_ += bytes;
  return place;
}

LocalAttention& Session::local() {
  if (!local_) local_ = std::make_unique<LocalAttention>(threads_);
  return *local_;
}

void Dispose(Connection& connection, std::shared_ptr<void> object) {
  if (connection.loop().Inherited()) {
    Leak(std::move(object));  // not Abandon: the socket is the parent's
    return;
  }
  if (connection.InThisThread()) return;
  // Once handed over, `connection` may be gone at any time; if that was refused it is leaked and stays.
  if (!connection.loop().DestroyLater(std::move(object))) connection.Abandon();
}

}  // namespace kvant::client
