// Mapping of segments that came from another process, checked before a byte of them is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include <kvant/result.h>

#include "protocol/segment_layout.h"

namespace kvant::protocol {

enum class SegmentKind : std::uint8_t { kSlab, kArena };
enum class Access : std::uint8_t { kReadOnly, kReadWrite };

/// What a segment must be. Optional fields are not checked when empty.
struct SegmentExpectation {
  SegmentKind kind = SegmentKind::kSlab;
  Access access = Access::kReadOnly;
  std::optional<std::uint64_t> bytes;       ///< of the whole segment
  std::optional<std::uint64_t> boot_token;  ///< of the daemon that made it
  std::optional<Digest> identity;           ///< slabs only: of the store
};

/// A mapping; unmapped on destruction. The descriptor may be closed after mapping. Movable.
class MappedSegment {
 public:
  MappedSegment(MappedSegment&&) noexcept;
  MappedSegment& operator=(MappedSegment&&) noexcept;
  ~MappedSegment();

  /// First byte of the segment, its header included. Writing through a kReadOnly mapping is a fault of the caller's.
  [[nodiscard]] std::byte* data() const noexcept;
  [[nodiscard]] std::size_t size() const noexcept;

 private:
  friend Result<MappedSegment> MapWhole(int fd, Access access);
  struct Region;
  explicit MappedSegment(std::unique_ptr<Region> region);
  std::unique_ptr<Region> region_;
};

/// Maps all of `fd` (as many bytes as fstat says) without looking at its contents: for the process that made it.
Result<MappedSegment> MapWhole(int fd, Access access);

/// Maps a segment after checking, in this order: a descriptor at all and an open one (kInvalidArgument), a regular memory file
/// of the expected size (kCorrupt), sealed against shrinking, growing and further seals (kCorrupt), magic (kCorrupt), layout
/// version (kVersionMismatch), sizes in the header (kCorrupt), boot token (kStaleDaemon), identity (kIdentityMismatch).
Result<MappedSegment> MapSegment(int fd, const SegmentExpectation& expectation);

/// Fields of a slab's header copied out and checked against each other and `mapped_bytes`; kCorrupt or kVersionMismatch.
Result<SlabHeader> ReadSlabHeader(const std::byte* data, std::size_t mapped_bytes);

/// Same for an arena's header.
Result<ArenaHeader> ReadArenaHeader(const std::byte* data, std::size_t mapped_bytes);

}  // namespace kvant::protocol
