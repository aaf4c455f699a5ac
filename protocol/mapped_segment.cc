#include "protocol/mapped_segment.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/mapped_region.hpp>

#include "protocol/digest.h"
#include "protocol/system_error.h"

namespace kvant::protocol {
namespace {

namespace bip = boost::interprocess;

/// What mapped_region asks of a memory: a descriptor.
struct FdMemory {
  int fd;
  [[nodiscard]] bip::mapping_handle_t get_mapping_handle() const {
    bip::mapping_handle_t handle{};
    handle.handle = fd;
    handle.is_xsi = false;
    return handle;
  }
};

const char* KindName(SegmentKind kind) { return kind == SegmentKind::kSlab ? "slab" : "arena"; }

Error Corrupt(std::string message) { return {ErrorCode::kCorrupt, std::move(message)}; }

Error WrongVersion(const char* what, std::uint32_t version) {
  return {ErrorCode::kVersionMismatch, "map segment: " + std::string(what) + " has layout version " + std::to_string(version) +
                                           ", this side knows " + std::to_string(kSegmentLayoutVersion)};
}

/// Size of a descriptor that is one of ours: an open, sealed memory file.
Result<std::size_t> CheckDescriptor(int fd, const SegmentExpectation& expected) {
  const std::string what = "map segment: " + std::string(KindName(expected.kind));
  if (fd < 0) {
    return Error{ErrorCode::kInvalidArgument, what + " came without a descriptor (does the connection carry descriptors?)"};
  }
  struct stat status {};
  if (::fstat(fd, &status) != 0) {
    Error error = SystemError(what + " descriptor " + std::to_string(fd), errno);
    error.code = ErrorCode::kInvalidArgument;  // closed, or never one: the caller's argument
    return error;
  }
  const int seals = S_ISREG(status.st_mode) ? ::fcntl(fd, F_GET_SEALS) : -1;
  if (seals < 0) return Corrupt(what + " descriptor " + std::to_string(fd) + " is not a memory file");
  const auto bytes = static_cast<std::size_t>(status.st_size);
  if (expected.bytes && bytes != *expected.bytes) {
    return Corrupt(what + " has " + std::to_string(bytes) + " bytes, expected " + std::to_string(*expected.bytes));
  }
  if (bytes < kSegmentHeaderBytes) {
    return Corrupt(what + " has " + std::to_string(bytes) + " bytes, less than its header page");
  }
  // Unsealed memory can be cut off under us: the next touch would be a SIGBUS.
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  if ((seals & kSeals) != kSeals) {
    return Corrupt(what + " is not sealed against shrinking, growing and further seals (seals " + std::to_string(seals) + ")");
  }
  return bytes;
}

}  // namespace

struct MappedSegment::Region {
  bip::mapped_region mapping;
};

MappedSegment::MappedSegment(std::unique_ptr<Region> region) : region_(std::move(region)) {}
MappedSegment::MappedSegment(MappedSegment&&) noexcept = default;
MappedSegment& MappedSegment::operator=(MappedSegment&&) noexcept = default;
MappedSegment::~MappedSegment() = default;

std::byte* MappedSegment::data() const noexcept { return static_cast<std::byte*>(region_->mapping.get_address()); }
std::size_t MappedSegment::size() const noexcept { return region_->mapping.get_size(); }

Result<MappedSegment> MapWhole(int fd, Access access) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return SystemError("map segment: descriptor " + std::to_string(fd), errno);
  const auto bytes = static_cast<std::size_t>(status.st_size);
  const std::string what = "map segment: " + std::to_string(bytes) + " bytes";
  if (bytes == 0) return Corrupt(what);
  try {
    auto region = std::make_unique<MappedSegment::Region>();
    region->mapping =
        bip::mapped_region(FdMemory{fd}, access == Access::kReadOnly ? bip::read_only : bip::read_write, 0, bytes);
    return MappedSegment(std::move(region));
  } catch (const bip::interprocess_exception& failure) {
    return SystemError(what, failure.get_native_error());
  }
}

Result<SlabHeader> ReadSlabHeader(const std::byte* data, std::size_t mapped_bytes) {
  if (mapped_bytes < kSegmentHeaderBytes) return Corrupt("map segment: slab of " + std::to_string(mapped_bytes) + " bytes");
  SlabHeader header;
  std::memcpy(&header, data, sizeof header);
  if (header.magic != kSlabMagic) return Corrupt("map segment: slab does not begin with the slab magic");
  if (header.layout_version != kSegmentLayoutVersion) return WrongVersion("slab", header.layout_version);
  if (header.slab_bytes != mapped_bytes) {
    return Corrupt("map segment: slab says it has " + std::to_string(header.slab_bytes) + " bytes, it has " +
                   std::to_string(mapped_bytes));
  }
  if (header.block_tokens == 0 || header.block_tokens > 1024 || header.slot_count == 0 || header.slot_bytes % 64 != 0 ||
      header.slot_bytes <= PayloadOffset(header.block_tokens) ||
      header.slot_bytes > (mapped_bytes - kSegmentHeaderBytes) / header.slot_count) {
    return Corrupt("map segment: slab says " + std::to_string(header.slot_count) + " slots of " +
                   std::to_string(header.slot_bytes) + " bytes and " + std::to_string(header.block_tokens) + " tokens in " +
                   std::to_string(mapped_bytes) + " bytes");
  }
  return header;
}

Result<ArenaHeader> ReadArenaHeader(const std::byte* data, std::size_t mapped_bytes) {
  if (mapped_bytes < kSegmentHeaderBytes) return Corrupt("map segment: arena of " + std::to_string(mapped_bytes) + " bytes");
  ArenaHeader header;
  std::memcpy(&header, data, sizeof header);
  if (header.magic != kArenaMagic) return Corrupt("map segment: arena does not begin with the arena magic");
  if (header.layout_version != kSegmentLayoutVersion) return WrongVersion("arena", header.layout_version);
  if (header.arena_bytes != mapped_bytes) {
    return Corrupt("map segment: arena says it has " + std::to_string(header.arena_bytes) + " bytes, it has " +
                   std::to_string(mapped_bytes));
  }
  return header;
}

Result<MappedSegment> MapSegment(int fd, const SegmentExpectation& expectation) {
  const Result<std::size_t> bytes = CheckDescriptor(fd, expectation);
  if (!bytes) return bytes.error();
  Result<MappedSegment> segment = MapWhole(fd, expectation.access);
  if (!segment) return segment;

  std::uint64_t boot_token = 0;
  Digest identity{};
  if (expectation.kind == SegmentKind::kSlab) {
    const Result<SlabHeader> header = ReadSlabHeader(segment->data(), segment->size());
    if (!header) return header.error();
    boot_token = header->boot_token;
    identity = header->identity;
  } else {
    const Result<ArenaHeader> header = ReadArenaHeader(segment->data(), segment->size());
    if (!header) return header.error();
    boot_token = header->boot_token;
  }
  if (expectation.boot_token && boot_token != *expectation.boot_token) {
    return Error{ErrorCode::kStaleDaemon, "map segment: " + std::string(KindName(expectation.kind)) +
                                              " was made by daemon boot " + std::to_string(boot_token) + ", expected " +
                                              std::to_string(*expectation.boot_token)};
  }
  if (expectation.kind == SegmentKind::kSlab && expectation.identity && identity != *expectation.identity) {
    return Error{ErrorCode::kIdentityMismatch, "map segment: slab belongs to store identity " + DigestHex(identity) +
                                                   ", expected " + DigestHex(*expectation.identity)};
  }
  return segment;
}

}  // namespace kvant::protocol
