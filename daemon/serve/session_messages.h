// Between messages and the daemon's own types: what the handlers of wire::Session read and write. Every number read is a
// client's and untrusted; places in arenas come back checked.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include <kvant/kvant.capnp.h>

#include "daemon/serve/attend_service.h"
#include "daemon/serve/session.h"

namespace kvant::daemon {

[[nodiscard]] RangePlace ReadRange(wire::Range::Reader from);
[[nodiscard]] Result<NewSequence> ReadOptions(wire::SequenceOptions::Reader from);
[[nodiscard]] std::vector<std::uint32_t> ReadTokens(capnp::List<std::uint32_t>::Reader from);
/// Fills everything but the sequence.
[[nodiscard]] Result<AttendCall> ReadAttend(const Session& session, wire::AttendItem::Reader from);
[[nodiscard]] Result<Session::AppendCall> ReadAppend(const Session& session, wire::AppendItem::Reader from);

/// Blocks [first, end) of a sequence.
void WriteTable(const Sequence& sequence, std::uint64_t first, std::uint64_t end, wire::BlockTable::Builder to);
/// With local placement the blocks too; the session remembers that the client knows them.
void WriteState(Session& session, const Sequence& sequence, Placement placement, wire::SequenceState::Builder to);
void WriteAdvanced(Session& session, std::uint64_t id, const Result<Advanced>& result, wire::Advanced::Builder to);
void WriteStore(const Session::HeldStore& held, wire::StoreOpened::Builder to);

}  // namespace kvant::daemon
