// What `attend` does once it may begin: between a request's items and their outcomes.
#pragma once

#include <span>

#include <kvant/kvant.capnp.h>
#include <kvant/result.h>

#include "daemon/serve/session.h"

namespace kvant::daemon {

/// The outcomes of all items, valid until the next such call. In a steady state this allocates nothing. Requires: every
/// sequence settled.
std::span<const Result<void>> AttendItems(Session& session, capnp::List<wire::AttendItem>::Reader items);

}  // namespace kvant::daemon
