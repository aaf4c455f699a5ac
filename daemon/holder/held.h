// The holder's table of descriptors, told by messages of sd_notify(3).
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "protocol/memfd.h"

namespace kvant::daemon {

/// A message of sd_notify(3), and the descriptor that came with it, if any.
struct Notification {
  std::string text;
  protocol::UniqueFd fd;
  bool truncated = false;  ///< more descriptors came than one
};
/// The next one that is there; none when there is none, or its sender has gone. Never waits.
std::optional<Notification> ReceiveNotification(int socket);

/// Descriptors by name. What stands in a message is bounded and checked: it is another process's.
class Held {
 public:
  static constexpr std::size_t kMostBytes = 1024;      ///< of a message
  static constexpr std::size_t kMostHeld = 32 * 1024;  ///< descriptors

  enum class Heard {
    kNothing,  ///< something that does not concern the holder
    kReady,    ///< READY=1
    kBegun,    ///< STATUS=begun
    kStored,
    kRemoved,
    kRefused,  ///< a descriptor without a name, or one too many: closed
  };
  /// `fd`: what came with the message, if anything; kept or closed.
  Heard Hear(std::string_view message, protocol::UniqueFd fd);

  [[nodiscard]] const std::map<std::string, protocol::UniqueFd, std::less<>>& all() const noexcept { return held_; }
  void Clear() noexcept { held_.clear(); }

 private:
  std::map<std::string, protocol::UniqueFd, std::less<>> held_;
};

}  // namespace kvant::daemon
