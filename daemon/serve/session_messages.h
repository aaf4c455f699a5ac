// Between messages and the daemon's own types: what the handlers of wire::Session read and write. Every number read is a
// client's and untrusted; places in arenas come back checked.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include <kvant/kvant.capnp.h>

#include "daemon/serve/attend_service.h"
#include "daemon/serve/session.h"
#include "quantizers/sequence/decode.h"

namespace kvant::daemon {

[[nodiscard]] RangePlace ReadRange(wire::Range::Reader from);
[[nodiscard]] Result<NewSequence> ReadOptions(wire::SequenceOptions::Reader from);
[[nodiscard]] std::vector<std::uint32_t> ReadTokens(capnp::List<std::uint32_t>::Reader from);
/// Fills everything but the sequence.
[[nodiscard]] Result<AttendCall> ReadAttend(const Session& session, wire::AttendItem::Reader from);

/// Not checked against the sequence yet.
[[nodiscard]] Result<quantizers::RowsRequest> ReadRowsRequest(const Session& session,
                                                              wire::Session::CopyRowsParams::Reader from);

/// `told`: the blocks that go with it (Session::TellAllBlocks).
void WriteState(const Sequence& sequence, BlockRange told, wire::SequenceState::Builder to);
/// `sequence` is null if the session has none of that id (any more); then `result` says why.
void WriteAdvanced(Session& session, const Sequence* sequence, const Result<Advanced>& result, BlockRange told,
                   wire::Advanced::Builder to);
void WriteStore(const Session::NumberedStore& opened, wire::StoreOpened::Builder to);

}  // namespace kvant::daemon
