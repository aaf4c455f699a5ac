// A daemon in the test's process, on a socket of its own.
#pragma once

#include <memory>
#include <string>

#include <kvant/admin.h>
#include <kvant/client.h>
#include <kvant/daemon.h>

namespace kvant::testing {

class DaemonEnv {
 public:
  /// `options.socket` is filled in.
  explicit DaemonEnv(DaemonOptions options = {});
  ~DaemonEnv();
  DaemonEnv(const DaemonEnv&) = delete;
  DaemonEnv& operator=(const DaemonEnv&) = delete;

  [[nodiscard]] const std::string& socket() const noexcept { return socket_; }
  [[nodiscard]] Client Connect(ClientOptions options = {}) const;
  [[nodiscard]] StatsReport Stats() const;
  void Stop();

 private:
  std::string directory_;
  std::string socket_;
  std::unique_ptr<Daemon> daemon_;
};

}  // namespace kvant::testing
