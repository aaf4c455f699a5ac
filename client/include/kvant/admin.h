// The admin side of a connection: what kvantctl shows and does. Needs the admin capability (same uid as the daemon).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <kvant/client.h>
#include <kvant/export.h>
#include <kvant/result.h>
#include <kvant/snapshot.h>

namespace kvant {

enum class FigureKind : std::uint8_t {
  kGauge,    ///< as it is now; may fall
  kCounter,  ///< since the daemon (or the store) began; only grows
};

enum class FigureUnit : std::uint8_t { kCount, kTokens, kBytes, kSeconds, kPartsPerMillion };

struct FigureInfo {
  std::string name;  ///< snake_case, as scripts and metrics call it
  FigureKind kind = FigureKind::kGauge;
  FigureUnit unit = FigureUnit::kCount;
  std::string help;  ///< one line for operators
};

/// Numbers that describe themselves: the daemon sends them with their names, units and meaning, so that a client shows figures
/// that it was not built with. Three figures in bytes are never mixed: logical_f16_bytes is what the sealed tokens would take
/// as f16, compressed_bytes what their codes and side data take, resident_bytes what memory is really occupied.
class KVANT_API Figures {
 public:
  Figures() = default;
  /// Requires: one value per info.
  Figures(std::shared_ptr<const std::vector<FigureInfo>> infos, std::vector<std::uint64_t> values);

  /// The number of that name; empty if this daemon has none.
  [[nodiscard]] std::optional<std::uint64_t> Find(std::string_view name) const noexcept;
  [[nodiscard]] std::size_t size() const noexcept { return values_.size(); }
  [[nodiscard]] const FigureInfo& info(std::size_t i) const { return (*infos_)[i]; }
  [[nodiscard]] std::uint64_t value(std::size_t i) const { return values_[i]; }

