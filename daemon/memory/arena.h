// A client's own segment, mapped writable by both sides. The daemon makes it, never trusts a byte in it, and checks every place
// in it that a message names here and nowhere else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include <kvant/result.h>
#include <kvant/store_spec.h>
#include <kvant/tensor.h>

#include "daemon/memory/budget.h"
#include "daemon/memory/tail.h"
#include "protocol/mapped_segment.h"
#include "protocol/memfd.h"

namespace kvant::daemon {

/// A tensor as a message names it, copied out of the message.
struct TensorPlace {
  std::uint64_t offset = 0;  ///< bytes from the segment's start
  ElementType type = ElementType::kF32;
  std::uint32_t tokens = 0;
  std::uint32_t heads = 0;
  std::uint32_t dim = 0;
  std::uint64_t token_stride = 0;  ///< in elements
  std::uint64_t head_stride = 0;
};

/// A sequence's tail as a message names it.
struct TailPlace {
  std::uint64_t offset = 0;
  ElementType type = ElementType::kF32;
  std::uint32_t capacity_tokens = 0;
  std::uint32_t spare_tokens = 0;
};

/// What the arenas of one connection may take together: those of sessions that ended count as long as their memory lives, for a
/// client may keep capabilities of them. Shared by the connection's sessions and arenas.
struct ArenaAllowance {
  explicit ArenaAllowance(std::uint64_t most_bytes) noexcept : bytes(most_bytes) {}

  static constexpr std::size_t kMaxArenas = 64;
  Budget bytes;
  Budget descriptors{kMaxArenas};  ///< each arena holds one
};

/// Shared: the session owns it, and encode jobs and tails on workers keep the mapping while they read from it.
/// Immutable after Create; any thread.
class Arena {
 public:
  /// `bytes` is rounded up to whole pages and charged, for as long as the memory lives, to what its connection may have and to
  /// what all arenas may have together. kInvalidArgument for no room behind the header or a connection that has too much or too
  /// many, kStoreFull if there are too many arenas altogether, kSystem from the kernel. `all` outlives the arena.
  static Result<std::shared_ptr<const Arena>> Create(std::uint64_t bytes, std::uint64_t boot_token,
                                                     std::shared_ptr<ArenaAllowance> connection, Budget& all);

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return segment_.size(); }

  /// Counts up while the client is alive. Any value may stand there.
  [[nodiscard]] std::uint64_t heartbeat() const noexcept;

  /// Tells the client that the daemon takes it for gone: nothing that it had is its own any more.
  void Revoke() const noexcept;

  /// `bytes` bytes at `offset`, a multiple of `alignment`, behind the header page. kOutOfRange or kInvalidArgument begin with
  /// `what` and name offset, size and the arena's size.
  [[nodiscard]] Result<std::byte*> CheckRange(std::string_view what, std::uint64_t offset, std::uint64_t bytes,
                                              std::uint64_t alignment) const;

  /// Every element of `place` lies behind the header page, whatever the strides; overflow-safe.
  [[nodiscard]] Result<TensorView> CheckTensor(std::string_view what, const TensorPlace& place) const;

 private:
  struct Charges {
    std::shared_ptr<ArenaAllowance> connection;  // before the charges on it
    Charge descriptor;
    Charge of_connection;
    Charge of_all;
  };
  Arena(Charges charges, protocol::UniqueFd fd, protocol::MappedSegment segment)
      : charges_(std::move(charges)), fd_(std::move(fd)), segment_(std::move(segment)) {}

  const Charges charges_;  // before the memory they pay for: given back after it
  protocol::UniqueFd fd_;
  protocol::MappedSegment segment_;
};

/// The ring of a sequence of `store` in `arena`, 64-byte aligned; the view keeps the arena mapped. Whether the capacity suits
/// the sequence is Sequence's to check.
[[nodiscard]] Result<TailView> CheckTail(const std::shared_ptr<const Arena>& arena, const TailPlace& place,
                                         const StoreSpec& store);

}  // namespace kvant::daemon
