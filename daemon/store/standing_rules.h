// What operators have set while the daemon ran, as it is kept for the daemon after this one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <kvant/result.h>

#include "protocol/segment_layout.h"

namespace kvant::daemon {

/// Plain values. They hold until whoever keeps the memory ends; flags and the configuration file say what holds before.
struct StandingRules {
  struct StoreRule {
    std::optional<std::uint64_t> limit_bytes{};  ///< Budget::kUnlimited: none
    std::optional<std::uint64_t> ttl_ms{};
  };
  struct Pin {
    std::string tenant{};
    protocol::Digest store{};
    std::vector<protocol::Digest> ends{};  ///< chains of the blocks behind which nothing is pinned
    std::uint64_t end_ms = 0;              ///< as EvictionOrder::now_ms
  };
  std::map<std::string, std::uint64_t> tenant_limits{};
  std::map<std::pair<std::string, protocol::Digest>, StoreRule> stores{};  ///< by tenant and identity, here or not
  std::map<std::uint64_t, Pin> pins{};
  std::uint64_t next_pin = 1;  ///< numbers of pins do not come again

  [[nodiscard]] bool empty() const noexcept { return tenant_limits.empty() && stores.empty() && pins.empty() && next_pin == 1; }
};

inline constexpr std::uint64_t kRulesMagic = 0x454C5552544E564BULL;  ///< "KVNTRULE"

/// First bytes of a segment of rules; then text_bytes of JSON. SEGMENT.md has the text.
struct RulesHeader {
  std::uint64_t magic;
  std::uint32_t layout_version;
  std::uint32_t reserved;       ///< zero
  std::uint64_t number;         ///< counts up with every change: of two segments the larger one holds
  std::uint64_t text_bytes;     ///< at most kMostRulesBytes
  std::uint64_t text_checksum;  ///< XXH3-64
};
static_assert(sizeof(RulesHeader) == 40);
inline constexpr std::uint32_t kRulesLayoutVersion = 1;
inline constexpr std::uint64_t kMostRulesBytes = std::uint64_t{64} << 20;

struct NumberedRules {
  std::uint64_t number = 0;
  StandingRules rules{};
};

/// The bytes of a segment.
std::vector<std::byte> WriteRules(const NumberedRules& rules);
/// kCorrupt or kVersionMismatch for anything that WriteRules does not write. Reads only inside `bytes`.
Result<NumberedRules> ReadRules(std::span<const std::byte> bytes);
/// The same of a whole segment, by any descriptor of it, which stays the caller's.
Result<NumberedRules> ReadRulesSegment(int fd);

}  // namespace kvant::daemon
