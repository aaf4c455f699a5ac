// The admin side of a connection: what kvantctl shows and does. Needs the admin capability (same uid as the daemon).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/client.h>
#include <kvant/export.h>
#include <kvant/result.h>

namespace kvant {

/// Three figures that are never mixed: what the same tokens take as f16, what their codes and side data take, and what memory
/// is really occupied.
struct ByteFigures {
  std::uint64_t logical_f16_bytes = 0;
  std::uint64_t compressed_bytes = 0;
  std::uint64_t resident_bytes = 0;
};

struct StoreRow {
  std::string name;
  std::string identity;  ///< hex digest
  std::string model;
  std::string keys;  ///< the plan's default codec specs
  std::string values;
  KeyStage key_stage = KeyStage::kAfterRope;  ///< what rows of keys are when engines hand them over
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 0;
  std::uint64_t blocks = 0;         ///< sealed
  std::uint64_t leased_blocks = 0;  ///< of those, held by at least one sequence
  std::uint64_t sequences = 0;
  ByteFigures bytes;
  std::uint64_t prefix_lookup_tokens = 0;
  std::uint64_t prefix_hit_tokens = 0;
  std::uint64_t evicted_blocks = 0;
  std::uint64_t deduplicated_blocks = 0;
};

struct SequenceRow {
  SequenceId id = 0;
  std::string store;
  std::string client;
  std::string label;
  std::uint64_t length = 0;
  std::uint64_t sealed_tokens = 0;
  std::uint64_t prefix_hit_tokens = 0;
  std::uint64_t marks = 0;
  bool read_only = false;
};

struct StatsReport {
  DaemonInfo daemon;
  std::chrono::seconds uptime{0};
  ByteFigures bytes;
  std::uint64_t metadata_bytes = 0;  ///< counted against the budget
  std::uint64_t stores = 0;
  std::uint64_t sequences = 0;
  std::uint64_t sessions = 0;
  std::uint64_t leases = 0;  ///< block leases held by sequences
  std::uint64_t arenas = 0;
  std::uint64_t arena_bytes = 0;
  std::uint64_t prefix_lookup_tokens = 0;
  std::uint64_t prefix_hit_tokens = 0;
  std::uint64_t sealed_blocks = 0;  ///< encoded since start
  std::uint64_t deduplicated_blocks = 0;
  std::uint64_t evicted_blocks = 0;
  std::uint64_t attend_calls = 0;
  std::uint64_t bytes_copied = 0;  ///< tensor bytes the daemon copied (append from elsewhere, forks)
  std::uint64_t store_full_errors = 0;
  std::uint64_t dropped_clients = 0;  ///< hung clients whose lease ran out
};

/// One sealed block of a sequence.
struct BlockRow {
  std::uint64_t first_position = 0;
  std::string chain;  ///< hex digest
  std::uint32_t slab = 0;
  std::uint32_t slot = 0;
  std::uint64_t generation = 0;
  std::uint32_t leases = 0;  ///< sequences that hold it
  bool checksum_ok = false;
};

struct SequenceDetail {
  SequenceRow row;
  std::vector<BlockRow> blocks;
  std::uint64_t tail_first_position = 0;
  std::uint64_t tail_capacity_tokens = 0;
};

/// Which unleased blocks to evict.
struct EvictRequest {
  std::string store;             ///< empty: every store
  std::uint64_t max_blocks = 0;  ///< 0: no limit
  bool dry_run = false;
};

struct EvictReport {
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;
};

/// A connection for administration. Thread rules as Client.
class KVANT_API Admin {
 public:
  /// kPermissionDenied if this peer may not administer the daemon.
  static Result<Admin> Connect(std::string_view uri, const ClientOptions& options = {});
  Admin(Admin&&) noexcept;
  Admin& operator=(Admin&&) noexcept;
  ~Admin();

  [[nodiscard]] const DaemonInfo& daemon() const noexcept;
  Result<std::chrono::nanoseconds> Ping();
  Result<StatsReport> Stats();
  Result<std::vector<StoreRow>> Stores();
  Result<std::vector<SequenceRow>> Sequences();
  Result<SequenceDetail> Inspect(SequenceId id);
  Result<EvictReport> Evict(const EvictRequest& request);

 private:
  struct Impl;
  explicit Admin(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvant
