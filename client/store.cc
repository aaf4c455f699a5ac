#include "client/store.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>

#include "protocol/block_format.h"
#include "protocol/digest.h"
#include "protocol/wire.h"
#include "quantizers/registry.h"

namespace kvant::client {
namespace {

std::string Str(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

}  // namespace

Result<std::shared_ptr<Store>> Store::Open(std::shared_ptr<Session> session, const StoreSpec& spec) {
  const std::string operation = "open store \"" + spec.name + "\"";
  std::shared_ptr<Store> store(new Store(std::move(session), spec));
  Session& link = *store->session_;
  auto request = link.remote().openStoreRequest();
  wire::WriteStoreSpec(spec, request.initSpec());
  ArenaMemory artifact;
  if (!spec.plan.artifact.empty()) {
    auto memory = link.Allocate(spec.plan.artifact.size(), "the plan's artifact");
    if (!memory) return Error{memory.error().code, operation + ": " + memory.error().message};
    artifact = std::move(*memory);
    std::memcpy(artifact.data(), spec.plan.artifact.data(), spec.plan.artifact.size());
    auto range = request.getSpec().initArtifact();
    range.setArena(link.arena_id());
    range.setOffset(*link.ArenaOffset(artifact.data(), spec.plan.artifact.size()));
    range.setBytes(spec.plan.artifact.size());
  }
  auto answer = link.connection().Call(request, operation);
  if (!answer) return answer.error();
  if (answer->isError()) return wire::ReadError(answer->getError());
  const auto opened = answer->getOk();
  store->id_ = opened.getStore();
  store->daemon_plan_ = Str(opened.getPlan());
  store->info_ = {.name = spec.name,
                  .identity = Str(opened.getIdentity()),
                  .created = opened.getCreated(),
                  .relabelled = opened.getRelabelled(),
                  .block_bytes = opened.getSlotBytes(),
                  .logical_block_bytes = opened.getLogicalBlockBytes(),
                  .key_bits_per_element = opened.getKeyBitsPerElement(),
                  .value_bits_per_element = opened.getValueBitsPerElement(),
                  .warning = Str(opened.getWarning())};
  const auto identity = protocol::ParseDigest(store->info_.identity);
  if (!identity)
    return Error{ErrorCode::kInternal, operation + ": the daemon's identity is no digest: " + store->info_.identity};
  store->identity_ = *identity;
  return store;
}

Result<const quantizers::Plan*> Store::plan() {
  if (plan_) return plan_.get();
  auto plan = quantizers::Plan::Make(quantizers::Registry::Builtin(), spec_);
  if (!plan) return plan.error();
  if ((*plan)->canonical() != daemon_plan_) {
    return Error{ErrorCode::kVersionMismatch, "local placement in store \"" + spec_.name + "\": this library makes the plan\n" +
                                                  (*plan)->canonical() + "\nand the daemon\n" + daemon_plan_ +
                                                  "\nuse Placement::kService or upgrade one side"};
  }
  plan_ = std::move(*plan);
  return plan_.get();
}

Result<std::shared_ptr<const Slab>> Store::FindSlab(std::uint32_t index) {
  if (const auto known = slabs_.find(index); known != slabs_.end()) return known->second;
  // Mappings that no sequence looks into any more would keep memory alive that the daemon has given back.
  std::erase_if(slabs_, [](const auto& entry) { return entry.second.use_count() == 1; });
  const std::string operation = "map slab " + std::to_string(index) + " of store \"" + spec_.name + "\"";
  auto request = session_->remote().slabsRequest();
  request.setStore(id_);
  request.setFrom(index);
  auto answer = session_->connection().Call(request, operation);
  if (!answer) return answer.error();
  if (answer->isError()) return wire::ReadError(answer->getError());
  for (const auto info : answer->getOk()) {
    if (slabs_.contains(info.getIndex())) continue;
    auto slab = MapSlab(
        session_->connection(), info,
        {.boot_token = session_->daemon().boot_token, .identity = identity_, .block_tokens = spec_.block_tokens}, operation);
    if (!slab) return slab.error();
    slabs_.emplace(info.getIndex(), *std::move(slab));
  }
  const auto found = slabs_.find(index);
  if (found == slabs_.end()) return Error{ErrorCode::kInternal, operation + ": the daemon does not list it"};
  return found->second;
}

Result<SlotView> Store::Slot(wire::BlockRef::Reader ref, protocol::BlockKind kind) {
  auto slab = FindSlab(ref.getSlab());
  if (!slab) return slab.error();
  const auto bad = [&](const std::string& what) {
    return Error{ErrorCode::kCorrupt, "slot " + std::to_string(ref.getSlot()) + " of slab " + std::to_string(ref.getSlab()) +
                                          " of store \"" + spec_.name + "\": " + what};
  };
  const protocol::SlabHeader& shape = (*slab)->header;
  if (ref.getSlot() >= shape.slot_count) return bad("the slab has " + std::to_string(shape.slot_count) + " slots");
  const std::byte* const slot = (*slab)->segment.data() + protocol::SlotOffset(shape, ref.getSlot());
  protocol::BlockHeader header;
  std::memcpy(&header, slot, sizeof(header));
  if (header.magic != protocol::kBlockMagic || header.kind != kind || header.generation != ref.getGeneration() ||
      header.identity != identity_ || header.element_type > static_cast<std::uint32_t>(ElementType::kBF16) ||
      header.payload_bytes > shape.slot_bytes - protocol::PayloadOffset(spec_.block_tokens)) {
    return bad("its header is not that of generation " + std::to_string(ref.getGeneration()));
  }
  return SlotView{.payload = slot + protocol::PayloadOffset(spec_.block_tokens),
                  .payload_bytes = header.payload_bytes,
                  .element_type = static_cast<ElementType>(header.element_type),
                  .slab = *slab};
}

Result<void> Store::Verify(const SlotView& slot) const {
  const std::span whole(slot.payload - protocol::PayloadOffset(spec_.block_tokens), slot.slab->header.slot_bytes);
  return protocol::VerifySlot(whole, spec_.block_tokens);
}

Result<void> Store::CheckHeld(std::string_view operation) const {
  if (auto held = session_->CheckLease(operation); !held) return held;
  // Slots are read before the token is: a daemon that takes slabs over writes its own token first of all.
  std::atomic_thread_fence(std::memory_order_acquire);
  for (const auto& [index, slab] : slabs_) {
    if (slab.use_count() == 1) continue;  // nobody looks into it, and the daemon may have given it back
    const auto* const header = reinterpret_cast<const protocol::SlabHeader*>(slab->segment.data());
    if (std::atomic_ref<const std::uint64_t>(header->boot_token).load(std::memory_order_relaxed) ==
        session_->daemon().boot_token) {
      continue;
    }
    return Error{ErrorCode::kDisconnected, std::string(operation) +
                                               ": the daemon that this client knew has ended and another one has taken over "
                                               "its memory; connect again and reopen"};
  }
  return {};
}

void Store::MapPages(const SlotView& slot) {
  // This slot and no more: what lies around it may be holes, and looking into a hole would make the system fill it.
  const std::size_t before = protocol::PayloadOffset(spec_.block_tokens);
  session_->housekeeper().MapPages(slot.slab, slot.payload - before, before + slot.payload_bytes);
}

}  // namespace kvant::client
