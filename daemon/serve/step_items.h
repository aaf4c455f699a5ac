// What attend, append and step do once they may begin: between a request's items and their outcomes.
#pragma once

#include <span>

#include <kvant/kvant.capnp.h>
#include <kvant/result.h>

#include "daemon/serve/session.h"

namespace kvant::daemon {

[[nodiscard]] Result<void> AppendItem(Session& session, wire::AppendItem::Reader from);

/// The outcomes of all items, valid until the next such call. In a steady state these allocate nothing. Requires: every
/// sequence settled.
std::span<const Result<void>> AttendItems(Session& session, capnp::List<wire::AttendItem>::Reader items);
std::span<const Result<void>> StepItems(Session& session, capnp::List<wire::StepItem>::Reader items);

}  // namespace kvant::daemon
