// A daemon in the test's process, on a socket of its own.
#pragma once

#include <memory>
#include <string>

#include <kvant/admin.h>
#include <kvant/client.h>
#include <kvant/daemon.h>

namespace kvant::testing {

/// Sanitizers allocate shadow memory as they go: page faults mean nothing then.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

class DaemonEnv {
 public:
  /// `options.socket` is filled in.
  explicit DaemonEnv(DaemonOptions options = {});
  ~DaemonEnv();
  DaemonEnv(const DaemonEnv&) = delete;
  DaemonEnv& operator=(const DaemonEnv&) = delete;

  [[nodiscard]] const std::string& socket() const noexcept { return socket_; }
  [[nodiscard]] Client Connect(ClientOptions options = {}) const;
  [[nodiscard]] Figures Stats() const;
  void Stop();

 private:
  std::string directory_;
  std::string socket_;
  std::unique_ptr<Daemon> daemon_;
};

}  // namespace kvant::testing
