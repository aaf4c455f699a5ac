// The client library: what an inference process links. No kj, capnp, boost, highway or spdlog type appears here.
//
//   auto client = kvant::Client::Connect("unix:/run/kvant/kvantd.sock").value();
//   auto store = client.OpenStore(spec).value();
//   auto sequence = store.Open(prompt_tokens, {}).value();        // already holds the longest shared prefix
//   for (;;) {
//     auto rows = sequence.Reserve(n).value();                    // raw rows in shared memory, for every layer
//     for (layer...) {
//       ... write rows.Keys(layer), rows.Values(layer) ...        // zero copy; or sequence.Append(layer, k, v)
//       sequence.Attend(layer, {.q = q, .out = out, .scale = s}); // over everything cached and the rows just written
//     }
//     sequence.Advance(tokens);                                   // the rows become part of the sequence
//   }
//
// Threads: a Client and all that was opened from it belong to the thread that connected (kWrongThread otherwise); several
// clients in several threads are fine, and Client::ForThisThread makes one of the same daemon in a worker thread. Accessors and
// destructors may run in any thread: what is destroyed elsewhere is given back when the connecting thread next calls the
// library, or at once if that thread has ended. The library runs a kj event loop in the connecting thread while a call waits (a
// host with a kj loop of its own connects from another thread), keeps one background thread per client, and ignores SIGPIPE for
// the process. After fork() the child's copies are inert: calls answer kDisconnected, destructors do nothing, and nothing
// reaches the parent's connection; the child connects anew from a new thread. (Tensor memory stays shared with the parent: a
// child must not write there.) Lifetimes: Store, Sequence, Tensor keep the connection alive; destroying a Sequence gives its
// blocks back to the store, where they stay for others until evicted. Errors: every call that can fail returns Result; every
// call that waits has a deadline (ClientOptions::deadline). Debugging: KVANT_POISON_ROWS=1 in the environment marks rows as
// unwritten when they are reserved; Attend and Advance then name the layer, KV head and position of a row that the engine
// forgot to write, which otherwise holds what the ring held before.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/export.h>
#include <kvant/result.h>
#include <kvant/rope.h>
#include <kvant/snapshot.h>
#include <kvant/store_spec.h>
#include <kvant/tensor.h>

namespace kvant::client {
class Sequence;
class Session;
class Store;
struct ArenaTensor;
}  // namespace kvant::client

