// Read-only mappings of a store's slabs.
#pragma once

#include <memory>
#include <string_view>

#include <kvant/kvant.capnp.h>
#include <kvant/result.h>

#include "client/connection.h"
#include "protocol/mapped_segment.h"

namespace kvant::client {

struct Slab {
  protocol::MappedSegment segment;
  protocol::SlabHeader header;
};

/// Whose slab it must be.
struct SlabOwner {
  std::uint64_t boot_token = 0;
  protocol::Digest identity{};
  std::uint32_t block_tokens = 0;
};

/// Maps a slab that the daemon listed. kCorrupt, beginning with `operation`, if it is not what was listed.
Result<std::shared_ptr<const Slab>> MapSlab(Connection& connection, wire::SlabInfo::Reader info, const SlabOwner& owner,
                                            std::string_view operation);

}  // namespace kvant::client
