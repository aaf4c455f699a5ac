#include "client/sequence_state.h"

#include <algorithm>
#include <utility>

#include "protocol/wire.h"

namespace kvant::client {
namespace {

Error InvalidArgument(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

Result<void> CheckTokens(std::span<const TokenId> tokens, std::string_view operation) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] > TokenId{UINT32_MAX}) {
      return InvalidArgument(std::string(operation) + ": token " + std::to_string(i) + " is " + std::to_string(tokens[i]) +
                             ", ids are 0.." + std::to_string(UINT32_MAX));
    }
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<SequenceState>> SequenceState::Open(std::shared_ptr<StoreState> store, std::span<const TokenId> tokens,
                                                           const SequenceOptions& options) {
  if (auto good = CheckTokens(tokens, "open sequence"); !good) return good.error();
  std::shared_ptr<SequenceState> sequence(new SequenceState(std::move(store)));
  if (auto prepared = sequence->PrepareTail(options); !prepared) return prepared.error();
  auto request = sequence->session().remote().openSequenceRequest();
  request.setStore(sequence->store_->id());
  auto ids = request.initTokens(static_cast<unsigned>(tokens.size()));
  for (unsigned i = 0; i < ids.size(); ++i) ids.set(i, static_cast<std::uint32_t>(tokens[i]));
  sequence->WriteOptions(request.initOptions());
  if (auto opened = sequence->CallForState(request, "open sequence"); !opened) return opened.error();
  return sequence;
}

Result<std::shared_ptr<SequenceState>> SequenceState::ForkOf(std::shared_ptr<StoreState> store, SequenceId source,
                                                             std::optional<std::uint64_t> length,
                                                             const SequenceOptions& options) {
  std::shared_ptr<SequenceState> sequence(new SequenceState(std::move(store)));
  if (auto prepared = sequence->PrepareTail(options); !prepared) return prepared.error();
  auto request = sequence->session().remote().forkRequest();
  request.setStore(sequence->store_->id());
  request.setSource(source);
  request.setLength(length.value_or(wire::kWholeLength));
  sequence->WriteOptions(request.initOptions());
  if (auto forked = sequence->CallForState(request, "fork"); !forked) return forked.error();
  // The daemon copied the raw rows for us.
  const std::uint64_t raw = sequence->length_ - sequence->switched_ * sequence->store_->spec().block_tokens;
  sequence->session().counters().bytes_copied +=
      raw * sequence->layout_.row_bytes() * 2 * sequence->layout_.kv_heads * sequence->layout_.layers;
  return sequence;
}

Result<std::shared_ptr<SequenceState>> SequenceState::Read(std::shared_ptr<StoreState> store, SequenceId source) {
  std::shared_ptr<SequenceState> sequence(new SequenceState(std::move(store)));
  sequence->read_only_ = true;
  auto request = sequence->session().remote().readRequest();
  request.setStore(sequence->store_->id());
  request.setSource(source);
  if (auto opened = sequence->CallForState(request, "read sequence"); !opened) return opened.error();
  return sequence;
}

Result<void> SequenceState::PrepareTail(const SequenceOptions& options) {
  const StoreSpec& spec = store_->spec();
  options_ = options;
  if (options.placement != Placement::kService && options.placement != Placement::kLocal) {
    return InvalidArgument("open sequence: placement " + std::to_string(static_cast<unsigned>(options.placement)) +
                           " is unknown");
  }
  if (options.tail_type != ElementType::kF32 && options.tail_type != ElementType::kF16 &&
      options.tail_type != ElementType::kBF16) {
    return InvalidArgument("open sequence: tail_type " + std::to_string(static_cast<unsigned>(options.tail_type)) +
                           " is unknown");
  }
  if (options.max_step_tokens == 0) return InvalidArgument("open sequence: max_step_tokens is 0");
  if (local()) {
    if (auto plan = store_->plan(); !plan) return plan.error();
  }
  // With local placement the daemon hears of tokens a block at a time, so its steps are longer by up to a block. The tail is as
  // large with service placement: where the ring wraps decides the order of additions, and both placements give the same bits.
  const std::uint64_t daemon_step = std::uint64_t{options.max_step_tokens} + spec.block_tokens;
  const std::uint64_t rows = daemon_step > UINT32_MAX ? UINT64_MAX
                                                      : quantizers::TailCapacity(spec.block_tokens, options.recent_tokens,
                                                                                 static_cast<std::uint32_t>(daemon_step));
  constexpr std::uint64_t kMostRows = std::uint64_t{1} << 30;  // with 1024 layers, heads and dimensions sizes stay below 2^64
  if (rows > kMostRows) {
    return InvalidArgument("open sequence: recent_tokens " + std::to_string(options.recent_tokens) + " and max_step_tokens " +
                           std::to_string(options.max_step_tokens) + " need a tail of more than 2^30 rows");
  }
  layout_ = {.layers = spec.layers,
             .kv_heads = spec.kv_heads,
             .head_dim = spec.head_dim,
             .capacity = static_cast<std::uint32_t>(rows),
             .type = options.tail_type};
  auto memory = session().Allocate(layout_.total_bytes(), "a tail of " + std::to_string(rows) + " tokens");
  if (!memory) return Error{memory.error().code, "open sequence: " + memory.error().message};
  tail_ = std::move(*memory);
  layer_copied_.assign(spec.layers, false);
  row_.resize(spec.head_dim);
  untold_.reserve(2 * std::size_t{spec.block_tokens} + options.max_step_tokens);
  return {};
}

void SequenceState::WriteOptions(wire::SequenceOptions::Builder to) const {
  to.setPlacement(local() ? wire::Placement::LOCAL : wire::Placement::SERVICE);
  to.setRecentTokens(options_.recent_tokens);
  to.setMaxStepTokens(options_.max_step_tokens + (local() ? store_->spec().block_tokens : 0));
  to.setLabel(capnp::Text::Reader(options_.label.c_str(), options_.label.size()));
  auto tail = to.initTail();
  tail.setArena(session().arena_id());
  tail.setElementType(wire::WriteElementType(options_.tail_type));
  tail.setCapacityTokens(layout_.capacity);
  tail.setOffset(session().ArenaOffset(tail_.data(), tail_.bytes()).value_or(0));
}

Error SequenceState::Lose(Error error) {
  if (error.code == ErrorCode::kDeadlineExceeded) {
    lost_ = Error{error.code, "an earlier call on this sequence had no answer, where it stands is unknown (" + error.message +
                                  "); open it again"};
  }
  return error;
}

template <typename Params, typename Results>
Result<void> SequenceState::CallForState(capnp::Request<Params, Results>& request, std::string_view operation) {
  Session& link = session();
  const bool opening = id_ == 0;
  auto answer = link.Call(request, operation, [&link, opening](capnp::Response<Results>&& late) {
    // A sequence that nobody waits for any more.
    if (!opening || late.isError()) return;
    auto close = link.remote().closeRequest();
    close.setSequence(late.getOk().getSequence());
    if (auto closing = link.connection().Send(close, "close"); closing)
      link.connection().Forget(std::move(*closing), [](auto&) {});
  });
  if (!answer) return Lose(answer.error());
  if (answer->isError()) return wire::ReadError(answer->getError());
  return Adopt(answer->getOk());
}

Result<void> SequenceState::Adopt(wire::SequenceState::Reader state) {
  id_ = state.getSequence();
  length_ = state.getLength();
  prefix_hit_tokens_ = state.getPrefixHitTokens();
  switched_ = state.getSwitchedBlocks();
  reserved_ = 0;
  const std::uint64_t block_tokens = store_->spec().block_tokens;
  told_length_ = length_;
  if (switched_ > length_ / block_tokens || (!read_only_ && length_ - switched_ * block_tokens > layout_.capacity)) {
    lost_ = Error{ErrorCode::kInternal, "the daemon says that sequence " + std::to_string(id_) + " has " +
                                            std::to_string(length_) + " tokens and " + std::to_string(switched_) + " blocks"};
    return *lost_;
  }
  if (!local()) return {};
  untold_.clear();
  blocks_.resize(std::min<std::size_t>(blocks_.size(), state.getTable().getFirst()));
  payloads_.resize(blocks_.size());
  if (auto adopted = AdoptTable(state.getTable()); !adopted) {
    lost_ = adopted.error();
    return adopted.error();
  }
  told_due_ = std::min(told_due_, length_ / block_tokens);
  told_due_ = std::max<std::uint64_t>(told_due_, blocks_.size());
  if (blocks_.size() < switched_) {
    lost_ = Error{ErrorCode::kInternal, "the daemon lists " + std::to_string(blocks_.size()) + " blocks of sequence " +
                                            std::to_string(id_) + ", attention needs " + std::to_string(switched_)};
    return *lost_;
  }
  return {};
}

Result<void> SequenceState::AdoptTable(wire::BlockTable::Reader table) {
  const auto blocks = table.getBlocks();
  if (table.getFirst() > blocks_.size()) {
    return Error{ErrorCode::kInternal, "the daemon lists blocks from " + std::to_string(table.getFirst()) + " on, " +
                                           std::to_string(blocks_.size()) + " are known"};
  }
  for (unsigned i = 0; i < blocks.size(); ++i) {
    if (table.getFirst() + i < blocks_.size()) continue;
    auto slot = store_->Slot(blocks[i], protocol::BlockKind::kCodes);
    if (!slot) return slot.error();
    store_->MapPages(*slot);
    payloads_.push_back(slot->payload);
    blocks_.push_back(std::move(*slot));
  }
  if (table.getFirst() == 0 && blocks.size() > 0 && store_->spec().sink_tokens > 0) {
    auto slot = store_->Slot(table.getSinks(), protocol::BlockKind::kSinks);
    if (!slot) return slot.error();
    store_->MapPages(*slot);
    sinks_ = std::move(*slot);
  }
  return {};
}

Result<void> SequenceState::Writable(std::string_view operation) const {
  if (lost_) return Error{lost_->code, std::string(operation) + ": " + lost_->message};
  if (read_only_) {
    return Error{ErrorCode::kUnsupported,
                 std::string(operation) + ": sequence " + std::to_string(id_) + " was opened for reading only"};
  }
  return {};
}

Result<void> SequenceState::Advance(std::span<const TokenId> tokens) {
  if (auto writable = Writable("advance"); !writable) return writable;
  if (auto ready = Ready("advance"); !ready) return ready;
  if (tokens.size() > reserved_) {
    return InvalidArgument("advance: " + std::to_string(tokens.size()) + " tokens, " + std::to_string(reserved_) +
                           " rows are reserved");
  }
  if (auto good = CheckTokens(tokens, "advance"); !good) return good;
  for (const TokenId token : tokens) untold_.push_back(static_cast<std::uint32_t>(token));

  ClientCounters& counters = session().counters();
  counters.tokens_advanced += tokens.size();
  counters.bytes_zero_copy +=
      2 * layout_.kv_heads * tokens.size() * layout_.row_bytes() * (layout_.layers - reserved_layers_copied_);
  reserved_ = 0;
  std::fill(layer_copied_.begin(), layer_copied_.end(), false);
  reserved_layers_copied_ = 0;
  if (local()) {
    length_ += tokens.size();
    return AdvanceLocal();
  }
  if (auto sent = SendAdvance("advance"); !sent) return sent;
  if (auto answered = Settle("advance"); !answered) return answered;
  if (seal_error_) return *seal_error_;
  return {};
}

Result<void> SequenceState::AdvanceLocal() {
  const std::uint32_t block_tokens = store_->spec().block_tokens;
  const auto counts = quantizers::ScheduledSeals(length_, block_tokens, options_.recent_tokens,
                                                 marks_.empty() ? std::nullopt : std::optional(marks_.front()));
  if (counts.due > told_due_) {
    if (auto sent = SendAdvance("advance"); !sent) return sent;
    session().connection().Push();  // the daemon encodes while this thread goes on
    told_due_ = counts.due;
  }
  if (counts.switched <= switched_) return {};
  if (blocks_.size() < counts.switched) {
    // The answer to the call that asked for these blocks, or a new try if they could not be sealed then.
    if (advancing_.get() == nullptr) {
      if (auto sent = SendAdvance("advance"); !sent) return sent;
    }
    if (auto answered = Settle("advance"); !answered) return answered;
  }
  switched_ = std::min<std::uint64_t>(counts.switched, blocks_.size());
  if (switched_ < counts.switched && seal_error_) return *seal_error_;
  return {};
}

Result<void> SequenceState::SendAdvance(std::string_view operation) {
  if (auto settled = Settle(operation); !settled) return settled;
  auto request = session().remote().advanceRequest();
  auto item = request.initItems(1)[0];
  item.setSequence(id_);
  auto ids = item.initTokens(static_cast<unsigned>(untold_.size()));
  for (unsigned i = 0; i < ids.size(); ++i) ids.set(i, untold_[i]);
  item.setWaitSealed(local());
  told_length_ += untold_.size();
  untold_.clear();
  auto sent = session().connection().Send(request, operation);
  if (!sent) return sent.error();
  advancing_ = std::move(*sent);
  return {};
}

Result<void> SequenceState::Settle(std::string_view operation) {
  if (lost_) return Error{lost_->code, std::string(operation) + ": " + lost_->message};
  if (advancing_.get() == nullptr) return {};
  auto answer = session().connection().Wait(*advancing_, operation);
  if (!answer) {
    if (answer.error().code != ErrorCode::kDeadlineExceeded) {
      advancing_ = nullptr;
      lost_ = answer.error();
    }
    return answer.error();
  }
  advancing_ = nullptr;
  const auto outcomes = answer->getOutcomes();
  if (outcomes.size() != 1) {
    lost_ =
        Error{ErrorCode::kInternal, "the daemon answered one advance with " + std::to_string(outcomes.size()) + " outcomes"};
    return *lost_;
  }
  return AdoptAdvanced(outcomes[0], operation);
}

Result<void> SequenceState::AdoptAdvanced(wire::Advanced::Reader outcome, std::string_view operation) {
  auto status = wire::ReadStatus(outcome.getStatus());
  seal_error_.reset();
  if (!status) seal_error_ = status.error();
  if (outcome.getLength() != told_length_) {
    if (!local() && !status && outcome.getLength() == length_) {  // refused: nothing changed
      told_length_ = length_;
      return {};
    }
    lost_ =
        Error{status ? ErrorCode::kInternal : status.error().code,
              "the daemon's copy of sequence " + std::to_string(id_) + " has " + std::to_string(outcome.getLength()) +
                  " tokens instead of " + std::to_string(told_length_) + (status ? "" : " (" + status.error().message + ")")};
    return Error{lost_->code, std::string(operation) + ": " + lost_->message};
  }
  if (local()) {
    auto adopted = AdoptTable(outcome.getTable());
    if (!adopted) lost_ = adopted.error();  // the daemon will not list these blocks again
    return adopted;
  }
  length_ = outcome.getLength();
  switched_ = std::max<std::uint64_t>(switched_, outcome.getSwitchedBlocks());
  return {};
}

Result<void> SequenceState::Ready(std::string_view operation) {
  if (lost_) return Error{lost_->code, std::string(operation) + ": " + lost_->message};
  return local() ? Result<void>() : Settle(operation);
}

Result<void> SequenceState::Flush(std::string_view operation) {
  if (!local()) return Settle(operation);
  if (untold_.empty()) return Settle(operation);
  if (auto sent = SendAdvance(operation); !sent) return sent;
  return Settle(operation);
}

void SequenceState::ForgetMarksBeyond(std::uint64_t length) {
  std::erase_if(marks_, [&](std::uint64_t mark) { return mark > length; });
}

Result<void> SequenceState::Trim(std::uint64_t length) {
  if (auto writable = Writable("trim"); !writable) return writable;
  if (auto flushed = Flush("trim"); !flushed) return flushed;
  auto request = session().remote().trimRequest();
  request.setSequence(id_);
  request.setLength(length);
  if (auto trimmed = CallForState(request, "trim"); !trimmed) return trimmed;
  ForgetMarksBeyond(length_);
  return {};
}

Result<Mark> SequenceState::SetMark() {
  if (auto writable = Writable("mark"); !writable) return writable.error();
  if (auto flushed = Flush("mark"); !flushed) return flushed.error();
  auto request = session().remote().markRequest();
  request.setSequence(id_);
  auto answer = session().connection().Call(request, "mark");
  if (!answer) return Lose(answer.error());
  if (answer->isError()) return wire::ReadError(answer->getError());
  const Mark mark{answer->getOk().getLength()};
  marks_.push_back(mark.length);
  return mark;
}

Result<void> SequenceState::Rewind(const Mark& mark) {
  if (auto writable = Writable("rewind"); !writable) return writable;
  // Tokens behind the mark that the daemon has not heard of are dropped without telling it.
  if (local() && told_length_ == mark.length && std::find(marks_.begin(), marks_.end(), mark.length) != marks_.end()) {
    untold_.clear();
    length_ = mark.length;
    reserved_ = 0;
    return {};
  }
  if (auto settled = Settle("rewind"); !settled) return settled;
  auto request = session().remote().rewindRequest();
  request.setSequence(id_);
  request.initMark().setLength(mark.length);
  if (auto rewound = CallForState(request, "rewind"); !rewound) return rewound;
  ForgetMarksBeyond(length_);
  return {};
}

Result<void> SequenceState::Release(const Mark& mark) {
  if (auto writable = Writable("release"); !writable) return writable;
  if (auto flushed = Flush("release"); !flushed) return flushed;
  auto request = session().remote().releaseRequest();
  request.setSequence(id_);
  request.initMark().setLength(mark.length);
  auto answer = session().connection().Call(request, "release");
  if (!answer) return Lose(answer.error());
  if (auto adopted = AdoptAdvanced(*answer, "release"); !adopted) return adopted;
  if (seal_error_ && seal_error_->code == ErrorCode::kNotFound) return *std::exchange(seal_error_, std::nullopt);
  if (const auto held = std::find(marks_.begin(), marks_.end(), mark.length); held != marks_.end()) marks_.erase(held);
  // What the mark held back may be sealed now.
  if (local()) return AdvanceLocal();
  if (seal_error_) return *seal_error_;
  return {};
}

SequenceState::~SequenceState() {
  Connection& connection = session().connection();
  if (id_ == 0 || connection.dead()) return;
  const auto failure = kj::runCatchingExceptions([&] {
    auto request = session().remote().closeRequest();
    request.setSequence(id_);
    auto call = connection.Send(request, "close");
    // The tail's memory is used again only when the daemon has answered: it may be encoding from there.
    if (!call) return;
    connection.Forget(std::move(*call), [tail = std::move(tail_)](auto&) {});
    connection.Push();
  });
  static_cast<void>(failure);  // a dead session ends the sequence too
}

}  // namespace kvant::client
