// One memfd full of block slots.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <kvant/result.h>

#include "protocol/mapped_segment.h"
#include "protocol/memfd.h"
#include "protocol/segment_layout.h"

namespace kvant::daemon {

/// Owned by its pool and, while they run, by encoding jobs. Dropping it unmaps it here and closes its descriptors; a client's
/// mapping stays valid, for nothing is truncated or reused. The pool uses it on the loop thread; Populate is safe from any.
class Slab {
 public:
  struct Shape {
    std::uint32_t index = 0;  ///< within the store
    std::uint32_t slot_count = 0;
    std::uint64_t slot_bytes = 0;  ///< a multiple of 64
    std::uint32_t block_tokens = 0;
    protocol::Digest identity{};
    std::uint64_t boot_token = 0;
  };

  /// Bytes of the segment such a slab takes: what must be charged before Create.
  static std::size_t SegmentBytes(std::uint64_t slot_bytes, std::uint32_t slot_count) noexcept;

  /// kSystem if the system gives no memory. No page but the header's is populated.
  static Result<std::shared_ptr<Slab>> Create(const Shape& shape);
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return segment_.size(); }
  /// For clients; stays open as long as this lives.
  [[nodiscard]] int read_only_fd() const noexcept { return read_only_fd_.get(); }

  [[nodiscard]] std::byte* slot(std::uint32_t i) const noexcept {
    return segment_.data() + protocol::kSegmentHeaderBytes + i * shape_.slot_bytes;
  }
  [[nodiscard]] std::span<const std::byte> slot_bytes(std::uint32_t i) const noexcept { return {slot(i), shape_.slot_bytes}; }

  /// Makes the pages of slots [0, end) present. kSystem (no memory) instead of a SIGBUS at the first touch. Any thread; cheap
  /// when they are present already.
  Result<void> Populate(std::uint32_t end);
  /// Marks a slot as holding nothing. Touches no page that is not there.
  void Clear(std::uint32_t i) noexcept;
  /// Populated bytes, header included.
  [[nodiscard]] std::size_t resident_bytes() const noexcept { return populated_.load(std::memory_order_relaxed); }

 private:
  Slab(const Shape& shape, protocol::UniqueFd read_only_fd, protocol::MappedSegment segment);

  Shape shape_;
  protocol::UniqueFd read_only_fd_;
  protocol::MappedSegment segment_;
  std::atomic<std::size_t> populated_;
};

}  // namespace kvant::daemon
