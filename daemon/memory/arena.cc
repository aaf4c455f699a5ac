#include "daemon/memory/arena.h"

#include <atomic>
#include <cstring>
#include <string>
#include <utility>

#include "protocol/segment_layout.h"

namespace kvant::daemon {
namespace {

// Sums of products of a message's 32-bit counts and 64-bit strides need up to 98 bits.
__extension__ using Wide = unsigned __int128;

constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kTailAlignment = 64;
constexpr std::uint64_t kHeaderBytes = protocol::kSegmentHeaderBytes;

/// Larger segments cannot be mapped anyway; keeps the rounding below from overflowing.
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 46;

std::string Decimal(Wide value) {
  if (value <= ~std::uint64_t{0}) return std::to_string(static_cast<std::uint64_t>(value));
  return "more than 2^64";
}

}  // namespace

Result<std::shared_ptr<const Arena>> Arena::Create(std::uint64_t bytes, std::uint64_t boot_token,
                                                   std::shared_ptr<ArenaAllowance> connection, Budget& all) {
  if (bytes <= kHeaderBytes || bytes > kMaxBytes) {
    return Error{ErrorCode::kInvalidArgument, "create arena: " + std::to_string(bytes) + " bytes asked, more than " +
                                                  std::to_string(kHeaderBytes) + " and at most " + std::to_string(kMaxBytes) +
                                                  " are possible"};
  }
  const std::uint64_t whole = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  auto descriptor = connection->descriptors.Take(ChargeKind::kArena, 1, "create arena");
  if (!descriptor) {
    return Error{ErrorCode::kInvalidArgument,
                 "create arena: this connection has " + std::to_string(ArenaAllowance::kMaxArenas) +
                     " already, counting those of its earlier sessions that something still keeps"};
  }
  auto of_connection = connection->bytes.Take(ChargeKind::kArena, whole, "create arena: this connection's arena");
  if (!of_connection) return Error{ErrorCode::kInvalidArgument, of_connection.error().message};
  auto of_all = all.Take(ChargeKind::kArena, whole, "create arena: among all clients' arenas this one");
  if (!of_all) return of_all.error();
  Charges charges{std::move(connection), *std::move(descriptor), *std::move(of_connection), *std::move(of_all)};
  auto fd = protocol::CreateSealedMemfd("kvant-arena", whole);
  if (!fd) return fd.error();
  auto segment = protocol::MapWhole(fd->get(), protocol::Access::kReadWrite);
  if (!segment) return segment.error();
  protocol::ArenaHeader header{};
  header.magic = protocol::kArenaMagic;
  header.layout_version = protocol::kSegmentLayoutVersion;
  header.arena_bytes = whole;
  header.boot_token = boot_token;
  std::memcpy(segment->data(), &header, sizeof(header));
  return std::shared_ptr<const Arena>(new Arena(std::move(charges), *std::move(fd), *std::move(segment)));
}

std::uint64_t Arena::heartbeat() const noexcept {
  auto* header = reinterpret_cast<protocol::ArenaHeader*>(segment_.data());
  return std::atomic_ref<std::uint64_t>(header->heartbeat).load(std::memory_order_relaxed);
}

void Arena::Revoke() const noexcept {
  auto* header = reinterpret_cast<protocol::ArenaHeader*>(segment_.data());
  std::atomic_ref<std::uint32_t>(header->revoked).store(1, std::memory_order_release);
}

Result<std::byte*> Arena::CheckRange(std::string_view what, std::uint64_t offset, std::uint64_t bytes,
                                     std::uint64_t alignment) const {
  if (offset % alignment != 0) {
    return Error{ErrorCode::kInvalidArgument, std::string(what) + ": offset " + std::to_string(offset) +
                                                  " is not a multiple of " + std::to_string(alignment)};
  }
  if (offset < kHeaderBytes || offset > segment_.size() || bytes > segment_.size() - offset) {
    return Error{ErrorCode::kOutOfRange, std::string(what) + ": " + std::to_string(bytes) + " bytes at offset " +
                                             std::to_string(offset) + " lie outside the arena's bytes " +
                                             std::to_string(kHeaderBytes) + ".." + std::to_string(segment_.size())};
  }
  return segment_.data() + offset;
}

Result<TensorView> Arena::CheckTensor(std::string_view what, const TensorPlace& place) const {
  if (place.tokens == 0 || place.heads == 0 || place.dim == 0) {
    return Error{ErrorCode::kInvalidArgument, std::string(what) + ": shape [" + std::to_string(place.tokens) + ", " +
                                                  std::to_string(place.heads) + ", " + std::to_string(place.dim) +
                                                  "] is empty"};
  }
  const Wide elements = Wide{place.tokens - 1} * place.token_stride + Wide{place.heads - 1} * place.head_stride + place.dim;
  // Strides may make elements coincide; that must not make more work than the arena's bytes could.
  const Wide named = Wide{place.tokens} * place.heads * place.dim;
  const Wide bytes = (elements > named ? elements : named) * ElementBytes(place.type);
  if (bytes > segment_.size()) {
    return Error{ErrorCode::kOutOfRange,
                 std::string(what) + ": " + Decimal(bytes) + " bytes, the arena has " + std::to_string(segment_.size())};
  }
  const Wide reach = elements * ElementBytes(place.type);
  auto data = CheckRange(what, place.offset, static_cast<std::uint64_t>(reach), ElementBytes(place.type));
  if (!data) return data.error();
  return TensorView{.data = *data,
                    .type = place.type,
                    .tokens = place.tokens,
                    .heads = place.heads,
                    .dim = place.dim,
                    .token_stride = static_cast<std::size_t>(place.token_stride),
                    .head_stride = static_cast<std::size_t>(place.head_stride)};
}

Result<TailView> CheckTail(const std::shared_ptr<const Arena>& arena, const TailPlace& place, const StoreSpec& store) {
  TailView tail;
  tail.layout = {.layers = store.layers,
                 .kv_heads = store.kv_heads,
                 .head_dim = store.head_dim,
                 .capacity = place.capacity_tokens,
                 .spare = place.spare_tokens,
                 .type = place.type};
  // 2^10 layers, 2 sides, 2^10 heads, 2^33 rows of 2^12 bytes: two bits more than 64.
  const Wide bytes = Wide{store.layers} * 2 * store.kv_heads * tail.layout.head_rows() * tail.layout.row_bytes();
  if (bytes == 0 || bytes > arena->bytes()) {
    return Error{ErrorCode::kOutOfRange, "tail: " + std::to_string(tail.layout.head_rows()) + " tokens of " + Decimal(bytes) +
                                             " bytes do not fit the arena's " + std::to_string(arena->bytes())};
  }
  auto base = arena->CheckRange("tail", place.offset, static_cast<std::uint64_t>(bytes), kTailAlignment);
  if (!base) return base.error();
  tail.base = *base;
  tail.mapping = arena;
  return tail;
}

}  // namespace kvant::daemon
