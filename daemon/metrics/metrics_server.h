// Answers GET /metrics, on a thread of its own: a slow reader keeps nobody else waiting.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "daemon/metrics/metrics_socket.h"

namespace kvant::daemon {

class MetricsServer {
 public:
  struct Callbacks {
    /// Runs work on the loop thread. Any thread.
    std::function<void(std::function<void()>)> post;
    /// What is known now, as it is needed to write it down without the loop thread: called there, what it returns is called on
    /// the server's own thread.
    std::function<std::function<std::string()>()> collect;
    /// The server's thread has failed and answers no more. On that thread.
    std::function<void(const std::string&)> failed;
  };
  /// Answers from now on until it is destroyed.
  MetricsServer(MetricsSocket socket, Callbacks callbacks);
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  [[nodiscard]] const std::string& address() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvant::daemon
