// The holder's table of descriptors, told by messages of sd_notify(3).
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include "protocol/memfd.h"

namespace kvant::daemon {

/// Descriptors by name. What stands in a message is bounded and checked: it is another process's.
class Held {
 public:
  static constexpr std::size_t kMostBytes = 1024;      ///< of a message
  static constexpr std::size_t kMostHeld = 32 * 1024;  ///< descriptors

  enum class Heard {
    kNothing,  ///< something that does not concern the holder
    kReady,    ///< READY=1
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
