#include "daemon/store/restore.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "protocol/block_format.h"
#include "protocol/digest.h"

namespace kvant::daemon {
namespace {

/// A slot that passed its checksums.
struct FoundPart {
  SlotRef slot;
  protocol::BlockHeader header;
  const std::byte* begin = nullptr;
};

BlockPart PartOf(const FoundPart& found, std::uint32_t block_tokens) {
  return {.kind = found.header.kind,
          .slot = found.slot,
          .payload_bytes = found.header.payload_bytes,
          .element_type = static_cast<ElementType>(found.header.element_type),
          .payload = found.begin + protocol::PayloadOffset(block_tokens)};
}

}  // namespace

Result<RestoredStore> RestoreStore(StoreTable& stores, const wire::Manifest& manifest, std::span<const int> slabs,
                                   CheckPayload check) {
  Core& core = stores.core();
  const StoreSpec& spec = manifest.spec;
  const std::string what = "restore store " + spec.name + ": ";

  if (auto ok = quantizers::CheckStoreSpec(spec); !ok) return Error{ok.error().code, what + ok.error().message};
  const std::shared_ptr<Tenant> tenant = stores.FindTenant(manifest.tenant.empty() ? StoreTable::kNobody : manifest.tenant);
  Result<Charge> charge = tenant->budget->Take(
      ChargeKind::kStoreRecord, Store::RecordBytes(core.codecs, spec, spec.plan.artifact.size()), what + "its record");
  if (!charge) return charge.error();
  Result<std::unique_ptr<const quantizers::Plan>> plan = quantizers::Plan::Make(core.codecs, spec);
  if (!plan) return Error{plan.error().code, what + plan.error().message};
  if ((*plan)->canonical() != manifest.plan || IdentityDigest(IdentityFields(**plan)) != manifest.identity) {
    return Error{ErrorCode::kIdentityMismatch,
                 what + "this daemon makes the plan\n" + (*plan)->canonical() + "\nand its manifest says\n" + manifest.plan};
  }
  Result<std::shared_ptr<Store>> made = Store::Create(core, *std::move(plan), std::move(*charge), tenant);
  if (!made) return made.error();
  RestoredStore restored{.store = *made};
  Store& store = **made;

  std::vector<FoundPart> codes;
  std::map<std::pair<protocol::Digest, std::uint64_t>, FoundPart> sinks;  // by chain and generation
  std::multimap<protocol::Digest, FoundPart> states;                      // by chain
  std::size_t parts = 0;
  std::vector<std::shared_ptr<Slab>> adopted;
  for (const int fd : slabs) {
    Result<std::shared_ptr<Slab>> slab = store.pool().Adopt(fd);
    if (!slab) return Error{slab.error().code, what + slab.error().message};
    adopted.push_back(*slab);
    for (const auto& [i, present_bytes] : (*slab)->PresentSlots()) {
      if (present_bytes < sizeof(protocol::BlockHeader)) continue;
      FoundPart found{.slot = {(*slab)->header().slab_index, i}, .header = {}, .begin = (*slab)->slot(i)};
      std::memcpy(&found.header, found.begin, sizeof found.header);
      if (found.header.magic == 0) continue;  // free
      ++parts;
      const auto verify = check == CheckPayload::kNow ? protocol::VerifySlot : protocol::VerifySlotHeader;
      if (!verify((*slab)->slot_bytes(i).first(present_bytes), spec.block_tokens) || found.header.identity != store.identity())
        continue;
      store.NoteGeneration(found.header.generation);
      if (found.header.kind == protocol::BlockKind::kState) {
        states.emplace(found.header.chain, found);
      } else if (found.header.kind == protocol::BlockKind::kSinks) {
        sinks.emplace(std::pair(found.header.chain, found.header.generation), found);
      } else {
        codes.push_back(found);
      }
    }
  }

  // Parents before children.
  std::ranges::sort(codes, {}, [](const FoundPart& part) { return part.header.first_position; });
  std::multimap<protocol::Digest, Block*> linked;
  std::size_t kept = 0;
  std::set<SlotRef> used;
  for (const FoundPart& found : codes) {
    const protocol::BlockHeader& header = found.header;
    const std::span<const std::uint32_t> tokens = protocol::SlotTokens(found.begin, spec.block_tokens);
    const bool first = header.first_position == 0;
    if (header.token_count != spec.block_tokens || store.plan()->SectionsOf(header.payload_bytes) == 0 ||
        header.chain != protocol::ChainDigest(header.parent, tokens) || (first && header.parent != store.identity())) {
      continue;
    }
    Block* parent = nullptr;
    const auto [begin, end] = linked.equal_range(header.parent);
    for (auto it = begin; it != end; ++it) {
      if (it->second->first_position + spec.block_tokens == header.first_position) parent = it->second;
    }
    if (!first && parent == nullptr) continue;
    if (store.index().Find(parent, header.chain, tokens) != nullptr) continue;
    std::vector<BlockPart> block_parts = {PartOf(found, spec.block_tokens)};
    block_parts.front().sections = static_cast<std::uint8_t>(store.plan()->SectionsOf(header.payload_bytes));
    if (first && spec.sink_tokens != 0) {
      const auto rows = sinks.find(std::pair(header.chain, header.generation));
      if (rows == sinks.end() || rows->second.header.element_type > static_cast<std::uint32_t>(ElementType::kBF16) ||
          rows->second.header.payload_bytes != store.SinkBytes(static_cast<ElementType>(rows->second.header.element_type))) {
        continue;
      }
      block_parts.push_back(PartOf(rows->second, spec.block_tokens));
    }
    const std::size_t count = block_parts.size();
    Result<Block*> block = store.Adopt({.chain = header.chain,
                                        .parent = parent,
                                        .first_position = header.first_position,
                                        .generation = header.generation,
                                        .tokens = {tokens.begin(), tokens.end()},
                                        .parts = std::move(block_parts),
                                        .unchecked = check == CheckPayload::kAtFirstUse});
    if (!block) continue;  // no room: neither for what follows it
    linked.emplace(header.chain, *block);
    for (const BlockPart& part : (*block)->parts) used.insert(part.slot);
    kept += count;
    ++restored.blocks;
    const auto [first_state, last_state] = states.equal_range(header.chain);
    for (auto it = first_state; it != last_state && (*block)->state == nullptr; ++it) {
      const FoundPart& state = it->second;
      if (state.header.parent != header.parent || state.header.first_position != header.first_position ||
          state.header.payload_bytes == 0 || state.header.token_count != spec.block_tokens ||
          !std::ranges::equal(protocol::SlotTokens(state.begin, spec.block_tokens), tokens)) {
        continue;
      }
      auto adopted_state = store.AdoptState(state.slot, state.header.payload_bytes, state.header.generation);
      if (!adopted_state) break;  // no room
      (*block)->state = std::move(*adopted_state);
      used.insert(state.slot);
      ++kept;
    }
  }
  restored.dropped_parts = parts - kept;
  store.index().OrderByGeneration();
  for (const std::shared_ptr<Slab>& slab : adopted) {
    // A free slot looks free, also where its first page is its neighbour's and stays: the next daemon would find it there.
    for (const auto& [i, present_bytes] : slab->PresentSlots()) {
      if (!used.contains({slab->header().slab_index, i})) protocol::ClearSlot(slab->slot(i));
    }
    slab->DropStrayPages();
  }
  return restored;
}

}  // namespace kvant::daemon