namespace kvant {

/// Token ids as engines hold them. Ids outside 0..2^32-1 are refused with kInvalidArgument.
using TokenId = std::int64_t;

/// The frequencies and the attention factor that kvant computes from a store's rotary positions, in double: for an engine to
/// use as they are, or to hold its own against. kInvalidArgument names the field that is out of range or inconsistent.
KVANT_API Result<RopeFrequencies> ComputeRopeFrequencies(const RopeSpec& spec, std::uint32_t head_dim);

/// Names a live sequence across processes.
using SequenceId = std::uint64_t;

/// Where attention runs. Both give the same bits. With kLocal the daemon hears of new tokens once per block: until then forks
/// and reads by other processes see the sequence as it was (Fork, Trim and SetMark of its own owner tell the daemon first).
/// On processors with AMX, attention of many tokens asks Linux once to let this process use it; sigaltstack(2) then wants some
/// 8 KiB more. KVANT_AMX=0 in the environment forgoes it.
enum class Placement : std::uint8_t {
  kService,  ///< in the daemon: one round trip per call
  kLocal,    ///< in the calling thread (and ClientOptions::threads helpers), over the read-only mapping: no round trip
};

struct ClientOptions {
  std::string name{};                         ///< shown to operators; empty: the program's name
  std::chrono::milliseconds deadline{30000};  ///< of every call that waits
  /// How long to look out for an answer before sleeping; 0: sleep at once. Spares a wake-up where the daemon has a core of its
  /// own and answers within this time. Where it does not (few cores, long contexts) the library soon spins seldom by itself.
  std::chrono::microseconds spin{50};
  std::size_t arena_bytes = std::size_t{256} << 20;  ///< address space of the arena; pages are used as they are touched
  std::size_t threads = 1;                           ///< local placement: threads of attention, the caller's included
  std::size_t embedded_budget_bytes = std::size_t{512} << 20;  ///< `embedded:` only: budget of the daemon inside
};

struct DaemonInfo {
  std::string version;
  std::uint64_t boot_token = 0;  ///< differs between any two daemon processes
  std::uint64_t pid = 0;
  std::uint64_t budget_bytes = 0;
  std::uint32_t protocol_version = 0;
  std::uint32_t segment_layout_version = 0;
};

/// What this client did, since it connected. `bytes_copied` counts tensor bytes copied by the library or, for it, by the
/// daemon.
struct ClientCounters {
  std::uint64_t rpc_calls = 0;
  std::uint64_t attend_calls = 0;
  std::uint64_t tokens_advanced = 0;
  std::uint64_t bytes_copied = 0;
  std::uint64_t bytes_zero_copy = 0;  ///< tensor bytes that were written in place by the engine
};

/// What the calls on one sequence did: what an engine reports of a request. In the same units as ClientCounters; how many
/// tokens need not be computed at all, Sequence::prefix_hit_tokens says.
struct SequenceCounters {
  std::uint64_t attend_calls = 0;
  std::uint64_t tokens_advanced = 0;
  std::uint64_t bytes_copied = 0;
  std::uint64_t bytes_zero_copy = 0;
};

struct SequenceOptions {
  Placement placement = Placement::kService;
  /// Newest tokens that stay raw. A block is encoded once all its tokens are older than these.
  std::uint32_t recent_tokens = 64;
  /// Most tokens of one step (Reserve); with recent_tokens and block_tokens it sizes the tail, which has room for two of them.
  std::uint32_t max_step_tokens = 512;
  ElementType tail_type = ElementType::kF16;  ///< element type of raw rows
  std::string label{};                        ///< shown to operators
  /// Room in the tail for so many tokens without ids (AdvanceUnnamed) beside a step.
  std::uint32_t unnamed_tokens = 0;
  /// Store::Open: of the sealed prefixes, the longest at whose end a state stands (Sequence::PutState); none without a state.
  bool want_state = false;
  /// 0 to 3: how much longer than others' the blocks stay that this sequence finds and seals, once nobody uses them and room is
  /// needed. It wears off as the cache is used (ADR 0038). kInvalidArgument beyond.
  std::uint8_t priority = 0;
  /// Which tokens this sequence attends; the blocks that it shares stay whole for others, and tokens keep their positions.
  ///   ""        all of them
  ///   "window:tokens=4096,sinks=4,min=0"   the newest `tokens` and the first `sinks` (StreamingLLM)
  ///   "snapkv:budget=2048,window=32,kernel=7,pool=max,sinks=4,min=0"   at ApplyPolicy, per layer and KV head: what the newest
  ///             `window` tokens' queries attended most, those tokens and the first `sinks`, `budget` in all
  ///   "h2o:budget=2048,recent=1024,sinks=0,min=0"   from ApplyPolicy on, after every advance: what all queries since the
  ///   sequence
  ///             was opened attended most, the newest `recent` tokens and the first `sinks`, `budget` in all
  /// Numbers that are left out are those. Up to `min` tokens nothing is dropped. kInvalidArgument names what does not fit.
  /// Lists, votes (h2o: 4 bytes per token, layer and KV head) and queries (snapkv: 4 * window * q_heads * head_dim bytes a
  /// layer) lie in the arena.
  std::string policy{};
};

/// Sizes of one open store.
struct StoreInfo {
  std::string name;
  std::string identity;                   ///< hex digest
  bool created = false;                   ///< by this OpenStore
  bool relabelled = false;                ///< the name meant a store of another identity until now
  std::uint64_t block_bytes = 0;          ///< of one sealed block, header and padding included
  std::uint64_t logical_block_bytes = 0;  ///< the same tokens as f16
  double key_bits_per_element = 0;        ///< side information included, mean over layers
  double value_bits_per_element = 0;
  /// What the daemon has found wrong with the store so far, in a sentence; empty for nothing. It may come with any Advance: the
  /// keys of some models share a mean that codecs without centring cannot serve.
  std::string warning;
};

/// A tensor in the arena: memory that the daemon sees too. Freed on destruction. Movable.
class KVANT_API Tensor {
 public:
  Tensor(Tensor&&) noexcept;
  Tensor& operator=(Tensor&&) noexcept;
  ~Tensor();

  /// [tokens, heads, dim], contiguous in that order.
  [[nodiscard]] const TensorView& view() const noexcept;
  [[nodiscard]] float* f32() noexcept;  ///< Requires: type kF32.

