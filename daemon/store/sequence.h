// The tokens of one conversation: a table of sealed blocks that are shared, and an open tail of raw rows of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <kvant/result.h>

#include "daemon/memory/tail.h"
#include "daemon/store/core.h"
#include "daemon/store/state_slot.h"
#include "daemon/store/stats.h"
#include "daemon/store/store.h"
#include "protocol/block_format.h"
#include "quantizers/sequence/progress.h"
#include "quantizers/sequence/view.h"

namespace kvant::daemon {

struct SealJob;

struct SequenceConfig {
  std::uint32_t recent_tokens = 64;
  std::uint32_t max_step_tokens = 512;
  std::string client;    ///< shown to operators
  std::string label;     ///< shown to operators
  std::string policy{};  ///< which tokens its owner attends: shown to operators
  /// Open: the longest sealed prefix at whose end a state stands.
  bool want_state = false;
  /// Of the blocks that it finds and seals, 0..kMaxPriority: the larger, the longer they stay once nobody uses them
  /// (retention.h).
  std::uint32_t priority = 0;
};

/// A state on its way into a sequence: its slot and what the slot's header says.
struct NewState {
  std::uint64_t block = 0;          ///< at whose end it stands
  std::shared_ptr<StateSlot> slot;  ///< null if there is a state already
  protocol::BlockInfo info;
  std::vector<std::uint32_t> tokens;  ///< of the block
};

/// A state that a sequence holds, behind `length` tokens.
struct StateAt {
  std::uint64_t length = 0;
  std::shared_ptr<const StateSlot> slot;
};

/// Where a sequence stands after an advance.
struct Advanced {
  std::uint64_t length = 0;
  std::uint64_t switched_blocks = 0;  ///< that attention reads as codes; raw rows begin at switched_blocks * block_tokens
  std::uint64_t sealed_blocks = 0;    ///< encoded and held by this sequence, >= switched_blocks
  /// kStoreFull, kNotFinite or kSystem: a block that this advance waited for could not be sealed. The tokens are part of
  /// the sequence, their rows stay raw, attention over them works. A full store is tried again with every advance; a row that
  /// is not finite stays refused until the sequence is trimmed below its block.
  std::optional<Error> seal_error;
};

/// What an advance waits for.
enum class SealWait : std::uint8_t {
  kSwitched,  ///< blocks that must be read as codes at this length (quantizers/sequence/schedule.h)
  kDue,       ///< all blocks whose encoding has begun
};

/// Owned by a session. Holds a lease on each of its blocks; closing it (destruction) gives them back, and abandons encodings
/// that run. Loop thread only.
///
/// Advance and Release may leave the sequence waiting for blocks to be encoded. Until settled() every other call (Attend's view
/// included) must wait: WhenSettled. The order of tokens and the lengths alone decide what is read as codes.
///
/// Invariant: tail rows of positions [tail_first_position, length) are this sequence's; they never exceed the tail's capacity.
/// quantizers::Progress has the rules of lengths, marks and switches.
class Sequence {
 public:
  using Done = std::function<void(Result<Advanced>)>;

  /// A sequence that already holds the longest sealed prefix of `tokens`, in whole blocks, or of those the longest at whose end
  /// a state stands. kInvalidArgument if the tail does
  /// not fit the store or the options, kStoreFull if the budget has no room for its records.
  static Result<std::unique_ptr<Sequence>> Open(std::shared_ptr<Store> store, std::span<const std::uint32_t> tokens,
                                                TailView tail, const SequenceConfig& config);

