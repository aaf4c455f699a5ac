// What an open Sequence is: its tail in the arena, where it stands, and, for local placement, its blocks and the tokens that
// the daemon has not been told of yet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <kvant/client.h>

#include "client/store_state.h"
#include "quantizers/sequence/ring.h"
#include "quantizers/sequence/schedule.h"

namespace kvant::client {

/// Owning thread only; the caller has passed Connection::Enter.
///
/// Local placement: the client keeps the tokens of its advances until a block falls due, tells the daemon all of them in one
/// call that is answered when that block is encoded, and looks at the answer when the block must switch. Both sides evaluate
/// quantizers::ScheduledSeals on the same lengths, so both read the same blocks as codes.
class SequenceState {
 public:
  static Result<std::shared_ptr<SequenceState>> Open(std::shared_ptr<StoreState> store, std::span<const TokenId> tokens,
                                                     const SequenceOptions& options);
  /// `length` empty: all tokens.
  static Result<std::shared_ptr<SequenceState>> ForkOf(std::shared_ptr<StoreState> store, SequenceId source,
                                                       std::optional<std::uint64_t> length, const SequenceOptions& options);
  static Result<std::shared_ptr<SequenceState>> Read(std::shared_ptr<StoreState> store, SequenceId source);

  /// Gives the sequence back to the daemon without waiting.
  ~SequenceState();
  SequenceState(const SequenceState&) = delete;
  SequenceState& operator=(const SequenceState&) = delete;

  [[nodiscard]] StoreState& store() const noexcept { return *store_; }
  [[nodiscard]] const std::shared_ptr<StoreState>& shared_store() const noexcept { return store_; }
  [[nodiscard]] Session& session() const noexcept { return store_->session(); }
  [[nodiscard]] const SequenceOptions& options() const noexcept { return options_; }
  [[nodiscard]] bool local() const noexcept { return options_.placement == Placement::kLocal && !read_only_; }
  [[nodiscard]] bool read_only() const noexcept { return read_only_; }
  [[nodiscard]] SequenceId id() const noexcept { return id_; }
  [[nodiscard]] std::uint64_t length() const noexcept { return length_; }
  [[nodiscard]] std::uint64_t prefix_hit_tokens() const noexcept { return prefix_hit_tokens_; }
  [[nodiscard]] std::size_t reserved() const noexcept { return reserved_; }

  struct Rows {
    TensorView keys;    ///< of layer 0
    TensorView values;  ///< of layer 0
    std::size_t layer_stride_bytes = 0;
    std::size_t tokens = 0;
  };
  Result<Rows> Reserve(std::size_t tokens);
  Result<void> Append(std::size_t layer, const ConstTensorView& keys, const ConstTensorView& values);
  Result<void> Advance(std::span<const TokenId> tokens);
  Result<void> Trim(std::uint64_t length);
  Result<Mark> SetMark();
  Result<void> Rewind(const Mark& mark);
  Result<void> Release(const Mark& mark);

  /// Tells the daemon all tokens it has not heard of, waits until it stands where this stands.
  Result<void> Flush(std::string_view operation);
  /// Takes the answer of a call that was given up at its deadline, or is under way.
  Result<void> Settle(std::string_view operation);
  /// What other calls begin with: service placement takes an answer that is late, local placement goes on without it.
  Result<void> Ready(std::string_view operation);

  /// One layer for local attention, the reserved rows included.
  [[nodiscard]] LocalView View(std::size_t layer) const noexcept;
  /// kNotFinite naming the head and the row if a reserved row of the layer holds NaN or infinity.
  [[nodiscard]] Result<void> CheckReservedRows(std::size_t layer);

 private:
  explicit SequenceState(std::shared_ptr<StoreState> store) : store_(std::move(store)) {}

  Result<void> PrepareTail(const SequenceOptions& options);
  void WriteOptions(wire::SequenceOptions::Builder to) const;
  Result<void> Adopt(wire::SequenceState::Reader state);
  Result<void> AdoptTable(wire::BlockTable::Reader table);
  Result<void> AdoptAdvanced(wire::Advanced::Reader outcome, std::string_view operation);
  Result<void> SendAdvance(std::string_view operation);
  Result<void> AdvanceLocal();
  Result<void> Writable(std::string_view operation) const;
  void ForgetMarksBeyond(std::uint64_t length);
  template <typename Params, typename Results>
  Result<void> CallForState(capnp::Request<Params, Results>& request, std::string_view operation);
  /// The outcome of a call whose effect is unknown when it fails without an answer.
  Error Lose(Error error);

  const std::shared_ptr<StoreState> store_;  // shared by the store's sequences
  SequenceOptions options_;
  bool read_only_ = false;
  SequenceId id_ = 0;
  std::uint64_t length_ = 0;
  std::uint64_t prefix_hit_tokens_ = 0;
  std::uint64_t switched_ = 0;  ///< blocks read as codes
  ArenaMemory tail_;
  quantizers::TailLayout layout_;
  std::size_t reserved_ = 0;
  std::size_t reserved_layers_copied_ = 0;  ///< of the reserved rows, layers that Append filled
  std::vector<bool> layer_copied_;
  std::vector<float> row_;                                      ///< one row, widened
  std::optional<Error> lost_;                                   ///< set when a call that changes the sequence had no answer
  kj::Own<Inflight<wire::Session::AdvanceResults>> advancing_;  ///< null if none is under way
  std::uint64_t told_length_ = 0;                               ///< tokens the daemon will have then

  // Local placement only.
  std::vector<std::uint32_t> untold_;       ///< the newest tokens, which the daemon has not heard of
  std::uint64_t told_due_ = 0;              ///< blocks that the daemon has been asked to seal
  std::vector<SlotView> blocks_;            ///< sealed, at least the first switched_
  std::vector<const std::byte*> payloads_;  ///< of blocks_
  std::optional<SlotView> sinks_;
  std::vector<std::uint64_t> marks_;  ///< ascending
  std::optional<Error> seal_error_;   ///< why a block could not be sealed, from the last answer
};

}  // namespace kvant::client
