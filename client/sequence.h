// An open sequence: its tail in the arena, where it stands, and, for local placement, its blocks and the tokens that the daemon
// has not been told of yet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <kvant/client.h>

#include "client/store.h"
#include "client/token_choice.h"
#include "quantizers/sequence/decode.h"
#include "quantizers/sequence/progress.h"
#include "quantizers/sequence/view.h"

namespace kvant::client {

/// Owning thread only; the caller has passed Connection::Enter.
///
/// Service placement: every advance is a call, and the daemon's answer says where the sequence stands.
///
/// Local placement: the client keeps the tokens of its advances until a block falls due, tells the daemon all of them in one
/// call that is answered when that block is encoded, and looks at the answer when the block must switch. Both sides drive a
/// quantizers::Progress through the same lengths and marks, so both read the same blocks as codes.
///
/// Unnamed tokens are the client's affair: to the daemon they are rows behind the sequence's length that calls count as its
/// own. They lie in the ring behind the named ones, and naming them is an advance whose rows are there already.
///
/// An advance whose answer is late (kDeadlineExceeded) has not grown the sequence yet: it does when the answer comes, which the
/// next call waits for (Ready).
class Sequence {
 public:
  static Result<std::shared_ptr<Sequence>> Open(std::shared_ptr<Store> store, std::span<const TokenId> tokens,
                                                const SequenceOptions& options);
  /// `length` empty: all tokens that the daemon knows of.
  static Result<std::shared_ptr<Sequence>> ForkOf(std::shared_ptr<Store> store, SequenceId source,
                                                  std::optional<std::uint64_t> length, const SequenceOptions& options);
  static Result<std::shared_ptr<Sequence>> Read(std::shared_ptr<Store> store, SequenceId source);

  /// Gives the sequence back to the daemon without waiting.
  ~Sequence();
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  [[nodiscard]] Store& store() const noexcept { return *store_; }
  [[nodiscard]] const std::shared_ptr<Store>& shared_store() const noexcept { return store_; }
  [[nodiscard]] Session& session() const noexcept { return store_->session(); }
  [[nodiscard]] const SequenceOptions& options() const noexcept { return options_; }
  [[nodiscard]] bool local() const noexcept { return options_.placement == Placement::kLocal && !read_only_; }
  [[nodiscard]] bool read_only() const noexcept { return read_only_; }
  [[nodiscard]] SequenceId id() const noexcept { return id_; }
  [[nodiscard]] std::uint64_t length() const noexcept { return named() + unnamed_; }
  [[nodiscard]] std::uint64_t named() const noexcept { return progress_.length(); }  ///< tokens whose ids are known
  [[nodiscard]] std::uint64_t unnamed() const noexcept { return unnamed_; }          ///< tokens behind those
  [[nodiscard]] std::uint64_t prefix_hit_tokens() const noexcept { return prefix_hit_tokens_; }
  [[nodiscard]] std::size_t reserved() const noexcept { return reserved_; }

  [[nodiscard]] const SequenceCounters& counters() const noexcept { return counters_; }

  // sequence_rows.cc
  struct Rows {
    TensorView keys;    ///< of layer 0
    TensorView values;  ///< of layer 0
    std::size_t layer_stride_bytes = 0;
    std::size_t tokens = 0;
    std::size_t layers = 0;
  };
  Result<Rows> Reserve(std::size_t tokens);
  [[nodiscard]] std::size_t reservable() const noexcept;
  Result<void> Append(std::size_t layer, const ConstTensorView& keys, const ConstTensorView& values);
  /// Attention has found the first `rows` reserved rows of a layer finite.
  void RowsAreFinite(std::size_t layer, std::uint64_t rows) noexcept;
  /// What local placement reads.
  [[nodiscard]] quantizers::CachedSequence Cache() const noexcept;

  // sequence_policy.cc
  Result<void> ApplyPolicy();
  Result<std::vector<std::uint64_t>> KeptTokens(std::size_t layer, std::size_t kv_head) const;
  Result<void> Keep(std::size_t layer, std::size_t kv_head, std::span<const std::uint64_t> positions);
  [[nodiscard]] TokenChoice& choice() noexcept { return choice_; }
  [[nodiscard]] std::uint64_t kept() const noexcept { return choice_.Kept(length()); }

  // sequence_copy.cc
  Result<void> CopyRows(const quantizers::RowsRequest& request);

  // sequence_state.cc
  Result<void> PutState(std::span<const std::byte> state);
  Result<StateInfo> FindState();
  Result<void> CopyState(std::span<std::byte> to);

  // sequence_advance.cc
  Result<void> Advance(std::span<const TokenId> tokens);
  Result<void> AdvanceUnnamed(std::size_t tokens);
  Result<void> Name(std::span<const TokenId> tokens);
  /// Tells the daemon all tokens it has not heard of, waits until it stands where this stands.
  Result<void> Flush(std::string_view operation);
  /// What other calls begin with: waits for an advance whose answer is late.
  Result<void> Ready(std::string_view operation);

  // sequence_marks.cc
  Result<std::shared_ptr<Sequence>> Fork(std::optional<std::uint64_t> length);
  Result<void> Trim(std::uint64_t length);
  Result<Mark> SetMark();
  Result<void> Rewind(const Mark& mark);
  Result<void> Release(const Mark& mark);

 private:
  friend class CountFor;
  explicit Sequence(std::shared_ptr<Store> store);