 private:
  friend class Client;
  explicit Tensor(std::shared_ptr<client::ArenaTensor> state);
  std::shared_ptr<client::ArenaTensor> state_;
};

/// One call of attention for one layer. Tensors may lie anywhere; those in the arena are used in place, others are copied
/// through it in service placement (and the counters say so).
struct AttendArgs {
  ConstTensorView q{};                 ///< [tokens, q_heads, head_dim]; q_heads a multiple of kv_heads
  TensorView out{};                    ///< [tokens, q_heads, head_dim]
  float* lse = nullptr;                ///< [tokens, q_heads]: natural log of the softmax denominator; null if not wanted
  const float* sink_logits = nullptr;  ///< [q_heads] learned attention sinks; null for none
  float scale = 0.0f;                  ///< multiplies q.k; required
  float softcap = 0.0f;                ///< 0: off
  std::uint32_t window = 0;            ///< sliding window in tokens; 0: unlimited
};

/// Raw rows for the next tokens of a sequence, in the arena: write them in place, layer by layer.
class KVANT_API NewRows {
 public:
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::size_t layers() const noexcept { return layers_; }
  /// [tokens, kv_heads, head_dim] of SequenceOptions::tail_type; heads are far apart, tokens adjacent. Keys are written after
  /// RoPE, or before it where StoreSpec::key_stage says so: kvant cannot tell the two apart. Queries always come after RoPE.
  [[nodiscard]] TensorView Keys(std::size_t layer) const noexcept;
  [[nodiscard]] TensorView Values(std::size_t layer) const noexcept;

 private:
  friend class Sequence;
  TensorView first_keys_;
  TensorView first_values_;
  std::size_t layer_stride_bytes_ = 0;
  std::size_t tokens_ = 0;
  std::size_t layers_ = 0;
};

/// A point a sequence can be rewound to exactly. Valid until released, rewound past, or the sequence ends.
struct Mark {
  std::uint64_t length = 0;
};

/// An engine's state that a sequence holds.
struct StateInfo {
  std::uint64_t length = 0;  ///< tokens behind which it stands
  std::uint64_t bytes = 0;
};

/// Tokens of one conversation: sealed blocks shared with others, and an open tail of its own.
class KVANT_API Sequence {
 public:
  Sequence(Sequence&&) noexcept;
  Sequence& operator=(Sequence&&) noexcept;
  ~Sequence();  ///< closes the sequence

  [[nodiscard]] SequenceId id() const noexcept;
  [[nodiscard]] std::uint64_t length() const noexcept;             ///< tokens held (advanced); of a reader: when it was opened
  [[nodiscard]] std::uint64_t unnamed() const noexcept;            ///< of those, the newest whose ids are not known yet
  [[nodiscard]] std::uint64_t prefix_hit_tokens() const noexcept;  ///< of those, found already sealed at Open
  [[nodiscard]] bool read_only() const noexcept;                   ///< opened with Store::Read
  [[nodiscard]] SequenceCounters counters() const noexcept;        ///< since it was opened
  /// How many of length() tokens the newest one's queries attend under SequenceOptions::policy, mean over layers and KV heads.
  [[nodiscard]] std::uint64_t kept() const noexcept;

  /// Rows for exactly the next `tokens` tokens, of every layer. Reserving again before Advance gives the same rows, from the
  /// first one on. kOutOfRange for more than max_step_tokens; kTailFull where the tail has no room for so many now: its rows
  /// hold tokens that could not be sealed.
  Result<NewRows> Reserve(std::size_t tokens);
  /// The most tokens that Reserve gives now: max_step_tokens, unless a held mark, a full store or more unnamed tokens than
  /// SequenceOptions::unnamed_tokens keep blocks from being sealed. Never less than one step of max_step_tokens otherwise.
  [[nodiscard]] std::size_t reservable() const noexcept;

  /// Copies keys and values [tokens, kv_heads, head_dim] of the reserved tokens into their rows, from any memory, element type
  /// and strides. One copy (counted). kNotFinite if a number is NaN, infinite or overflows the tail's type.
  Result<void> Append(std::size_t layer, const ConstTensorView& keys, const ConstTensorView& values);

  /// Attention of the reserved tokens' queries over everything before them and the first q.tokens reserved rows of this layer,
  /// which must be written by now. The queries stand at positions length() .. length() + q.tokens; q.tokens <= reserved tokens.
  /// With no rows reserved (a reader, or a probe): q stands at length() and sees length() tokens, itself not among them.
  /// kNotFinite if a query or a new row holds NaN or infinity, or if the result does (numbers whose products or sums go beyond
  /// f32, values beyond out's type); out is then meaningless. kDisconnected, local placement: the daemon has given up on this
  /// client (it was stopped for longer than the lease), out is then meaningless.
  Result<void> Attend(std::size_t layer, const AttendArgs& args);

  /// Append and Attend in one call.
  Result<void> Step(std::size_t layer, const ConstTensorView& keys, const ConstTensorView& values, const AttendArgs& args);

