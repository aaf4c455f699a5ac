// What an Admin holds; for the files of its calls.
#pragma once

#include <memory>
#include <optional>

#include <kvant/admin.h>

#include "client/connection.h"
#include "client/guard.h"
#include "client/session.h"
#include "protocol/wire.h"

namespace kvant {

struct Admin::Impl {
  std::unique_ptr<client::Connection> connection;
  wire::Admin::Client admin;
  DaemonInfo daemon;
  std::optional<wire::EventWatch::Client> watch = std::nullopt;
};

inline Result<EvictReport> ReadEvicted(wire::Outcome<wire::EvictReport>::Reader from) {
  if (from.isError()) return wire::ReadError(from.getError());
  const auto ok = from.getOk();
  return EvictReport{.blocks = ok.getBlocks(), .bytes = ok.getBytes(), .held = ok.getHeld()};
}

}  // namespace kvant
