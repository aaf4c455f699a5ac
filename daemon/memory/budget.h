// The daemon's memory limit, and those of tenants and stores inside it: whatever they hold is charged here before it is
// allocated.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <kvant/result.h>

namespace kvant::daemon {

class Budget;

/// Bytes of memory that this machine has.
std::uint64_t MachineMemory() noexcept;

/// What a charge pays for; each is shown apart. Arenas have budgets of their own.
enum class ChargeKind : std::uint8_t {
  kSlab,            ///< pages of slabs
  kStoreRecord,     ///< a store's record, its plan, artifact and manifest
  kBlockRecord,     ///< records of blocks and states
  kSequenceRecord,  ///< records and block tables of sequences and readers
  kMetadata,        ///< other records: of slabs, of stores that are being opened
  kArena,
};
inline constexpr std::size_t kChargeKinds = 6;

/// Bytes taken from a budget, given back on destruction. Movable. It lives in the object whose memory it pays for, so that the
/// bytes are free again when the memory is, and not before. May be destroyed on any thread.
class Charge {
 public:
  Charge() noexcept = default;
  Charge(Charge&& other) noexcept
      : budget_(std::exchange(other.budget_, nullptr)),
        kept_(std::move(other.kept_)),
        kind_(other.kind_),
        bytes_(std::exchange(other.bytes_, 0)) {}
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
  Charge(Budget* budget, std::shared_ptr<Budget> kept, ChargeKind kind, std::size_t bytes) noexcept
      : budget_(budget), kept_(std::move(kept)), kind_(kind), bytes_(bytes) {}
  Budget* budget_ = nullptr;
  std::shared_ptr<Budget> kept_;  // a part of a budget ends with its last charge
  ChargeKind kind_ = ChargeKind::kMetadata;
  std::size_t bytes_ = 0;
};

/// Counts bytes against a limit, and against those of the budgets that it is a part of: a store's is part of its tenant's, that
/// of the daemon's. Owned by the daemon, outlives all charges; parts are shared. Take, Adopt and limits on the loop thread
/// only; charges may end on any thread. Invariant: what is used never exceeds the limit, unless that was lowered below it.
class Budget : public std::enable_shared_from_this<Budget> {
 public:
  /// Below this a daemon cannot hold its own tables.
  static constexpr std::size_t kMinimumBytes = std::size_t{1} << 20;
  static constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();

  /// Of a daemon's stores. kInvalidArgument if `limit` < kMinimumBytes.
  static Result<Budget> Make(std::size_t limit);
  /// Of anything else, as large or small as may be.
  explicit Budget(std::size_t limit) noexcept : limit_(limit) {}
  Budget(Budget&& other) noexcept : limit_(other.limit_) {}  ///< Requires: nothing is charged yet.
  Budget& operator=(Budget&&) = delete;

  /// A part of `whole`, which outlives it, without a limit of its own. `owner`: whose it is, for messages.
  static std::shared_ptr<Budget> Part(Budget& whole, std::string owner);

  /// kStoreFull, naming `what` and the figures, if the bytes do not fit here or in a budget that this is part of. Nothing is
  /// evicted here.
  Result<Charge> Take(ChargeKind kind, std::size_t bytes, std::string_view what);
  /// Makes a charge of the budget that this one is part of a charge of this one. No limit is looked at.
  void Adopt(Charge& charge);

  /// Of this budget and those that it is part of, the least.
  [[nodiscard]] std::size_t limit() const noexcept;
  [[nodiscard]] std::size_t available() const noexcept;
  /// This budget or one that it is part of: the one with the least room.
  [[nodiscard]] const Budget& tightest() const noexcept;
  /// "budget of N bytes", and whose quota that is.
  [[nodiscard]] std::string Name() const;
  /// Of this one alone.
  [[nodiscard]] std::size_t own_limit() const noexcept { return limit_; }
  [[nodiscard]] std::size_t own_available() const noexcept;
  /// What is used already may be more: nothing further is taken until it is less.
  void set_own_limit(std::size_t bytes) noexcept { limit_ = bytes; }

  [[nodiscard]] std::size_t bytes(ChargeKind kind) const noexcept {
    return used_[static_cast<std::size_t>(kind)].load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::size_t used() const noexcept;
  [[nodiscard]] std::size_t slab_bytes() const noexcept { return bytes(ChargeKind::kSlab); }
  [[nodiscard]] std::size_t arena_bytes() const noexcept { return bytes(ChargeKind::kArena); }
  [[nodiscard]] std::size_t metadata_bytes() const noexcept { return used() - slab_bytes() - arena_bytes(); }

 private:
  friend class Charge;
  void Return(ChargeKind kind, std::size_t bytes) noexcept;

  std::size_t limit_;
  Budget* whole_ = nullptr;
  std::shared_ptr<Budget> whole_kept_;  // if it is a part itself
  std::string owner_;                   // of a part
  std::array<std::atomic<std::size_t>, kChargeKinds> used_{};
};

/// Estimates of what records take in the daemon's private memory, allocator overhead included; charged as metadata.
inline constexpr std::size_t kBlockRecordBytes = 1024;       ///< with its places in the orders; and 4 bytes per token id
inline constexpr std::size_t kSequenceRecordBytes = 2048;    ///< and 4 bytes per row of tail capacity
inline constexpr std::size_t kStateRecordBytes = 256;        ///< per state
inline constexpr std::size_t kTableEntryBytes = 48;          ///< per block that a sequence holds
inline constexpr std::size_t kStoreRecordBytes = 12 * 1024;  ///< and its plan (PlanBytes), and thrice the plan's artifact

}  // namespace kvant::daemon