  Result<void> PrepareTail(const SequenceOptions& options);
  void WriteOptions(wire::SequenceOptions::Builder to) const;
  template <typename Params, typename Results>
  Result<void> CallForState(capnp::Request<Params, Results>& request, std::string_view operation);
  Result<void> Adopt(wire::SequenceState::Reader state);
  Result<void> AdoptTable(wire::BlockTable::Reader table);
  Result<void> Writable(std::string_view operation) const;
  [[nodiscard]] std::string WhyNotSealed() const;
  /// Remembers that the outcome of a call is unknown, if it is.
  Error Lose(Error error);
  /// Ends the reservation: the rows behind the length are to be reserved anew.
  void ForgetReserved() noexcept;
  /// Refuses to let rows become part of the sequence that neither Append nor attention has found finite, and that are not.
  Result<void> CheckUnseenRows(std::size_t tokens) const;
  /// The reservation has become `tokens` tokens: counts them, and ends it.
  void TakeReserved(std::uint64_t tokens) noexcept;
  /// `tokens` more tokens are named: unnamed ones, or the first reserved rows if there are none of those.
  void Grow(std::uint64_t tokens) noexcept;

  // sequence_policy.cc
  Result<void> CheckList(std::string_view operation, std::size_t layer, std::size_t kv_head) const;
  /// Refuses to drop tokens while a mark is held.
  Result<void> MayDrop(std::string_view operation) const;
  Result<void> ChooseByNewestQueries();
  Result<void> AskAgain(std::size_t layer, std::span<float> votes);
  /// The policy after tokens came.
  Result<void> KeepBudget();
  /// Says to the daemon how many tokens are kept, for its operators.
  Result<void> TellKept(std::string_view operation);

  // sequence_copy.cc
  Result<void> CopyRowsHere(const quantizers::RowsRequest& request);
  Result<void> CopyRowsInService(const quantizers::RowsRequest& request);

  // sequence_state.cc
  Result<capnp::Response<wire::Outcome<wire::StateInfo>>> GetState(std::string_view operation);

  // sequence_advance.cc
  Result<void> AdvanceLocal(std::span<const TokenId> tokens);
  Result<void> AdvanceInService(std::span<const TokenId> tokens);
  /// Sends the untold tokens and `tokens`, once the advance before has been answered.
  Result<void> SendAdvance(std::span<const TokenId> tokens, std::string_view operation);
  /// Takes the answer of the advance that is under way, if one is.
  Result<void> Settle(std::string_view operation);
  Result<void> AdoptAdvanced(wire::Advanced::Reader outcome, std::string_view operation);

  const std::shared_ptr<Store> store_;  // shared by the store's sequences
  SequenceOptions options_;
  bool read_only_ = false;
  SequenceId id_ = 0;
  SequenceCounters counters_;
  quantizers::Progress progress_;  // of the named tokens
  std::uint64_t unnamed_ = 0;
  std::uint64_t prefix_hit_tokens_ = 0;
  TokenChoice choice_;
  ArenaMemory tail_memory_;
  quantizers::Tail tail_;
  std::size_t reserved_ = 0;
  std::size_t reserved_layers_copied_ = 0;  ///< of the reserved rows, layers that Append filled
  std::vector<bool> layer_copied_;
  std::vector<std::uint64_t> finite_rows_;  ///< of each layer: so many reserved rows are known to be finite
  /// KVANT_POISON_ROWS: so many new rows behind the present length were poisoned when they were reserved.
  std::optional<std::uint64_t> poisoned_rows_;
  std::optional<Error> lost_;                                   ///< set when a call that changes the sequence had no answer
  kj::Own<Inflight<wire::Session::AdvanceResults>> advancing_;  ///< null if none is under way
  std::uint64_t told_length_ = 0;                               ///< tokens the daemon will have then
  std::optional<Error> seal_error_;                             ///< why a block could not be sealed, from the last answer

  // Local placement only.
  std::vector<std::uint32_t> untold_;       ///< the newest tokens, which the daemon has not heard of
  std::uint64_t told_due_ = 0;              ///< blocks that the daemon has been asked to seal
  std::vector<SlotView> blocks_;            ///< sealed
  std::vector<const std::byte*> payloads_;  ///< of blocks_
  std::vector<std::uint8_t> sections_;      ///< of blocks_
  std::optional<SlotView> sinks_;
};

/// What the session counts while this lives counts for the sequence too.
class CountFor {
 public:
  explicit CountFor(Sequence& sequence) noexcept : sequence_(sequence), before_(sequence.session().counters()) {}
  ~CountFor() {
    const ClientCounters& now = sequence_.session().counters();
    SequenceCounters& own = sequence_.counters_;
    own.attend_calls += now.attend_calls - before_.attend_calls;
    own.tokens_advanced += now.tokens_advanced - before_.tokens_advanced;
    own.bytes_copied += now.bytes_copied - before_.bytes_copied;
    own.bytes_zero_copy += now.bytes_zero_copy - before_.bytes_zero_copy;
  }
  CountFor(const CountFor&) = delete;
  CountFor& operator=(const CountFor&) = delete;

 private:
  Sequence& sequence_;
  const ClientCounters before_;
};

/// kInvalidArgument for ids that are no tokens.
[[nodiscard]] Result<void> CheckTokens(std::span<const TokenId> tokens, std::string_view operation);

}  // namespace kvant::client