  /// Copy-on-write copy of `source` at `length` tokens. Blocks are shared, raw rows copied into `tail` (decoded where `length`
  /// lies inside a sealed block). kOutOfRange beyond the source's length, kTailFull if the raw rows do not fit `tail`.
  /// Requires: source.settled().
  static Result<std::unique_ptr<Sequence>> Fork(const Sequence& source, std::uint64_t length, TailView tail,
                                                const SequenceConfig& config);
  ~Sequence();
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
  [[nodiscard]] Store& store() const noexcept { return *store_; }
  [[nodiscard]] const SequenceConfig& config() const noexcept { return config_; }
  [[nodiscard]] const TailView& tail() const noexcept { return tail_; }
  [[nodiscard]] std::uint64_t length() const noexcept { return progress_.length(); }
  [[nodiscard]] std::uint64_t prefix_hit_tokens() const noexcept { return prefix_hit_tokens_; }
  [[nodiscard]] std::uint64_t switched_blocks() const noexcept { return progress_.switched_blocks(); }
  [[nodiscard]] std::uint64_t sealed_blocks() const noexcept { return blocks_.size(); }
  /// First position whose row is raw.
  [[nodiscard]] std::uint64_t tail_first_position() const noexcept { return progress_.tail_first_position(); }
  /// Rows that may still be written behind length().
  [[nodiscard]] std::uint64_t free_rows() const noexcept { return tail_.layout.capacity - progress_.raw_tokens(); }
  /// Counts what allows raw rows to be written again: switches and trims.
  [[nodiscard]] std::uint64_t rewrites() const noexcept { return rewrites_; }
  /// Sealed blocks in order; the first switched_blocks() of them are read as codes.
  [[nodiscard]] std::span<Block* const> blocks() const noexcept { return blocks_; }

  /// What attention reads of it, `unnamed` rows behind length() as if they were its own. Valid until the sequence changes.
  /// Requires: unnamed <= free_rows().
  [[nodiscard]] quantizers::CachedSequence Cache(std::uint64_t unnamed = 0) const noexcept;

  /// Makes the rows behind length() part of the sequence, begins to seal blocks that fell due and calls `done` once: from
  /// inside the call if nothing has to be waited for, else from the loop when encodings have ended. kTailFull,
  /// kInvalidArgument: nothing changed. Empty `tokens`: tries again what could not be sealed. May be called while not
  /// settled(): answers come in order. If the sequence is closed first, `done` gets kNotFound.
  void Advance(std::span<const std::uint32_t> tokens, SealWait wait, Done done);

  [[nodiscard]] bool settled() const noexcept { return waiters_.empty(); }
  /// Calls `ready` once settled(): from inside the call, or later from the loop; also when the sequence is closed first.
  void WhenSettled(std::function<void()> ready);

  /// Drops tokens from the end. Inside a sealed block the rows that stay are decoded into the tail. Marks beyond are dropped,
  /// and all of them if a block that is read as codes goes. kOutOfRange beyond length(); on any error nothing changed.
  /// Requires: settled().
  Result<void> Trim(std::uint64_t length);

  /// Before a sequence is closed: lets go of all marks and calls `done` once every block that is due is sealed or has no room,
  /// also when the sequence is closed first. What is closed without this abandons its encodings, and counts the blocks that
  /// were due and are lost.
  void FinishSealing(std::function<void()> done);

  /// Marks the present length and returns it. While a mark is held no block switches and no encoding begins. kOutOfRange beyond
  /// Progress::kMaxMarks. Requires: settled().
  Result<std::uint64_t> SetMark();
  /// Back to the mark: the same block table, the same tail bytes. The mark stays held, later ones are dropped. kNotFound if no
  /// such mark is held. Requires: settled().
  Result<void> Rewind(std::uint64_t mark);
  /// Lets go of a mark. When it was the last, sealing goes on: `done` as in Advance. kNotFound if no such mark is held.
  void Release(std::uint64_t mark, Done done);
  [[nodiscard]] std::span<const std::uint64_t> marks() const noexcept { return progress_.marks(); }

  /// Room for a state at the present end, charged; KeepState makes it the sequence's once it is written. kInvalidArgument
  /// unless length() is a positive multiple of block_tokens and 1 <= bytes <= kMaxStateBytes, kStoreFull if there is no room.
  /// Requires: settled().
  Result<NewState> ReserveState(std::uint64_t bytes);
  /// Requires: the sequence has not been trimmed since. Where a state stands already it stays.
  void KeepState(std::uint64_t block, std::shared_ptr<const StateSlot> state);
  /// The state behind most tokens; none if there is none.
  [[nodiscard]] std::optional<StateAt> NewestState() const;

  /// What the owner says of its policy: how many tokens it attends.
  void NoteKept(std::uint64_t tokens) noexcept { kept_tokens_ = tokens; }

