#include "client/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include <boost/interprocess/indexes/iset_index.hpp>
#include <boost/interprocess/managed_external_buffer.hpp>
#include <boost/interprocess/mem_algo/rbtree_best_fit.hpp>
#include <boost/interprocess/offset_ptr.hpp>
#include <boost/interprocess/sync/mutex_family.hpp>

#include "protocol/segment_layout.h"
#include "protocol/system_error.h"

namespace kvant::client {
namespace {

namespace bip = boost::interprocess;

// No locks in memory: one thread of one process allocates. The index stays empty: nothing in an arena has a name.
using ExternalBuffer =
    bip::basic_managed_external_buffer<char, bip::rbtree_best_fit<bip::null_mutex_family, bip::offset_ptr<void>>,
                                       bip::iset_index>;

constexpr std::size_t kAlignment = 64;

/// Makes the pages of [data, data + bytes) present and writable.
Result<void> Populate(std::byte* data, std::size_t bytes) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(data) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + bytes + page - 1) / page * page;
  if (::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE) == 0) return {};
  const int error = errno;
  if (error == EINVAL) return {};  // a kernel before 5.14: pages come at first touch
  return protocol::SystemError("populate " + std::to_string(end - begin) + " bytes of the arena", error);
}

}  // namespace

struct Arena::Allocator {
  ExternalBuffer buffer;
};

Arena::Arena(protocol::MappedSegment segment) : segment_(std::move(segment)) {}

Arena::~Arena() = default;

Result<std::shared_ptr<Arena>> Arena::Make(protocol::MappedSegment segment) {
  if (segment.size() < protocol::kSegmentHeaderBytes + 4096) {
    return Error{ErrorCode::kInvalidArgument, "open the arena: " + std::to_string(segment.size()) + " bytes are too few"};
  }
  std::shared_ptr<Arena> arena(new Arena(std::move(segment)));
  std::byte* const base = arena->segment_.data();
  try {
    arena->allocator_ = std::make_unique<Allocator>(Allocator{ExternalBuffer(
        bip::create_only, base + protocol::kSegmentHeaderBytes, arena->segment_.size() - protocol::kSegmentHeaderBytes)});
  } catch (const std::exception& error) {
    return Error{ErrorCode::kSystem, "open an arena of " + std::to_string(arena->segment_.size()) + " bytes: " + error.what()};
  }
  return arena;
}

Result<std::byte*> Arena::Allocate(std::size_t bytes, std::string_view purpose) {
  const auto no_room = [&] {
    return Error{ErrorCode::kOutOfRange, "allocate " + std::to_string(bytes) + " bytes for " + std::string(purpose) +
                                             ": the arena has " + std::to_string(allocator_->buffer.get_free_memory()) +
                                             " of " + std::to_string(segment_.size()) +
                                             " bytes free; raise ClientOptions::arena_bytes"};
  };
  if (bytes == 0 || bytes > segment_.size()) return no_room();
  void* memory = nullptr;
  try {
    memory = allocator_->buffer.allocate_aligned(bytes, kAlignment, std::nothrow);
  } catch (const std::exception&) {
    memory = nullptr;
  }
  if (memory == nullptr) return no_room();
  auto* const data = static_cast<std::byte*>(memory);
  if (auto populated = Populate(data, bytes); !populated) {
    Free(data);
    return populated.error();
  }
  std::memset(data, 0, bytes);
  return data;
}

void Arena::Free(std::byte* memory) noexcept {
  if (holds_ > 0) {
    freed_while_held_.push_back(memory);
  } else {
    allocator_->buffer.deallocate(memory);
  }
}

void Arena::Release() noexcept {
  if (--holds_ > 0) return;
  for (std::byte* const memory : freed_while_held_) allocator_->buffer.deallocate(memory);
  freed_while_held_.clear();
}

std::optional<std::uint64_t> Arena::OffsetOf(const void* data, std::size_t bytes) const noexcept {
  const auto base = reinterpret_cast<std::uintptr_t>(segment_.data());
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  if (begin < base + protocol::kSegmentHeaderBytes || begin > base + segment_.size()) return std::nullopt;
  if (bytes > segment_.size() - (begin - base)) return std::nullopt;
  return begin - base;
}

std::uint64_t* Arena::heartbeat() const noexcept {
  return &reinterpret_cast<protocol::ArenaHeader*>(segment_.data())->heartbeat;
}

bool Arena::revoked() const noexcept {
  const auto* const header = reinterpret_cast<const protocol::ArenaHeader*>(segment_.data());
  // What was read from slots before must not be read after this.
  std::atomic_thread_fence(std::memory_order_acquire);
  return std::atomic_ref<const std::uint32_t>(header->revoked).load(std::memory_order_relaxed) != 0;
}

std::size_t Arena::bytes() const noexcept { return segment_.size(); }

}  // namespace kvant::client
