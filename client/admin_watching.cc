// The calls of Admin for those who watch: who is connected, what happens, and a successor.
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "client/admin_impl.h"

namespace kvant {
namespace {

using client::Guard;
using client::MovedFrom;

constexpr std::uint32_t kMostEvents = 256;

std::string Str(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

/// Numbers of a daemon's, which may be anything.
std::chrono::milliseconds Milliseconds(std::uint64_t count) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 52;
  return std::chrono::milliseconds(static_cast<std::int64_t>(count < kMost ? count : kMost));
}

ClientRow ReadClient(wire::ClientRow::Reader from) {
  return {.connection = from.getConnection(),
          .pid = from.getPid(),
          .uid = from.getUid(),
          .tenant = Str(from.getTenant()),
          .name = Str(from.getName()),
          .admin = from.getAdmin(),
          .connected = Milliseconds(from.getConnectedMs()),
          .idle = Milliseconds(from.getIdleMs()),
          .calls = from.getCalls(),
          .refused = from.getRefused(),
          .stores = from.getStores(),
          .sequences = from.getSequences(),
          .leases = from.getLeases(),
          .arenas = from.getArenas(),
          .arena_bytes = from.getArenaBytes(),
          .silent = Milliseconds(from.getSilentMs())};
}

Event ReadEvent(wire::Event::Reader from) {
  Event event{.number = from.getNumber(),
              .time = std::chrono::sys_time<std::chrono::milliseconds>(Milliseconds(from.getTimeMs())),
              .kind = Str(from.getKind()),
              .fields = {}};
  for (const auto field : from.getFields()) {
    EventField& to = event.fields.emplace_back(EventField{.name = Str(field.getName()), .value = std::uint64_t{0}});
    if (field.isText()) {
      to.value = Str(field.getText());
    } else if (field.isNumber()) {
      to.value = field.getNumber();
    }
  }
  return event;
}

}  // namespace

Result<std::vector<ClientRow>> Admin::Clients() {
  return Guard("clients", [&]() -> Result<std::vector<ClientRow>> {
    if (!impl_) return MovedFrom("clients");
    if (auto entered = impl_->connection->Enter("clients"); !entered) return entered.error();
    std::vector<ClientRow> rows;
    std::uint64_t from = 0;
    do {
      auto request = impl_->admin.clientsRequest();
      request.setFrom(from);
      auto answer = impl_->connection->Call(request, "clients");
      if (!answer) return answer.error();
      for (const auto row : answer->getPage().getRows()) rows.push_back(ReadClient(row));
      from = answer->getPage().getNext();
    } while (from != 0);
    return rows;
  });
}

Result<void> Admin::Watch() {
  return Guard("watch", [&]() -> Result<void> {
    if (!impl_) return MovedFrom("watch");
    if (auto entered = impl_->connection->Enter("watch"); !entered) return entered.error();
    auto request = impl_->admin.watchRequest();
    auto answer = impl_->connection->Call(request, "watch");
    if (!answer) return answer.error();
    if (answer->isError()) return wire::ReadError(answer->getError());
    impl_->watch = answer->getOk();
    return {};
  });
}

Result<EventBatch> Admin::TakeEvents() {
  return Guard("take events", [&]() -> Result<EventBatch> {
    if (!impl_) return MovedFrom("take events");
    if (auto entered = impl_->connection->Enter("take events"); !entered) return entered.error();
    if (!impl_->watch) return Error{ErrorCode::kInvalidArgument, "take events: nobody watches yet (Admin::Watch)"};
    auto request = impl_->watch->takeRequest();
    request.setMost(kMostEvents);
    auto answer = impl_->connection->Call(request, "take events");
    if (!answer) return answer.error();
    EventBatch batch{.events = {}, .lost = answer->getLost()};
    for (const auto event : answer->getEvents()) batch.events.push_back(ReadEvent(event));
    return batch;
  });
}

Result<void> Admin::Upgrade() {
  return Guard("upgrade", [&]() -> Result<void> {
    if (!impl_) return MovedFrom("upgrade");
    if (auto entered = impl_->connection->Enter("upgrade"); !entered) return entered.error();
    auto request = impl_->admin.upgradeRequest();
    auto answer = impl_->connection->Call(request, "upgrade");
    if (!answer) return answer.error();
    return wire::ReadStatus(*answer);
  });
}

}  // namespace kvant
