#include "daemon/serve/refusals.h"

#include <algorithm>
#include <string>

#include "daemon/serve/session.h"
#include "protocol/wire.h"

namespace kvant::daemon {

std::uint64_t Refusals::*ReasonOf(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kOutOfRange: return &Refusals::invalid_argument;
    case ErrorCode::kNotFound: return &Refusals::not_found;
    case ErrorCode::kIdentityMismatch: return &Refusals::identity_mismatch;
    case ErrorCode::kStoreFull: return &Refusals::no_room;
    case ErrorCode::kTailFull: return &Refusals::tail_full;
    case ErrorCode::kNotFinite: return &Refusals::not_finite;
    case ErrorCode::kUnsupported: return &Refusals::unsupported;
    case ErrorCode::kVersionMismatch: return &Refusals::version;
    case ErrorCode::kStaleDaemon: return &Refusals::stale_daemon;
    case ErrorCode::kPermissionDenied: return &Refusals::not_owner;
    case ErrorCode::kCorrupt: return &Refusals::corrupt;
    case ErrorCode::kUnavailable: return &Refusals::not_now;
    case ErrorCode::kDisconnected:
    case ErrorCode::kDeadlineExceeded:
    case ErrorCode::kWrongThread:
    case ErrorCode::kSystem:
    case ErrorCode::kInternal: break;
  }
  return &Refusals::fault;
}

void CountRefusal(Services& services, std::uint64_t Refusals::*reason, std::string_view message, const ClientRecord* client) {
  ++(services.refusals.*reason);
  EventStream& events = services.core.events;
  if (!events.watched()) return;
  const auto row = std::ranges::find(kRefusals, reason, &Figure<Refusals>::value);
  events.Tell("refused", {{"reason", std::string(row->info.name)},
                          {"message", std::string(message)},
                          {"connection", client == nullptr ? 0 : client->connection},
                          {"client", client == nullptr ? std::string() : client->name}});
}

void WriteRefusal(Services& services, const Error& error, wire::Error::Builder to) {
  CountRefusal(services, ReasonOf(error.code), error.message);
  wire::WriteError(error, to);
}

void WriteRefusal(Session& session, const Error& error, wire::Error::Builder to) {
  if (ClientRecord* const record = session.record()) ++record->refused;
  CountRefusal(session.services(), ReasonOf(error.code), error.message, session.record());
  wire::WriteError(error, to);
}

void WriteOutcome(Services& services, const Result<void>& outcome, wire::Status::Builder to) {
  outcome ? to.setOk() : WriteRefusal(services, outcome.error(), to.initError());
}

void WriteOutcome(Session& session, const Result<void>& outcome, wire::Status::Builder to) {
  outcome ? to.setOk() : WriteRefusal(session, outcome.error(), to.initError());
}

}  // namespace kvant::daemon
