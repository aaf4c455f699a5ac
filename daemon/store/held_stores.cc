#include "daemon/store/held_stores.h"

#include <unistd.h>

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "daemon/store/restore.h"
#include "daemon/store/standing_rules.h"
#include "protocol/digest.h"
#include "protocol/manifest.h"
#include "protocol/segment_layout.h"

namespace kvant::daemon {
namespace {

/// The descriptors of one store.
struct Group {
  std::vector<protocol::UniqueFd> manifests;  // two if the daemon died while it wrote one anew
  std::optional<wire::Manifest> manifest;     // what they say, all of them
  std::map<std::uint32_t, protocol::UniqueFd> slabs;
};

template <typename Header>
std::optional<Header> ReadHeader(int fd, std::uint64_t magic) {
  Header header;
  if (::pread(fd, &header, sizeof header, 0) != static_cast<ssize_t>(sizeof header) || header.magic != magic) {
    return std::nullopt;
  }
  return header;
}

protocol::Digest OwnerOf(const std::string& tenant) { return tenant.empty() ? protocol::Digest{} : protocol::DigestOf(tenant); }

}  // namespace

HeldFigures RestoreHeld(Core& core, StoreTable& stores, std::vector<protocol::UniqueFd> segments) {
  HeldFigures figures;
  const auto release = [&](const protocol::UniqueFd& fd) {
    if (core.keeper != nullptr) core.keeper->Release(fd.get());
    ++figures.dropped_segments;
  };
  std::map<std::pair<protocol::Digest, protocol::Digest>, Group> groups;  // by owner and identity
  std::vector<protocol::UniqueFd> rule_segments;
  std::optional<NumberedRules> rules;
  for (protocol::UniqueFd& fd : segments) {
    if (ReadHeader<RulesHeader>(fd.get(), kRulesMagic)) {
      auto read = ReadRulesSegment(fd.get());
      if (!read && core.notify) core.notify(read.error().message);
      if (read && (!rules || rules->number < read->number)) rules = *std::move(read);
      rule_segments.push_back(std::move(fd));
    } else if (ReadHeader<protocol::ManifestHeader>(fd.get(), protocol::kManifestMagic)) {
      auto manifest = wire::ReadManifestSegment(fd.get());
      if (!manifest) {
        release(fd);
        continue;
      }
      Group& group = groups[{OwnerOf(manifest->tenant), manifest->identity}];
      group.manifests.push_back(std::move(fd));
      group.manifest = *std::move(manifest);
    } else if (const auto slab = ReadHeader<protocol::SlabHeader>(fd.get(), protocol::kSlabMagic)) {
      auto& slot = groups[{slab->owner, slab->identity}].slabs[slab->slab_index];
      if (slot.valid()) release(slot);
      slot = std::move(fd);
    } else {
      release(fd);  // given back already: its header is a hole
    }
  }
  for (auto& [key, group] : groups) {
    const protocol::Digest& identity = key.second;
    std::vector<int> slabs;
    for (const auto& [index, fd] : group.slabs) slabs.push_back(fd.get());
    Result<RestoredStore> restored = Error{ErrorCode::kCorrupt, "slabs of a store without a manifest"};
    if (group.manifest) restored = RestoreStore(stores, *group.manifest, slabs, CheckPayload::kAtFirstUse);
    // A store has written a manifest of its own.
    for (const protocol::UniqueFd& manifest : group.manifests) {
      if (core.keeper != nullptr) core.keeper->Release(manifest.get());
    }
    if (!restored) {
      for (const auto& [index, fd] : group.slabs) release(fd);
      if (core.notify) {
        core.notify("restore store " + protocol::DigestHex(identity) + ": " + restored.error().message + "; dropped with its " +
                    std::to_string(slabs.size()) + " slabs");
      }
      continue;
    }
    figures.dropped_parts += restored->dropped_parts;
    if (restored->store->empty() || StoreTable::Has(*restored->store->tenant(), identity))
      continue;  // gives its memory back itself
    restored->store->pool().DropEmptySlabs();
    stores.Add(restored->store);
    ++figures.stores;
    figures.blocks += restored->blocks;
    figures.bytes += restored->store->Figures().compressed_bytes;
  }
  if (rules) stores.TakeOver(*std::move(rules));
  // The table has a segment of its own.
  for (const protocol::UniqueFd& fd : rule_segments) {
    if (core.keeper != nullptr) core.keeper->Release(fd.get());
  }
  return figures;
}

}  // namespace kvant::daemon
