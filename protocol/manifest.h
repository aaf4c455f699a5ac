// What a store is, in shared memory beside its slabs: whoever has the descriptors of both can serve the store. SEGMENT.md has
// the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "protocol/segment_layout.h"

namespace kvant::wire {

struct Manifest {
  kvant::StoreSpec spec;  ///< the plan's artifact included
  std::string plan;       ///< canonical text of every layer's codecs
  protocol::Digest identity{};
  std::uint64_t boot_token = 0;  ///< of the daemon that wrote it
  std::string tenant{};          ///< whose store it is; empty: nobody's
};

/// The bytes of a manifest, a multiple of a page.
std::vector<std::byte> WriteManifest(const Manifest& manifest);

/// Checks magic (kCorrupt), layout version (kVersionMismatch), sizes and both checksums (kCorrupt) before a section is looked
/// at, then reads the spec. Whether plan and identity belong to that spec is for whoever builds the plan. Reads only inside
/// `bytes`, whatever it holds. Requires: aligned to 8.
Result<Manifest> ReadManifest(std::span<const std::byte> bytes);
/// The same of a whole segment, by any descriptor of it, which stays the caller's. Errors also as protocol::MapWhole.
Result<Manifest> ReadManifestSegment(int fd);

}  // namespace kvant::wire
