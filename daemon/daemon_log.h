// The log as the daemon's loop writes it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <kj/exception.h>
#include <spdlog/logger.h>

#include "daemon/log_limit.h"

namespace kvant::daemon {

/// Writes what can come as often as somebody likes only so often, and then how much was left out. The loop's thread.
class DaemonLog {
 public:
  /// Null: nothing is logged.
  explicit DaemonLog(std::shared_ptr<spdlog::logger> log);

  /// What clients can cause at will. Returns whether it is in the log.
  bool Tell(std::string_view event);
  /// A failure that ends nothing but what failed.
  void Report(std::string_view what, const kj::Exception& exception);

  /// For what happens once; null if nothing is logged.
  [[nodiscard]] spdlog::logger* logger() const noexcept { return log_.get(); }

 private:
  const std::shared_ptr<spdlog::logger> log_;
  LogLimit events_;
  LogLimit failures_;
};

/// What kj says of it.
[[nodiscard]] std::string Description(const kj::Exception& exception);

}  // namespace kvant::daemon
