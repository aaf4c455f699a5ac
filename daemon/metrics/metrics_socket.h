// Where metrics are asked for: a unix socket, or a port that only this machine reaches.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <kvant/result.h>

#include "daemon/listener.h"
#include "protocol/memfd.h"

namespace kvant::daemon {

/// A listening socket. Movable; a unix socket's file goes with it.
class MetricsSocket {
 public:
  /// `address`: unix:PATH, or HOST:PORT with the host 127.0.0.1, [::1] or localhost; port 0 is any free one. kInvalidArgument
  /// for another host (figures are told to whoever asks, so nobody beyond this machine may), kSystem names address and errno.
  static Result<MetricsSocket> Open(std::string_view address);

  /// Non-blocking; stays the object's.
  [[nodiscard]] int fd() const noexcept { return listener_ ? listener_->fd() : socket_.get(); }
  /// As Open takes it, with the port that it got.
  [[nodiscard]] const std::string& address() const noexcept { return address_; }

 private:
  MetricsSocket(std::string address, std::optional<Listener> listener, protocol::UniqueFd socket)
      : address_(std::move(address)), listener_(std::move(listener)), socket_(std::move(socket)) {}

  std::string address_;
  std::optional<Listener> listener_;  // of a unix socket
  protocol::UniqueFd socket_;         // of a port
};

}  // namespace kvant::daemon
