// The client's arena: memory that the daemon sees too. Behind the header page runs Boost's best-fit allocator, which the daemon
// never looks at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <kvant/result.h>

#include "protocol/mapped_segment.h"

namespace kvant::client {

/// Owning thread only.
class Arena {
 public:
  /// `segment` is a checked, writable mapping that begins with an ArenaHeader.
  static Result<std::shared_ptr<Arena>> Make(protocol::MappedSegment segment);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// `bytes` zeroed bytes at a multiple of 64, their pages present (no page fault at first use). `purpose` names them in the
  /// error when the arena has no room (kTailFull is for tails; this is kOutOfRange) or the machine has no memory (kSystem).
  Result<std::byte*> Allocate(std::size_t bytes, std::string_view purpose);
  void Free(std::byte* memory) noexcept;

  /// While a call that was given up at its deadline may still be served, the daemon may write to memory that its caller has
  /// freed: between Hold and Release nothing freed is used again.
  void Hold() noexcept { ++holds_; }
  void Release() noexcept;

  /// Byte offset of [data, data + bytes) from the segment's start, if all of it lies in the allocator's part.
  [[nodiscard]] std::optional<std::uint64_t> OffsetOf(const void* data, std::size_t bytes) const noexcept;

  [[nodiscard]] std::size_t bytes() const noexcept;
  [[nodiscard]] std::uint64_t* heartbeat() const noexcept;
  /// True once the daemon has given up on this client: slots that its sequences held may be rewritten. Everything that was read
  /// from them before this call answered false is good.
  [[nodiscard]] bool revoked() const noexcept;

 private:
  struct Allocator;
  explicit Arena(protocol::MappedSegment segment);

  protocol::MappedSegment segment_;
  std::unique_ptr<Allocator> allocator_;
  std::size_t holds_ = 0;
  std::vector<std::byte*> freed_while_held_;
};

/// Memory of an arena, freed on destruction. Keeps the arena (shared, because answers on their way may own tails after the
/// session's own reference is gone).
class ArenaMemory {
 public:
  ArenaMemory() = default;
  ArenaMemory(std::shared_ptr<Arena> arena, std::byte* data, std::size_t bytes) noexcept
      : arena_(std::move(arena)), data_(data), bytes_(bytes) {}
  ArenaMemory(ArenaMemory&& other) noexcept { Swap(other); }
  ArenaMemory& operator=(ArenaMemory&& other) noexcept {
    ArenaMemory(std::move(other)).Swap(*this);
    return *this;
  }
  ~ArenaMemory() {
    if (data_ != nullptr) arena_->Free(data_);
  }

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

 private:
  void Swap(ArenaMemory& other) noexcept {
    std::swap(arena_, other.arena_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  std::shared_ptr<Arena> arena_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace kvant::client
