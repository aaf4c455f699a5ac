// Remembers blocks that are gone, so that one can say what a larger budget would have kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "daemon/memory/budget.h"
#include "protocol/segment_layout.h"

namespace kvant::daemon {

/// A table of fixed size: a block that was evicted longer ago makes place for one that is evicted now. It keeps 64 bits of a
/// block's chain and its tenant, so a block may be taken for another once in 2^64 / capacity lookups. Loop thread.
class EvictedBlocks {
 public:
  static constexpr std::size_t kEntryBytes = 16;

  /// Remembers nothing.
  EvictedBlocks() = default;
  /// Remembers about as many blocks as `charge`, of kEntryBytes each, pays for.
  explicit EvictedBlocks(Charge charge);

  /// `owner`: what one tenant had says nothing of what another has; only compared.
  void Remember(const protocol::Digest& chain, const void* owner, std::uint64_t now_ms) noexcept;
  /// When the block was evicted; nothing if that is not known.
  [[nodiscard]] std::optional<std::uint64_t> Find(const protocol::Digest& chain, const void* owner) const noexcept;

  [[nodiscard]] std::size_t bytes() const noexcept { return charge_.bytes(); }

 private:
  struct Entry {
    std::uint64_t fingerprint = 0;  // 0: none
    std::uint64_t evicted_ms = 0;
  };
  static_assert(sizeof(Entry) == kEntryBytes);
  /// A block lies in one set of the table; the oldest of its set makes place.
  static constexpr std::size_t kSetEntries = 8;
  [[nodiscard]] std::size_t SetOf(std::uint64_t fingerprint) const noexcept;

  Charge charge_;
  std::vector<Entry> entries_;
};

}  // namespace kvant::daemon
