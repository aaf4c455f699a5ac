#include "daemon/memory/slab.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "protocol/block_format.h"
#include "protocol/system_error.h"

namespace kvant::daemon {
namespace {

constexpr std::size_t kPageBytes = 4096;

constexpr std::size_t RoundUpToPages(std::size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

}  // namespace

std::size_t Slab::SegmentBytes(std::uint64_t slot_bytes, std::uint32_t slot_count) noexcept {
  return RoundUpToPages(protocol::kSegmentHeaderBytes + slot_bytes * slot_count);
}

Result<std::shared_ptr<Slab>> Slab::Create(const Shape& shape) {
  const std::size_t bytes = SegmentBytes(shape.slot_bytes, shape.slot_count);
  Result<protocol::UniqueFd> fd = protocol::CreateSealedMemfd("kvant-slab", bytes);
  if (!fd) return fd.error();
  Result<protocol::UniqueFd> read_only = protocol::ReopenReadOnly(fd->get());
  if (!read_only) return read_only.error();
  Result<protocol::MappedSegment> segment = protocol::MapWhole(fd->get(), protocol::Access::kReadWrite);
  if (!segment) return segment.error();

  // Private constructor: make_shared cannot reach it.
  std::shared_ptr<Slab> slab(new Slab(shape, std::move(*read_only), std::move(*segment)));
  if (Result<void> ready = slab->Populate(0); !ready) return ready.error();
  protocol::SlabHeader header{};
  header.magic = protocol::kSlabMagic;
  header.layout_version = protocol::kSegmentLayoutVersion;
  header.slab_index = shape.index;
  header.slab_bytes = bytes;
  header.slot_bytes = shape.slot_bytes;
  header.slot_count = shape.slot_count;
  header.block_tokens = shape.block_tokens;
  header.identity = shape.identity;
  header.boot_token = shape.boot_token;
  std::memcpy(slab->segment_.data(), &header, sizeof header);
  return slab;
}

Slab::Slab(const Shape& shape, protocol::UniqueFd read_only_fd, protocol::MappedSegment segment)
    : shape_(shape), read_only_fd_(std::move(read_only_fd)), segment_(std::move(segment)), populated_(0) {}

Result<void> Slab::Populate(std::uint32_t end) {
  const std::size_t wanted = RoundUpToPages(protocol::kSegmentHeaderBytes + shape_.slot_bytes * end);
  const std::size_t from = populated_.load(std::memory_order_acquire);
  if (wanted <= from) return {};
  // Two threads may do the same pages: harmless, the second finds them present.
  while (::madvise(segment_.data() + from, wanted - from, MADV_POPULATE_WRITE) != 0) {
    if (errno == EINTR) continue;
    if (errno == EINVAL) break;  // a kernel before 5.14: pages come with the first touch
    return protocol::SystemError("populate slab " + std::to_string(shape_.index) + " up to byte " + std::to_string(wanted),
                                 errno);
  }
  std::size_t seen = from;
  while (seen < wanted && !populated_.compare_exchange_weak(seen, wanted, std::memory_order_acq_rel)) {
  }
  return {};
}

void Slab::Clear(std::uint32_t i) noexcept {
  const std::size_t begin = protocol::kSegmentHeaderBytes + i * shape_.slot_bytes;
  if (begin + sizeof(protocol::BlockHeader) <= resident_bytes()) protocol::ClearSlot(slot(i));
}

}  // namespace kvant::daemon