  /// Makes `tokens.size()` reserved tokens part of the sequence (every layer's rows must be written) and seals blocks that
  /// have left the recent window. Reserved rows beyond them are given up: all of them if there are no tokens. kStoreFull: the
  /// tokens are part of the sequence and attention over them works, but a block could not be sealed; free memory or stop before
  /// the tail is full. kNotFinite: a row that neither Append nor Attend has seen holds NaN or infinity. After that and any
  /// other error length() is as before; kDeadlineExceeded leaves open whether the advance takes effect, and the next call
  /// tells.
  Result<void> Advance(std::span<const TokenId> tokens);

  /// Makes `tokens` reserved tokens part of the sequence whose ids the engine does not know yet. They are attended, copied,
  /// trimmed and forked like others, but stay raw, and nobody else sees them, until Name; a sequence that ends before loses
  /// them. Errors as Advance. No call to the daemon.
  Result<void> AdvanceUnnamed(std::size_t tokens);
  /// Gives the oldest unnamed tokens their ids and seals blocks as Advance does, whose errors it has. What is reserved stays.
  /// Named tokens come before unnamed ones: Advance is refused (kInvalidArgument) until all are named, as is SetMark.
  Result<void> Name(std::span<const TokenId> tokens);

  /// Drops tokens as SequenceOptions::policy says: snapkv chooses among those that are still kept, h2o begins to hold its
  /// budget. Call it when a prompt has been read (advanced). Nothing for other policies or up to their budget or `min`. Fewer
  /// queries than snapkv's `window` choose alone where the tokens before them were found sealed. What is dropped stays dropped,
  /// for this sequence and forks of it by Fork; Trim, too, brings nothing back. kInvalidArgument while a mark is held, or if
  /// snapkv knows no query. On an error nothing was dropped.
  Result<void> ApplyPolicy();
  /// Positions that the newest token's queries of a KV head attend, ascending. Works after the connection has ended, too.
  [[nodiscard]] Result<std::vector<std::uint64_t>> KeptTokens(std::size_t layer, std::size_t kv_head) const;
  /// A choice of the engine's own: of the tokens there are, this KV head attends only `positions` (ascending, at least one) of
  /// those that it did before, and all that come. kInvalidArgument while a mark is held, or with a window policy.
  Result<void> Keep(std::size_t layer, std::size_t kv_head, std::span<const std::uint64_t> positions);

  /// Copies the rows of positions [first, first + count) of one layer, as attention reads them, to `keys` and `values`:
  /// [count, kv_heads, head_dim] of any element type and strides, in any memory; a view without data is a side that is not
  /// wanted. Raw rows and sinks come as they were written, those of sealed blocks that attention reads as codes decoded, and
  /// keys of StoreSpec::key_stage. Any positions below length(), of a reader below its source's length. In service placement
  /// copied in pieces: of a reader they need not be of one moment. kOutOfRange beyond the sequence, kNotFinite if a number goes
  /// beyond a tensor's type, kDisconnected as Attend; the tensors are then garbage.
  Result<void> CopyRows(std::size_t layer, std::uint64_t first, std::size_t count, const TensorView& keys,
                        const TensorView& values);

  /// Keeps an engine's private bytes at the present length: what its recurrent layers hold behind these tokens, say. length()
  /// must be a positive multiple of StoreSpec::block_tokens, since the state goes with the block that ends there: forks and
  /// whoever opens the prefix with want_state find it, a trim below drops it from this sequence, the block's eviction ends it.
  /// Where a state stands already it stays: the same tokens make the same state. 1 .. 2^28 bytes, in any memory, charged to the
  /// daemon's budget. kInvalidArgument for another length, size or unnamed tokens, kStoreFull if there is no room; nothing
  /// changed then.
  Result<void> PutState(std::span<const std::byte> state);
  /// The newest state that this sequence holds; kNotFound if it holds none. An engine whose layers need it trims to its length
  /// and computes the tokens behind it again.
  Result<StateInfo> FindState();
  /// Copies that state to `to`, whose size must be its bytes. kCorrupt if its checksum differs.
  Result<void> CopyState(std::span<std::byte> to);

  /// Drops tokens from the end; new length `length`. Inside a sealed block the rows that stay are decoded back into the tail.
  Result<void> Trim(std::uint64_t length);

  /// Marks the present length. While a mark is held nothing newer is sealed, so Rewind restores this point exactly.
  Result<Mark> SetMark();
  Result<void> Rewind(const Mark& mark);
  Result<void> Release(const Mark& mark);

  /// Copy-on-write copy at `length` tokens (default: all): blocks are shared, tail rows copied. Same options as this sequence.
  Result<Sequence> Fork(std::optional<std::uint64_t> length = std::nullopt);

