// The calls of wire::Admin for those who watch: who is connected, and what happens.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "daemon/serve/admin_server.h"
#include "daemon/serve/refusals.h"
#include "daemon/serve/rpc_handler.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

/// A page of clients, with the longest names far below what a client reads.
constexpr unsigned kClientsPerPage = 256;
/// In one answer; an event has a few texts of EventStream::kMostText at most.
constexpr std::uint32_t kMostEvents = 256;

std::uint64_t Milliseconds(std::chrono::nanoseconds time) {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(time).count(), 0));
}

void WriteClient(const ClientRecord& from, std::chrono::steady_clock::time_point now, wire::ClientRow::Builder to) {
  to.setConnection(from.connection);
  to.setPid(static_cast<std::uint64_t>(from.peer.pid));
  to.setUid(from.peer.uid);
  to.setTenant(TextOf(from.tenant));
  to.setName(TextOf(from.name));
  to.setAdmin(from.admin);
  to.setConnectedMs(Milliseconds(now - from.connected));
  to.setIdleMs(Milliseconds(now - from.last_call));
  to.setCalls(from.calls);
  to.setRefused(from.refused);
  to.setSilentMs(Milliseconds(from.silent));
  const auto session = from.session.lock();
  if (!session || session->closed()) return;
  to.setStores(session->stores());
  to.setSequences(session->sequences());
  to.setLeases(session->leases());
  to.setArenas(session->arenas());
  to.setArenaBytes(session->arena_bytes());
}

void WriteEvent(const Event& from, wire::Event::Builder to) {
  to.setNumber(from.number);
  to.setTimeMs(Milliseconds(from.time.time_since_epoch()));
  to.setKind({from.kind.data(), from.kind.size()});  // literals
  auto fields = to.initFields(static_cast<unsigned>(from.fields.size()));
  for (unsigned i = 0; i < fields.size(); ++i) {
    const EventField& field = from.fields[i];
    fields[i].setName({field.name.data(), field.name.size()});
    if (const auto* text = std::get_if<std::string>(&field.value)) {
      fields[i].setText(TextOf(*text));
    } else {
      fields[i].setNumber(std::get<std::uint64_t>(field.value));
    }
  }
}

class EventWatchServer final : public wire::EventWatch::Server {
 public:
  explicit EventWatchServer(std::shared_ptr<Watcher> watcher) : watcher_(std::move(watcher)) {}

  kj::Promise<void> take(TakeContext context) override {
    return RunHandler([&]() -> kj::Promise<void> {
      const Watcher::Taken taken = watcher_->Take(std::min(context.getParams().getMost(), kMostEvents));
      auto events = context.getResults().initEvents(static_cast<unsigned>(taken.events.size()));
      for (unsigned i = 0; i < events.size(); ++i) WriteEvent(*taken.events[i], events[i]);
      context.getResults().setLost(taken.lost);
      return kj::READY_NOW;
    });
  }

 private:
  const std::shared_ptr<Watcher> watcher_;
};

}  // namespace

kj::Promise<void> AdminServer::clients(ClientsContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto now = std::chrono::steady_clock::now();
    const auto from = services_.clients.lower_bound(context.getParams().getFrom());
    const auto left = std::distance(from, services_.clients.end());
    auto page = context.getResults().initPage();
    auto rows = page.initRows(static_cast<unsigned>(std::min<std::ptrdiff_t>(left, kClientsPerPage)));
    auto client = from;
    for (unsigned i = 0; i < rows.size(); ++i) WriteClient(*(client++)->second, now, rows[i]);
    page.setNext(client == services_.clients.end() ? 0 : client->first);
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::watch(WatchContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    auto watcher = services_.core.events.Watch();
    if (watcher == nullptr) {
      WriteRefusal(services_,
                   {ErrorCode::kUnavailable, "watch: " + std::to_string(EventStream::kMostWatchers) + " watch already"},
                   context.getResults().initError());
    } else {
      context.getResults().setOk(kj::heap<EventWatchServer>(std::move(watcher)));
    }
    return kj::READY_NOW;
  });
}

}  // namespace kvant::daemon
