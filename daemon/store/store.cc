#include "daemon/store/store.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include <unistd.h>

#include "daemon/memory/check.h"
#include "daemon/store/slot_sizes.h"
#include "protocol/block_format.h"
#include "protocol/digest.h"
#include "protocol/manifest.h"
#include "protocol/system_error.h"

namespace kvant::daemon {
namespace {

/// The least a store of this plan takes beside its own record: one block, its sinks, and a sequence to make it.
std::size_t LeastBytes(const quantizers::Plan& plan) {
  const StoreSpec& spec = plan.spec();
  const std::size_t codes = BlockPool::LeastBytes(SlotBytesFor(spec.block_tokens, plan.payload_bytes()));
  const std::uint64_t sink_bytes = SinkBytesFor(spec, ElementType::kF16);
  const std::size_t sinks = sink_bytes == 0 ? 0 : BlockPool::LeastBytes(SlotBytesFor(spec.block_tokens, sink_bytes));
  constexpr std::size_t kManifestBytes = protocol::kPageBytes;  // and its artifact's
  return codes + sinks + kManifestBytes + BlockRecordBytes(spec) + kTableEntryBytes + kSequenceRecordBytes;
}

Charge Adopted(Budget& budget, Charge charge) {
  budget.Adopt(charge);
  return charge;
}

}  // namespace

Result<std::shared_ptr<Store>> Store::Create(Core& core, std::shared_ptr<const quantizers::Plan> plan, Charge charge,
                                             std::shared_ptr<Tenant> tenant) {
  const StoreSpec& spec = plan->spec();
  const std::string what = "create store " + spec.name;
  Budget& whole = tenant ? *tenant->budget : core.budget;
  if (const std::size_t needed = RecordBytes(*plan); needed <= charge.bytes()) {
    charge.GiveBack(charge.bytes() - needed);
  } else {
    Result<Charge> more = whole.Take(ChargeKind::kStoreRecord, needed - charge.bytes(), what + ": its plan");
    if (!more) return more.error();
    charge.Merge(std::move(*more));
  }
  const std::size_t least = charge.bytes() + LeastBytes(*plan);
  const std::size_t beside = core.history.evicted.bytes();  // as long as the daemon runs
  if (least > whole.limit() || least + beside > core.budget.limit()) {
    return Error{ErrorCode::kStoreFull, what + ": one block needs " + std::to_string(least) +
                                            " bytes with its records, the whole budget is " + std::to_string(whole.limit()) +
                                            ", of which " + std::to_string(beside) + " remember what was evicted"};
  }
  // Private constructor: make_shared cannot reach it.
  std::shared_ptr<Store> store(new Store(core, std::move(plan), std::move(charge), std::move(tenant)));
  if (Result<void> written = store->WriteManifest(); !written)
    return Error{written.error().code, what + ": " + written.error().message};
  return store;
}

std::size_t Store::RecordBytes(const quantizers::Registry& codecs, const StoreSpec& spec, std::size_t artifact_bytes) {
  // An artifact is held as its image and, parsed, as f32: up to twice the image again where it holds f16.
  return kStoreRecordBytes + quantizers::PlanBytes(codecs, spec) + 3 * artifact_bytes;
}

std::size_t Store::RecordBytes(const quantizers::Plan& plan) {
  return kStoreRecordBytes + plan.memory_bytes() + 3 * plan.spec().plan.artifact.size();
}

Result<void> Store::WriteManifest() {
  const std::vector<std::byte> bytes = wire::WriteManifest({.spec = spec(),
                                                            .plan = plan_->canonical(),
                                                            .identity = identity_,
                                                            .boot_token = core_.boot_token,
                                                            .tenant = tenant_ ? tenant_->name : ""});
  Result<Charge> charge = TakeRecord(ChargeKind::kStoreRecord, bytes.size(), "its manifest");
  if (!charge) return charge.error();
  manifest_charge_ = std::move(*charge);
  Result<protocol::UniqueFd> fd = protocol::CreateSealedMemfd("kvant-manifest", bytes.size());
  if (!fd) return fd.error();
  if (::pwrite(fd->get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return protocol::SystemError("write its manifest of " + std::to_string(bytes.size()) + " bytes", errno);
  }
  Result<protocol::UniqueFd> read_only = protocol::ReopenReadOnly(fd->get());
  if (!read_only) return read_only.error();
  manifest_fd_ = std::move(*read_only);
  if (core_.keeper != nullptr) core_.keeper->Keep(manifest_fd_.get());
  return {};
}

Store::Store(Core& core, std::shared_ptr<const quantizers::Plan> plan, Charge charge, std::shared_ptr<Tenant> tenant)
    : core_(core),
      plan_(std::move(plan)),
      fields_(IdentityFields(*plan_)),
      identity_(IdentityDigest(fields_)),
      tenant_(std::move(tenant)),
      budget_(Budget::Part(tenant_ ? *tenant_->budget : core.budget, "store " + plan_->spec().name)),
      charge_(Adopted(*budget_, std::move(charge))),
      pool_({.block_tokens = plan_->spec().block_tokens,
             .identity = identity_,
             .boot_token = core.boot_token,
             .owner = tenant_ ? protocol::DigestOf(tenant_->name) : protocol::Digest{}},
            *budget_, core.populate, core.keeper),
      index_(core.eviction, tenant_ ? &tenant_->scope : nullptr),
      key_means_(plan_),
      hex_(protocol::DigestHex(identity_)) {}

Store::~Store() {
  core_.eviction.coarse_blocks -= coarse_;
  MoveInScopes(0, 0);
  if (core_.keeper != nullptr && manifest_fd_.valid()) core_.keeper->Release(manifest_fd_.get());
}

void Store::UpdateOrder() {
  std::uint64_t warm_since = 0;
  if (pool_.warm_slots() != 0) warm_since = warm_since_ != 0 ? warm_since_ : core_.eviction.NextUse();
  MoveInScopes(empty() && !dropped_ ? last_use_ : 0, warm_since);
}

void Store::MoveInScopes(std::uint64_t empty_since, std::uint64_t warm_since) {
  for (EvictionScope* scope : {&core_.eviction.all, tenant_ ? &tenant_->scope : nullptr}) {
    if (scope == nullptr) continue;
    scope->empty_stores.Move(*this, empty_since_, empty_since);
    scope->warm_stores.Move(*this, warm_since_, warm_since);
  }
  empty_since_ = empty_since;
  warm_since_ = warm_since;
}

void Store::NoteKeys(std::span<const KeyMean> block) {
  key_means_.Add(block);
  if (warned_ || key_means_.unfit_heads() == 0) return;
  warned_ = true;
  if (core_.notify) core_.notify("store " + name() + ": " + key_means_.Warning());
}

std::vector<std::string> Store::AddName(const std::string& name) {
  RemoveName(name);
  names_.push_back(name);
  if (names_.size() <= kMaxNames) return {};
  std::vector<std::string> forgotten = {names_.front()};
  names_.erase(names_.begin());
  return forgotten;
}

std::vector<protocol::Digest> Store::AddSpelling(const protocol::Digest& spelling) {
  std::erase(spellings_, spelling);
  spellings_.push_back(spelling);
  if (spellings_.size() <= kMaxSpellings) return {};
  std::vector<protocol::Digest> forgotten = {spellings_.front()};
  spellings_.erase(spellings_.begin());
  return forgotten;
}

void Store::RemoveName(const std::string& name) { std::erase(names_, name); }

void Store::SequenceOpened() {
  ++sequences_;
  UpdateOrder();
}

void Store::SequenceClosed() {
  KVANT_CHECK(sequences_ != 0, name());
  --sequences_;
  last_use_ = core_.eviction.NextUse();
  UpdateOrder();
}

void Store::Opened() {
  ++openers_;
  last_use_ = core_.eviction.NextUse();
  UpdateOrder();
}

void Store::MarkDropped() {
  dropped_ = true;
  UpdateOrder();
}

void Store::Closed() {
  KVANT_CHECK(openers_ != 0, name());
  --openers_;
}

StoreFigures Store::Figures() const {
  StoreFigures figures;
  figures.blocks = index_.size();
  figures.leased_blocks = index_.leased_blocks();
  figures.leases = index_.leases();
  figures.sequences = sequences_;
  figures.slabs = pool_.slab_count();
  figures.slab_bytes = pool_.held_bytes();
  figures.logical_f16_bytes = index_.size() * plan_->logical_bytes();
  figures.compressed_bytes = index_.size() * plan_->payload_bytes() - demoted_bytes_;
  figures.resident_bytes = pool_.resident_bytes();
  figures.states = states_;
  figures.state_bytes = state_bytes_;
  figures.store_record_bytes = budget_->bytes(ChargeKind::kStoreRecord);
  figures.block_record_bytes = budget_->bytes(ChargeKind::kBlockRecord);
  figures.sequence_record_bytes = budget_->bytes(ChargeKind::kSequenceRecord);
  figures.slab_record_bytes = budget_->bytes(ChargeKind::kMetadata);
  figures.slot_overhead_bytes = figures.slab_bytes - figures.compressed_bytes - state_bytes_;
  figures.used_bytes = budget_->used();
  figures.coarse_blocks = coarse_;
  figures.unchecked_blocks = unchecked_;
  figures.unfit_key_heads = key_means_.unfit_heads();
  figures.counters = counters_;
  return figures;
}

BlockFigures Store::Inspect(const Block& block) const {
  const auto whole = [this](SlotRef slot) {
    return protocol::VerifySlot(pool_.slab(slot.slab)->slot_bytes(slot.slot), spec().block_tokens).has_value();
  };
  const bool verified =
      std::ranges::all_of(block.parts, whole, &BlockPart::slot) && (block.state == nullptr || whole(block.state->slot()));
  return {.first_position = block.first_position,
          .chain = protocol::DigestHex(block.chain),
          .slab = block.codes().slot.slab,
          .slot = block.codes().slot.slot,
          .generation = block.generation,
          .leases = block.leases,
          .checksum_ok = verified};
}

}  // namespace kvant::daemon
