// Byte-exact layout of shared segments. The document is SEGMENT.md; the static_asserts below and tests/golden pin the same
// facts. Everything is little-endian, fixed-width and trivially copyable; no pointers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace kvant::protocol {

/// Changes with any change of this file's structs or of what the bytes behind them mean.
inline constexpr std::uint32_t kSegmentLayoutVersion = 2;

inline constexpr std::uint64_t kSlabMagic = 0x42414C53544E564BULL;      ///< "KVNTSLAB"
inline constexpr std::uint64_t kManifestMagic = 0x494E414D544E564BULL;  ///< "KVNTMANI"
inline constexpr std::uint64_t kArenaMagic = 0x4E455241544E564BULL;     ///< "KVNTAREN"
inline constexpr std::uint32_t kBlockMagic = 0x4B4C424BU;               ///< "KBLK"

/// Segments are made, populated and given back in pages of this size.
inline constexpr std::size_t kPageBytes = 4096;

/// Bytes before the first slot of a slab, and before the allocator of an arena.
inline constexpr std::size_t kSegmentHeaderBytes = kPageBytes;

using Digest = std::array<std::uint8_t, 16>;  ///< XXH3-128, canonical (big-endian) byte order

/// First bytes of a slab: a memfd holding `slot_count` block slots of one size, the first at kSegmentHeaderBytes. Sparse: only
/// the pages of slots in use need to exist.
struct SlabHeader {
  std::uint64_t magic;
  std::uint32_t layout_version;
  std::uint32_t slab_index;  ///< within its store, never reused
  std::uint64_t slab_bytes;  ///< of the whole segment, a multiple of 4096
  std::uint64_t slot_bytes;  ///< of one slot, a multiple of 64
  std::uint32_t slot_count;
  std::uint32_t block_tokens;
  Digest identity;           ///< of the store
  std::uint64_t boot_token;  ///< of the daemon that made it
  Digest owner;              ///< of the name of the tenant whose store it is; zero: nobody's
};
static_assert(sizeof(SlabHeader) == 80 && std::is_trivially_copyable_v<SlabHeader>);
static_assert(offsetof(SlabHeader, identity) == 40);

/// Bytes from a slab's start to slot `i`.
constexpr std::uint64_t SlotOffset(const SlabHeader& slab, std::uint32_t i) noexcept {
  return kSegmentHeaderBytes + i * slab.slot_bytes;
}

/// What a slot holds.
enum class BlockKind : std::uint16_t {
  kFree = 0,   ///< nothing; the rest of the header is meaningless
  kCodes = 1,  ///< encoded rows of block_tokens tokens
  kSinks = 2,  ///< raw f32/f16/bf16 rows of the first tokens of a sequence; companion of the kCodes block at position 0
  kState = 3,  ///< an engine's private bytes at the end of a block; companion of a kCodes block
};

/// First bytes of a slot. Then token_count u32 token ids, zero padding to 64 bytes, and the payload.
struct BlockHeader {
  std::uint32_t magic;
  BlockKind kind;
  std::uint16_t layout_version;
  std::uint32_t token_count;
  std::uint32_t element_type;    ///< of kSinks rows (ElementType); 0 for others
  Digest identity;               ///< of the store
  Digest chain;                  ///< hash of parent chain and this block's tokens
  Digest parent;                 ///< chain of the block before; the identity digest for the first
  std::uint64_t first_position;  ///< absolute token position, a multiple of block_tokens
  std::uint64_t generation;      ///< counts uses of slots; never repeats while its store is open
  std::uint64_t payload_bytes;
  std::uint64_t payload_checksum;  ///< XXH3-64 of the payload
  std::uint8_t reserved[24];       ///< zero
  std::uint64_t header_checksum;   ///< XXH3-64 of everything before this field and of the token ids
};
static_assert(sizeof(BlockHeader) == 128 && std::is_trivially_copyable_v<BlockHeader>);
static_assert(offsetof(BlockHeader, identity) == 16 && offsetof(BlockHeader, chain) == 32);
static_assert(offsetof(BlockHeader, first_position) == 64 && offsetof(BlockHeader, header_checksum) == 120);

/// First bytes of a store's manifest, which says what its slabs hold. Sections begin at multiples of 64.
struct ManifestHeader {
  std::uint64_t magic;
  std::uint32_t layout_version;
  std::uint32_t tenant_bytes;    ///< of the tenant's name, behind the artifact; 0: nobody's
  std::uint64_t manifest_bytes;  ///< of the whole segment, a multiple of 4096
  std::uint64_t boot_token;      ///< of the daemon that made it
  Digest identity;               ///< of the store
  std::uint64_t spec_offset;     ///< kvant::wire::StoreSpec as a Cap'n Proto message, without the artifact
  std::uint64_t spec_bytes;
  std::uint64_t plan_offset;  ///< text
  std::uint64_t plan_bytes;
  std::uint64_t artifact_offset;  ///< a safetensors image; 0 bytes for none
  std::uint64_t artifact_bytes;
  std::uint64_t payload_checksum;  ///< XXH3-64 of everything behind this header
  std::uint64_t header_checksum;   ///< XXH3-64 of everything before this field
};
static_assert(sizeof(ManifestHeader) == 112 && std::is_trivially_copyable_v<ManifestHeader>);
static_assert(offsetof(ManifestHeader, identity) == 32 && offsetof(ManifestHeader, header_checksum) == 104);

/// First bytes of an arena. Behind kSegmentHeaderBytes the client runs its allocator; the daemon never reads that.
struct ArenaHeader {
  std::uint64_t magic;
  std::uint32_t layout_version;
  std::uint32_t revoked;  ///< 0; the daemon writes 1 before it frees what the session held; read and written atomically
  std::uint64_t arena_bytes;
  std::uint64_t boot_token;  ///< of the daemon that made it
  std::uint64_t heartbeat;   ///< the client counts it up while it is alive; read and written atomically
};
static_assert(sizeof(ArenaHeader) == 40 && std::is_trivially_copyable_v<ArenaHeader>);

/// Bytes from a slot's start to its payload.
constexpr std::size_t PayloadOffset(std::size_t block_tokens) noexcept {
  return (sizeof(BlockHeader) + block_tokens * sizeof(std::uint32_t) + 63) / 64 * 64;
}

}  // namespace kvant::protocol