 private:
  std::shared_ptr<const std::vector<FigureInfo>> infos_;  // shared by all rows of an answer
  std::vector<std::uint64_t> values_;
};

/// The keys of one KV head of a store. Their common mean is invisible to softmax, but a codec that does not subtract it loses
/// precision to it.
struct KeyHead {
  std::uint32_t layer = 0;
  std::uint32_t kv_head = 0;
  float mean_share = 0.0f;       ///< |mean key|^2 over mean |key|^2
  float effective_error = 0.0f;  ///< the codec's squared error relative to what tokens' keys differ by
  bool unfit = false;            ///< the codec cannot serve these keys
};

struct StoreRow {
  std::string name;
  std::string tenant;    ///< whose it is
  std::string identity;  ///< hex digest
  std::string model;
  std::string keys;  ///< the plan's default codec specs
  std::string values;
  KeyStage key_stage = KeyStage::kAfterRope;  ///< what rows of keys are when engines hand them over
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 0;
  Figures figures;
  std::vector<KeyHead> key_heads;  ///< whose mean holds half of their keys' energy or more: the worst few
  std::string warning;             ///< what is wrong with the store, in a sentence; empty if nothing is known to be
};

/// What the bytes of a codec's encoded blocks are, as plain data: enough to read them without the codec. The words are those of
/// `kvantctl codecs`. A number reads back as level * scale / level_unit, in row space or in the rotated one.
struct CodecForm {
  std::string family;           ///< what a code stands for: opaque, raw, scalar, vector, signs
  std::string order;            ///< in which order the codes lie: opaque, rows, key_tiles, value_tiles
  std::uint32_t bits = 0;       ///< of one code
  std::vector<int> magnitudes;  ///< of the upper half of the codes, ascending; the lower half mirrors it. Empty: evenly spaced
  int first_level = 0;          ///< without magnitudes: the level of code i is i + first_level
  float level_unit = 1.0f;
  std::string scale_format;               ///< none, ufloat16, f16, f32
  std::uint64_t scale_offset = 0;         ///< bytes from the start of the first part to the scales, one per token, adjacent
  bool rotated = false;                   ///< codes are of the rotated row
  bool centered = false;                  ///< codes are of the row without its calibrated mean
  std::vector<std::uint64_t> part_bytes;  ///< of one KV head's block, one number per part
};

/// A codec of a store's plan, once however many KV heads it serves.
struct StoredCodec {
  std::string side;         ///< "keys" or "values"
  std::string spec;         ///< canonical
  std::uint64_t heads = 0;  ///< KV heads that it serves, over all layers
  CodecForm form;
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
  std::string policy;             ///< which tokens its owner attends (SequenceOptions::policy); empty: all
  std::uint64_t kept_tokens = 0;  ///< how many, mean over layers and KV heads, by what it said last
  bool read_only = false;
};

/// How often something took how long.
struct Histogram {
  std::string name;                   ///< snake_case; ends with _seconds
  std::string help;                   ///< one line for operators
  std::vector<double> bounds;         ///< seconds, ascending
  std::vector<std::uint64_t> counts;  ///< one per bound: what took so long at most, and longer than the bound before; the rest
  double sum = 0;                     ///< seconds, of all
};

struct StatsReport {
  DaemonInfo daemon;
  Figures figures;
  std::vector<Histogram> histograms;  ///< of times of blocks; empty from daemons that keep none
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

/// Which sealed blocks are meant; every condition narrows. `chain` and `tokens` need a store and name a block: it and all that
/// continue it are meant, and not what it continues, which other prompts share.
struct BlockFilter {
  std::string tenant;                 ///< empty: every
  std::string store;                  ///< name or identity; empty: every
  SequenceId sequence = 0;            ///< a live one: its sealed blocks, and no other condition but the limits; 0: none
  std::string chain;                  ///< a block's digest in hexadecimal, as Inspect answers
  std::vector<TokenId> tokens;        ///< from position 0; whole blocks of them
  std::chrono::milliseconds idle{0};  ///< not used for so long
  std::uint64_t max_blocks = 0;       ///< 0: no limit
  std::uint64_t max_bytes = 0;        ///< as many as it takes to make so many bytes; 0: no limit
};

struct EvictRequest : BlockFilter {
  bool dry_run = false;
};

/// Which blocks that no sequence holds to cut down to their first planes.
struct DemoteRequest {
  std::string store;             ///< by name or identity
  std::uint8_t planes = 0;       ///< that stay, at least 1
  std::uint64_t max_blocks = 0;  ///< 0: no limit
  bool dry_run = false;
  std::string tenant{};  ///< whose store; empty: where only one tenant has such a store
};

struct DemoteReport {
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;    ///< given back; of a dry run, those that payloads would lose
  std::uint64_t corrupt = 0;  ///< blocks left as they are, for their checksums differ
};

struct EvictReport {
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;
  std::uint64_t held = 0;  ///< blocks that were meant, too, and that somebody holds
};

/// Blocks that an operator keeps for a while.
struct PinRow {
  std::uint64_t id = 0;
  std::string tenant;
  std::string store;
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;
  std::chrono::milliseconds left{0};  ///< until it ends by itself
};

/// What a tenant may take, or one of its stores.
struct QuotaRow {
  std::string tenant;
  std::string store;                         ///< empty: of the tenant
  std::optional<std::uint64_t> limit_bytes;  ///< empty: none
  std::uint64_t used_bytes = 0;              ///< records included
  std::chrono::milliseconds ttl{0};          ///< of a store: blocks that nobody uses so long go; 0: they stay
};

/// What to change of a tenant's quota or, with a store, of that store's.
struct QuotaChange {
  static constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};
  std::string tenant;
  std::string store;  ///< name or identity
  std::optional<std::uint64_t> limit_bytes;
  std::optional<std::chrono::milliseconds> ttl;  ///< of a store
};

/// A connection to the daemon, of an engine or an operator.
struct ClientRow {
  std::uint64_t connection = 0;
  std::uint64_t pid = 0;
  std::uint32_t uid = 0;
  std::string tenant;                      ///< whose stores its session opens; empty without a session
  std::string name;                        ///< ClientOptions::name
  bool admin = false;                      ///< an operator's
  std::chrono::milliseconds connected{0};  ///< so long
  std::chrono::milliseconds idle{0};       ///< since its last message
  std::uint64_t calls = 0;
  std::uint64_t refused = 0;  ///< of the session's calls
  std::uint64_t stores = 0;   ///< open ones
  std::uint64_t sequences = 0;
  std::uint64_t leases = 0;  ///< blocks that its sequences hold
  std::uint64_t arenas = 0;
  std::uint64_t arena_bytes = 0;
  std::chrono::milliseconds silent{0};  ///< since one of its heartbeats moved; at the daemon's --lease it is dropped
};

struct EventField {
  std::string name;
  std::variant<std::uint64_t, std::string> value;
};

/// Something that happened in the daemon, tools/docs/operations.md lists kinds and fields.
struct Event {
  std::uint64_t number = 0;  ///< ascending
  std::chrono::sys_time<std::chrono::milliseconds> time{};
  std::string kind;
  std::vector<EventField> fields;
};

struct EventBatch {
  std::vector<Event> events;
  std::uint64_t lost = 0;  ///< so many came after these, while nobody took and too many waited
};

/// What to save: the named stores (by name or identity) and what live sequences hold; nothing named: every store.
struct SnapshotSelection {
  std::vector<std::string> stores;
  std::vector<SequenceId> sequences;
};

/// A connection for administration. Thread rules as Client. Lists come in pages, each with the deadline of a call.
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
  /// Every distinct codec of a store's plan, keys first. The store by name or identity; kNotFound where there is none.
  Result<std::vector<StoredCodec>> Codecs(const std::string& store);
  /// Evicts what is meant and nobody holds, each block after those that continue it, else as the daemon's eviction policy ranks
  /// them; or with dry_run says what would go. Held blocks of a sequence go as soon as nobody holds them, unless somebody finds
  /// them before. kNotFound for a tenant, store, sequence, chain or prefix that is not there.
  Result<EvictReport> Evict(const EvictRequest& request);
  /// Drops all but the first planes of sealed blocks, in place, least recently used first; codes without planes stay as they
  /// are. kNotFound where there is no such store, kInvalidArgument for 0 planes.
  Result<DemoteReport> Demote(const DemoteRequest& request);
  /// Keeps the blocks of one store that are meant, and all that they continue, for so long. All pins together hold a quarter of
  /// the budget at most: kStoreFull beyond.
  Result<PinRow> Pin(const BlockFilter& filter, std::chrono::milliseconds time);
  /// kNotFound if there is no such pin, or no longer.
  Result<void> Unpin(std::uint64_t pin);
  Result<std::vector<PinRow>> Pins();
  /// What is used beyond a new limit is evicted as far as nobody holds it; nothing further is taken until it is within.
  Result<QuotaRow> SetQuota(const QuotaChange& change);
  /// Of every tenant and, behind it, of its stores.
  Result<std::vector<QuotaRow>> Quotas();
  /// Drops the store of that name, or of that identity in hexadecimal, with all its blocks; answers what went. kNotFound where
  /// there is none, kInvalidArgument, naming them, where several tenants have one and none is named, kUnavailable while
  /// sequences of it are open. Clients that have it open must open it again.
  Result<EvictReport> Drop(const std::string& store, const std::string& tenant = {});
  /// Saves sealed blocks to a file of this process's, as Store::Save does. kNotFound for a store or sequence that is not there.
  Result<SaveReport> SaveSnapshot(const std::string& path, const SnapshotSelection& selection,
                                  const SnapshotProgress& progress = {});
  /// Every connection, the oldest first, this one among them.
  Result<std::vector<ClientRow>> Clients();
  /// From now on the daemon keeps what happens for TakeEvents, some thousand events at most. kUnavailable if too many watch.
  Result<void> Watch();
  /// What has happened since Watch and was not taken yet, oldest first, some hundred at most; does not wait. kInvalidArgument
  /// before Watch.
  Result<EventBatch> TakeEvents();
  /// Asks the daemon to hand over to a new process of the program that lies at its path now; stores stay, connections end.
  /// Returns when it has heard. kUnsupported for a daemon whose memory nobody holds (kvantd --holder off).
  Result<void> Upgrade();
  /// Asks the daemon to end once the calls that wait are answered.
  /// Returns when it has heard; calls answer kDisconnected once it has ended.
  Result<void> Drain();

 private:
  struct Impl;
  explicit Admin(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvant
