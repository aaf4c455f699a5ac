// What one connection holds: arenas, open stores, sequences, readers. Knows no RPC: session_server translates messages to
// these calls.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "daemon/memory/arena.h"
#include "daemon/serve/attend_service.h"
#include "daemon/serve/client_record.h"
#include "daemon/serve/refusals.h"
#include "daemon/serve/service_figures.h"
#include "daemon/serve/store_openings.h"
#include "daemon/serve/tenant_names.h"
#include "daemon/serve/waiting_calls.h"
#include "daemon/store/core.h"
#include "daemon/store/prefix_checks.h"
#include "daemon/store/sequence.h"
#include "daemon/store/store_table.h"
#include "protocol/message_memory.h"

namespace kvant::daemon {

class LongAttention;
class LongJob;
class Session;

/// Why a daemon that drains refuses what would take long.
[[nodiscard]] Error EndingError(std::string_view operation);

/// Messages of all connections, beyond what each has for itself (MessageMemory). Twice the largest there may be.
inline constexpr std::size_t kMessageBytes = std::size_t{128} << 20;

/// What the sessions of a daemon share. Owned by the daemon, outlives them; loop thread.
struct Services {
  Core& core;
  StoreTable& stores;
  StoreOpenings& openings;
  PrefixChecks& prefix_checks;
  AttendService& attend;
  LongAttention& long_attention;
  Budget& arena_budget;                   ///< of all connections
  const std::uint64_t arena_limit_bytes;  ///< of one connection
  const std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
  ServiceCounters counters;
  Refusals refusals{};
  std::set<Session*> sessions;                                             ///< sessions enter and leave by themselves
  std::map<std::uint64_t, std::shared_ptr<const ClientRecord>> clients{};  ///< by connection; these enter and leave, too
  WaitingCalls waiting_calls;                                              ///< of all sessions
  std::shared_ptr<wire::MessageMemory> message_memory =
      std::make_shared<wire::MessageMemory>(kMessageBytes);  ///< of all connections
  bool draining = false;                                     ///< calls that would have to wait are refused
  TenantNames tenant_names{};
  std::function<void()> drain = nullptr;    ///< begins to end the daemon; null: this one cannot be asked to
  std::function<void()> upgrade = nullptr;  ///< begins to hand over to a successor; null: this one has none
};

enum class Placement : std::uint8_t { kService, kLocal };

/// A range of an arena as a message names it.
struct RangePlace {
  std::uint32_t arena = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

struct NewSequence {
  Placement placement = Placement::kService;
  std::uint32_t arena = 0;
  TailPlace tail;
  std::uint32_t recent_tokens = 0;
  std::uint32_t max_step_tokens = 0;
  std::string label;
  std::string policy{};
  bool want_state = false;
  std::uint32_t priority = 0;
};

/// A sequence that a session may use, and where attention over it runs.
struct UsableSequence {
  Sequence* sequence = nullptr;
  Placement placement = Placement::kService;
};

/// Blocks [begin, end) of a sequence's table.
struct BlockRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// Owned by its connection (shared with calls that wait). Close, or destruction, gives everything back; calls after Close find
/// nothing. Loop thread.
class Session {
 public:
  /// `arenas`: what this connection's arenas may take, those of earlier sessions that still live included.
  /// `messages`: of the connection; null: nobody counts. `tenant`: whose stores it opens.
  /// `record`: of the connection; null: nobody is told.
  Session(Services& services, std::string client, std::shared_ptr<ArenaAllowance> arenas,
          std::shared_ptr<wire::MessageMemory::Account> messages, std::shared_ptr<Tenant> tenant,
          std::shared_ptr<ClientRecord> record = nullptr);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Sequences, stores and arenas go now, whoever still refers to the session.
  void Close();

  [[nodiscard]] bool closed() const noexcept { return closed_; }
  [[nodiscard]] const std::string& client() const noexcept { return client_; }
  [[nodiscard]] const Tenant& tenant() const noexcept { return *tenant_; }
  [[nodiscard]] ClientRecord* record() const noexcept { return record_.get(); }

  struct MadeArena {
    std::uint32_t number = 0;
    std::shared_ptr<const Arena> arena;
  };
  Result<MadeArena> CreateArena(std::uint64_t bytes);
  /// kNotFound for a number that CreateArena did not answer.
  [[nodiscard]] Result<std::shared_ptr<const Arena>> FindArena(std::uint32_t number) const;
  [[nodiscard]] std::uint64_t arena_bytes() const noexcept { return arena_allowance_->bytes.arena_bytes(); }
  [[nodiscard]] std::size_t arenas() const noexcept { return arenas_.size(); }
  [[nodiscard]] std::size_t stores() const noexcept { return stores_.size(); }
  [[nodiscard]] std::size_t sequences() const noexcept { return sequences_.size() + readers_.size(); }
  /// Blocks that its sequences hold; one that two of them hold counts twice.
  [[nodiscard]] std::uint64_t leases() const noexcept;
  /// For a job to keep mapped while it uses places there.
  [[nodiscard]] std::vector<std::shared_ptr<const Arena>> Arenas() const;
  /// Hands `job` to LongAttention; `done` is called on the loop thread when it has ended, which is soon once this session is
  /// closed.
  void Submit(const std::shared_ptr<LongJob>& job, std::function<void()> done);
  /// Ends those that run: their calls are refused.
  void CancelJobs() noexcept;

