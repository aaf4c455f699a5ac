#include "client/slab.h"

#include <string>
#include <utility>

#include "protocol/memfd.h"

namespace kvant::client {

Result<std::shared_ptr<const Slab>> MapSlab(Connection& connection, wire::SlabInfo::Reader info, const SlabOwner& owner,
                                            std::string_view operation) {
  const std::string what = std::string(operation) + ": ";
  auto fd = connection.TakeFd(info.getSegment(), operation);
  if (!fd) return fd.error();
  const protocol::UniqueFd owned(*fd);
  auto segment = protocol::MapSegment(owned.get(), {.kind = protocol::SegmentKind::kSlab,
                                                    .access = protocol::Access::kReadOnly,
                                                    .bytes = info.getBytes(),
                                                    .boot_token = owner.boot_token,
                                                    .identity = owner.identity});
  if (!segment) return Error{segment.error().code, what + segment.error().message};
  auto header = protocol::ReadSlabHeader(segment->data(), segment->size());
  if (!header) return Error{header.error().code, what + header.error().message};
  if (header->slab_index != info.getIndex() || header->block_tokens != owner.block_tokens) {
    return Error{ErrorCode::kCorrupt, what + "the header speaks of slab " + std::to_string(header->slab_index) +
                                          " with slots of " + std::to_string(header->slot_bytes) + " bytes"};
  }
  return std::make_shared<const Slab>(Slab{std::move(*segment), *header});
}

}  // namespace kvant::client
