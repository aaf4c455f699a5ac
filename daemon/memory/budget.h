// The daemon's memory limit: slabs and metadata are charged here before they are allocated.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include <kvant/result.h>

namespace kvant::daemon {

class Budget;

/// Bytes of memory that this machine has.
std::uint64_t MachineMemory() noexcept;

/// What a charge pays for; each is shown apart. Arenas have budgets of their own.
enum class ChargeKind : std::uint8_t { kSlab, kMetadata, kArena };

/// Bytes taken from a budget, given back on destruction. Movable. It lives in the object whose memory it pays for, so that the
/// bytes are free again when the memory is, and not before. May be destroyed on any thread.
class Charge {
 public:
  Charge() noexcept = default;
  Charge(Charge&& other) noexcept
      : budget_(std::exchange(other.budget_, nullptr)), kind_(other.kind_), bytes_(std::exchange(other.bytes_, 0)) {}
  Charge& operator=(Charge&& other) noexcept;
  ~Charge();
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

  /// Takes over the bytes of `other`. Requires: both of one budget and kind, or this one is empty.
  void Merge(Charge&& other);
  /// Gives a part back. Requires: bytes <= bytes().
  void GiveBack(std::size_t bytes);

 private:
  friend class Budget;
  Charge(Budget* budget, ChargeKind kind, std::size_t bytes) noexcept : budget_(budget), kind_(kind), bytes_(bytes) {}
  Budget* budget_ = nullptr;
  ChargeKind kind_ = ChargeKind::kMetadata;
  std::size_t bytes_ = 0;
};

/// Counts bytes against one limit. Owned by the daemon, outlives all charges. Take on the loop thread only; charges may end on
/// any thread. Invariant: what is used never exceeds limit().
class Budget {
 public:
  /// Below this a daemon cannot hold its own tables.
  static constexpr std::size_t kMinimumBytes = std::size_t{1} << 20;

  /// Of a daemon's stores. kInvalidArgument if `limit` < kMinimumBytes.
  static Result<Budget> Make(std::size_t limit);
  /// Of anything else, as large or small as may be.
  explicit Budget(std::size_t limit) noexcept : limit_(limit) {}
  Budget(Budget&& other) noexcept : limit_(other.limit_) {}  ///< Requires: nothing is charged yet.
  Budget& operator=(Budget&&) = delete;

  /// kStoreFull, naming `what` and the figures, if the bytes do not fit. Nothing is evicted here.
  Result<Charge> Take(ChargeKind kind, std::size_t bytes, std::string_view what);

  /// Requires: limit >= limit(). Loop thread.
  void Raise(std::size_t limit) noexcept { limit_ = limit; }

  [[nodiscard]] std::size_t limit() const noexcept { return limit_; }
  [[nodiscard]] std::size_t slab_bytes() const noexcept { return used_[0].load(std::memory_order_relaxed); }
  [[nodiscard]] std::size_t metadata_bytes() const noexcept { return used_[1].load(std::memory_order_relaxed); }
  [[nodiscard]] std::size_t arena_bytes() const noexcept { return used_[2].load(std::memory_order_relaxed); }
  [[nodiscard]] std::size_t available() const noexcept { return limit_ - slab_bytes() - metadata_bytes() - arena_bytes(); }

 private:
  friend class Charge;
  void Return(ChargeKind kind, std::size_t bytes) noexcept;

  std::size_t limit_;
  std::array<std::atomic<std::size_t>, 3> used_{};
};

/// Estimates of what records take in the daemon's private memory, allocator overhead included; charged as metadata.
inline constexpr std::size_t kBlockRecordBytes = 512;        ///< and 4 bytes per token id
inline constexpr std::size_t kSequenceRecordBytes = 2048;    ///< and 4 bytes per row of tail capacity
inline constexpr std::size_t kStateRecordBytes = 256;        ///< per state
inline constexpr std::size_t kTableEntryBytes = 32;          ///< per block that a sequence holds
inline constexpr std::size_t kStoreRecordBytes = 12 * 1024;  ///< and its plan (PlanBytes), and thrice the plan's artifact

}  // namespace kvant::daemon