  /// Changes while the client is alive; empty without arenas.
  [[nodiscard]] std::vector<std::uint64_t> Heartbeats() const;

  struct NumberedStore {
    std::uint32_t number = 0;  ///< within the session
    std::shared_ptr<Store> store;
    bool created = false;
    bool relabelled = false;
  };
  /// Opens a store, see StoreOpenings: `done` is called from the loop, at once or later. `artifact` is copied; 0 bytes for
  /// none. A session may have kMaxPlansInWork stores that wait for their plans; more are refused (kUnavailable), as is
  /// everything while the daemon drains.
  using Opened = std::function<void(Result<NumberedStore>)>;
  static constexpr std::size_t kMaxPlansInWork = 4;
  static void OpenStore(const std::shared_ptr<Session>& session, StoreSpec spec, const RangePlace& artifact, Opened done);
  [[nodiscard]] Result<std::shared_ptr<Store>> FindStore(std::uint32_t number) const;

  /// What Open may find has been looked at since the last restart: else CheckPrefix first, so that it need not look itself.
  [[nodiscard]] bool Checked(std::uint32_t store) const;
  void CheckPrefix(std::uint32_t store, PrefixChecks::Tokens tokens, std::function<void()> done);
  Result<Sequence*> Open(std::uint32_t store, std::span<const std::uint32_t> tokens, const NewSequence& options);
  /// `length` ~0: all of the source's. Requires: the source is settled.
  Result<Sequence*> Fork(std::uint32_t store, std::uint64_t source, std::uint64_t length, const NewSequence& options);
  struct NewReader {
    std::uint64_t id = 0;
    Sequence* source = nullptr;
  };
  Result<NewReader> Read(std::uint32_t store, std::uint64_t source);
  Result<void> CloseSequence(std::uint64_t id);

  /// A live sequence of any session of this tenant's. Another tenant's is answered as one that never was, and counted.
  [[nodiscard]] Result<Sequence*> FindShared(std::uint64_t id) const;

  /// A sequence of this session's own, to change. kStaleDaemon and kNotFound as SequenceTable; kPermissionDenied for another
  /// session's, kUnsupported for a reader.
  [[nodiscard]] Result<UsableSequence> Own(std::uint64_t id) const;
  /// One of its own, or what one of its readers reads.
  [[nodiscard]] Result<UsableSequence> OwnOrRead(std::uint64_t id) const;
  /// The same, for a call in which `unnamed` rows behind the sequence's length count as its own: kTailFull if there is no room
  /// for so many, and of readers none do.
  [[nodiscard]] Result<UsableSequence> WithUnnamed(std::uint64_t id, std::uint32_t unnamed) const;

  /// The sealed blocks that the client of this sequence has to be told of: all of them, or those that it was not told of yet.
  /// From then on it counts as told. Empty unless attention runs in the client.
  BlockRange TellAllBlocks(std::uint64_t id);
  BlockRange TellNewBlocks(std::uint64_t id);

  /// Whether the client has to be told of a store's warning; from then on it counts as told.
  bool TellWarning(const Store& store) { return warned_stores_.insert(store.weak_from_this()).second; }

  /// A capability that the client is given counts as long as it lives: clients that let go of none would fill the memory.
  [[nodiscard]] wire::CountedBytes CountCapability() const { return {messages_, kCapabilityBytes}; }

  /// Of its connection; null: nobody counts.
  [[nodiscard]] const std::shared_ptr<wire::MessageMemory::Account>& messages() const noexcept { return messages_; }

  [[nodiscard]] Services& services() const noexcept { return services_; }

 private:
  static constexpr std::size_t kCapabilityBytes = 1024;  // with what Cap'n Proto keeps of it, about

  struct OwnSequence {
    std::unique_ptr<Sequence> sequence;
    Placement placement = Placement::kService;
    std::uint64_t told_blocks = 0;
  };
  Result<TailView> FindTail(const NewSequence& options, const StoreSpec& spec) const;
  [[nodiscard]] SequenceConfig ConfigOf(const NewSequence& options) const;
  Sequence* Keep(std::unique_ptr<Sequence> sequence, Placement placement);
  Result<ArtifactBytes> FindArtifact(const RangePlace& place, const std::string& what) const;
  NumberedStore Number(OpenedStore opened);
  [[nodiscard]] Error NotOurs(std::uint64_t id) const;

  Services& services_;
  const std::shared_ptr<ArenaAllowance> arena_allowance_;
  const std::shared_ptr<wire::MessageMemory::Account> messages_;
  const std::string client_;
  const std::shared_ptr<Tenant> tenant_;
  const std::shared_ptr<ClientRecord> record_;
  std::uint32_t next_number_ = 1;  // of arenas and stores; never reused
  std::map<std::uint32_t, std::shared_ptr<const Arena>> arenas_;
  // An open store stays as long as the store table keeps it: one that must make room for another really goes.
  std::map<std::uint32_t, std::weak_ptr<Store>> stores_;
  std::set<std::weak_ptr<const Store>, std::owner_less<>> warned_stores_;
  std::unordered_map<std::uint64_t, OwnSequence> sequences_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Reader>> readers_;
  std::vector<std::weak_ptr<LongJob>> jobs_;
  std::size_t plans_in_work_ = 0;
  bool closed_ = false;
};

}  // namespace kvant::daemon
