// What an Admin holds; for the files of its calls.
#pragma once

#include <memory>

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
};

}  // namespace kvant
