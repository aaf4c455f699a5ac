// What decides how long a sealed block stays.
#pragma once

#include <compare>
#include <cstdint>

namespace kvant::daemon {

/// Where a block stands among those that may go: least first.
struct Rank {
  std::uint64_t tier = 0;
  std::uint64_t order = 0;
  friend auto operator<=>(const Rank&, const Rank&) = default;
};

/// Most that a client may ask for with SequenceConfig::priority.
inline constexpr std::uint32_t kMaxPriority = 3;

/// Lives in the block; kept by its index and the eviction policy.
struct Retention {
  std::uint64_t last_use = 0;     ///< as EvictionOrder counts: larger is later
  std::uint64_t last_use_ms = 0;  ///< EvictionOrder::now_ms at that use
  std::uint64_t sealed_ms = 0;    ///< EvictionOrder::now_ms when the block came to its index
  Rank rank{};                    ///< while it may go
  std::uint64_t weight = 0;       ///< the policy's own number
  std::uint8_t uses = 0;          ///< how often it was found since it was sealed; policies may count down
  std::uint8_t priority = 0;      ///< 0..kMaxPriority: see Use
  bool main = false;              ///< s3fifo: past its probation
  bool coarse = false;            ///< there is nothing left to demote of it, nor of what it alone continues
  bool doomed = false;            ///< an operator wants it gone as soon as nobody holds it; a use by others forgets that

  static constexpr std::uint8_t kMostUses = 255;

  /// Somebody who asks for that priority found the block. A higher priority holds at once; each use by others who ask for less
  /// takes one off, so that no block keeps a priority that nobody asks for any more.
  void Use(std::uint32_t asked) noexcept {
    if (uses != kMostUses) ++uses;
    doomed = false;
    const std::uint32_t kept = priority == 0 ? 0U : priority - 1U;
    priority = static_cast<std::uint8_t>(asked > kept ? asked : kept);
  }
};

}  // namespace kvant::daemon
