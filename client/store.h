// What an open Store is: its number in the session, its shape, and, for local placement, the plan and the mapped slabs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>

#include <kvant/client.h>

#include "client/session.h"
#include "client/slab.h"
#include "quantizers/plan.h"

namespace kvant::client {

/// A slot of a slab that a sequence of ours holds: it is not rewritten until that sequence lets go of it.
struct SlotView {
  const std::byte* payload = nullptr;
  std::uint64_t payload_bytes = 0;
  ElementType element_type = ElementType::kF32;  ///< of sink rows
  std::shared_ptr<const Slab> slab;              ///< shared by all slots in it
};

/// Shared by the handle and the sequences opened from it. Owning thread only.
class Store {
 public:
  static Result<std::shared_ptr<Store>> Open(std::shared_ptr<Session> session, const StoreSpec& spec);

  [[nodiscard]] Session& session() const noexcept { return *session_; }
  [[nodiscard]] const std::shared_ptr<Session>& shared_session() const noexcept { return session_; }
  [[nodiscard]] std::uint32_t id() const noexcept { return id_; }
  [[nodiscard]] const StoreSpec& spec() const noexcept { return spec_; }
  [[nodiscard]] const StoreInfo& info() const noexcept { return info_; }
  /// Canonical text of every layer's codecs, as the daemon made them.
  [[nodiscard]] const std::string& daemon_plan() const noexcept { return daemon_plan_; }
  [[nodiscard]] const protocol::Digest& identity() const noexcept { return identity_; }
  void set_warning(std::string warning) { info_.warning = std::move(warning); }

  /// The plan that local attention computes with, made at first use; kVersionMismatch if the daemon's differs.
  Result<const quantizers::Plan*> plan();

  /// The slot, its slab mapped if it is not yet. kCorrupt if the slot is not what the daemon said it is.
  Result<SlotView> Slot(wire::BlockRef::Reader ref, protocol::BlockKind kind);
  /// kDisconnected if the daemon has given up on this client, or has died and another serves its memory: what was read of slots
  /// before this call may have been rewritten meanwhile.
  [[nodiscard]] Result<void> CheckHeld(std::string_view operation) const;
  /// kCorrupt if a checksum of the slot differs. Reads all of it.
  [[nodiscard]] Result<void> Verify(const SlotView& slot) const;
  /// Lets the pages of a slot be mapped before they are needed.
  void MapPages(const SlotView& slot);

 private:
  Store(std::shared_ptr<Session> session, const StoreSpec& spec) : session_(std::move(session)), spec_(spec) {}
  Result<std::shared_ptr<const Slab>> FindSlab(std::uint32_t index);

  const std::shared_ptr<Session> session_;
  StoreSpec spec_;
  std::uint32_t id_ = 0;
  StoreInfo info_;
  std::string daemon_plan_;
  protocol::Digest identity_{};
  std::unique_ptr<const quantizers::Plan> plan_;
  std::map<std::uint32_t, std::shared_ptr<const Slab>> slabs_;
};

}  // namespace kvant::client