  [[nodiscard]] SequenceFigures Figures() const;
  /// Lists sealed blocks from number `first_block` on and verifies their checksums, which reads them: about `most_bytes` of
  /// them, at least one.
  [[nodiscard]] SequenceDetail Inspect(std::uint64_t first_block, std::uint64_t most_bytes) const;

 private:
  struct Seal;  // one block on its way: being encoded, encoded, or failed
  struct Waiter {
    std::uint64_t sealed = 0;     // blocks that must be sealed
    std::uint64_t switch_to = 0;  // blocks that switch then
    Done done;                    // null: a WhenSettled
    std::function<void()> ready;
  };
  enum class DecodePass : std::uint8_t { kCheck, kStore };

  Sequence(std::shared_ptr<Store> store, TailView tail, const SequenceConfig& config);

  static Result<void> CheckTail(const Store& store, const TailView& tail, const SequenceConfig& config);
  /// A sequence without tokens that holds `blocks`, all switched.
  static Result<std::unique_ptr<Sequence>> Make(std::shared_ptr<Store> store, std::span<Block* const> blocks, TailView tail,
                                                const SequenceConfig& config);
  Result<void> Lease(Block& block);
  Result<std::uint64_t> DecodeRows(const Block& block, std::uint64_t rows, const quantizers::Tail& to, DecodePass pass) const;
  void DropBlocks(std::size_t keep);

  // sequence_states.cc
  [[nodiscard]] std::shared_ptr<const StateSlot> StateOf(std::uint64_t block) const;
  void MoveStateTo(Block& sealed, std::uint64_t block);

  // sequence_sealing.cc
  void Continue(SealWait wait, Done done);
  void StartSeals(std::uint64_t due);
  bool StartSeal(Seal& seal);
  void SealEnded(const SealJob* job, Result<void> outcome);
  void LinkFinished();
  void DropSeals(std::uint64_t from_block);
  void SwitchUpTo(std::uint64_t blocks);
  void AnswerWaiters();
  [[nodiscard]] const protocol::Digest& ChainOf(std::uint64_t block) const;
  [[nodiscard]] std::span<const std::uint32_t> RawTokens(std::uint64_t block) const;

  const std::shared_ptr<Store> store_;
  const TailView tail_;
  const SequenceConfig config_;
  std::uint64_t id_ = 0;
  Charge charge_;
  std::vector<Charge> block_charges_;       // one per entry of blocks_
  std::vector<Block*> blocks_;              // leased
  std::vector<const std::byte*> payloads_;  // of blocks_
  std::vector<std::uint8_t> sections_;      // of blocks_
  quantizers::Progress progress_;
  std::uint64_t prefix_hit_tokens_ = 0;
  std::uint64_t rewrites_ = 0;
  std::optional<std::uint64_t> kept_tokens_;                          // nothing heard: all
  std::vector<std::uint32_t> tail_tokens_;                            // of positions [tail_first_position, length)
  std::deque<std::unique_ptr<Seal>> seals_;                           // of blocks blocks_.size(), +1, ...
  std::map<std::uint64_t, std::shared_ptr<const StateSlot>> states_;  // by block, of blocks that are not sealed
  std::deque<Waiter> waiters_;
  std::shared_ptr<Sequence*> self_;  // null inside once the sequence is gone; jobs hold it weakly
};

/// A reader of a live sequence of any session: sees what the owner has advanced. Owned by a session; loop thread.
class Reader {
 public:
  /// kStoreFull if the budget has no room for its record.
  static Result<std::unique_ptr<Reader>> Open(Sequence& source, std::string client);
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
  /// kNotFound once the owner has closed the sequence.
  [[nodiscard]] Result<Sequence*> source() const;
  [[nodiscard]] SequenceFigures Figures() const;

  [[nodiscard]] Store& store() const noexcept { return *store_; }

 private:
  Reader(Sequence& source, std::string client, Charge charge);

  const std::shared_ptr<Store> store_;
  const std::uint64_t source_id_;
  const std::string client_;
  const Charge charge_;
  std::uint64_t id_ = 0;
};

}  // namespace kvant::daemon