 private:
  friend class Client;
  friend class Store;
  explicit Sequence(std::shared_ptr<client::Sequence> state);
  std::shared_ptr<client::Sequence> state_;
};

/// An open store.
class KVANT_API Store {
 public:
  Store(Store&&) noexcept;
  Store& operator=(Store&&) noexcept;
  ~Store();

  [[nodiscard]] const StoreInfo& info() const noexcept;

  /// A sequence that already holds the longest sealed prefix of `tokens` (whole blocks). To get the logits of the last prompt
  /// token an engine passes all tokens but the last. Empty `tokens`: a new, empty sequence.
  Result<Sequence> Open(std::span<const TokenId> tokens, const SequenceOptions& options);

  /// Copy-on-write fork of a live sequence of any process that has this store open.
  Result<Sequence> Fork(SequenceId source, std::optional<std::uint64_t> length, const SequenceOptions& options);

  /// A reader of another process's live sequence: Attend sees what its owner has advanced. Service placement.
  Result<Sequence> Read(SequenceId source);

  /// Saves the store's sealed blocks to a file, which is there whole or as it was before: others go on meanwhile. With a
  /// `sequence` (of any client) only the blocks that it holds. Raw rows, the newest tokens, are not saved. kUnavailable if
  /// another process writes that file now, kSystem for a full disk and the like. Of memory it takes about 100 bytes per block
  /// and 4 per token.
  Result<SaveReport> Save(const std::string& path, std::optional<SequenceId> sequence = std::nullopt,
                          const SnapshotProgress& progress = {});
  /// Restores this store's blocks from a file; others in it are left out. All or nothing; what the store has already is kept.
  /// kIdentityMismatch if the file holds no store of this identity, kCorrupt names a damaged block, kStoreFull says how many
  /// bytes are missing. Takes two pieces of 4 MiB (or two blocks) in the arena, and memory as Save does.
  Result<RestoreReport> Load(const std::string& path, const SnapshotProgress& progress = {});

 private:
  friend class Client;
  friend class PromptCache;
  explicit Store(std::shared_ptr<client::Store> state);
  std::shared_ptr<client::Store> state_;
};

/// Attention of one layer for several sequences of one client in one call.
struct AttendBatchItem {
  Sequence* sequence = nullptr;
  AttendArgs args;
};

/// A connection to a daemon, or a daemon inside this process.
class KVANT_API Client {
 public:
  /// `uri`: "unix:PATH" or "PATH" for a daemon's socket, "embedded:" for a daemon inside this process.
  static Result<Client> Connect(std::string_view uri, const ClientOptions& options = {});

  /// A new client of the same daemon, `embedded:` included, with the same options, for the calling thread: how worker threads
  /// share stores and prefixes. May be called in any thread while this client is not moved from or destroyed; what is opened
  /// from it belongs to the calling thread. kDisconnected in a forked child, where there is no embedded daemon.
  Result<Client> ForThisThread() const;

  /// After kDisconnected: connects to the daemon that answers at the same address now, trying until one does or the deadline
  /// has passed (then the last error). This client is as new then, counters included. Stores, sequences and tensors that were
  /// opened before stay what they are: calls on them answer kDisconnected. Open them again with the same specs and tokens; of a
  /// daemon that was restarted with its memory (kvantd --holder) the sealed prefix is there. On an error nothing has changed.
  Result<void> Reconnect();

  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  [[nodiscard]] const DaemonInfo& daemon() const noexcept;
  Result<std::chrono::nanoseconds> Ping();
  Result<Store> OpenStore(const StoreSpec& spec);

  /// Restores every store of a snapshot, all or nothing, as Store::Load does. `name`: what the store is called from now on, for
  /// a file of one store; empty: as it was called. kIdentityMismatch if this daemon would make another plan of a store's
  /// codecs.
  Result<RestoreReport> RestoreSnapshot(const std::string& path, const std::string& name = {},
                                        const SnapshotProgress& progress = {});

  /// Memory in the arena for q, k, v and outputs: [tokens, heads, dim], contiguous, zeroed.
  Result<Tensor> Allocate(std::size_t tokens, std::size_t heads, std::size_t dim, ElementType type = ElementType::kF32);

  /// One layer, several sequences (all of this client, one placement): one round trip, blocks they share are read once.
  Result<void> AttendBatch(std::size_t layer, std::span<const AttendBatchItem> items);

  [[nodiscard]] ClientCounters counters() const noexcept;

 private:
  explicit Client(std::shared_ptr<client::Session> session);
  std::shared_ptr<client::Session> session_;
};

}  // namespace kvant
