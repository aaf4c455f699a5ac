// How a sequence grows: with service placement a call per advance, with local placement a call per block.
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "client/sequence.h"
#include "protocol/wire.h"
#include "quantizers/sequence/rows.h"

namespace kvant::client {

Result<void> Sequence::Advance(std::span<const TokenId> tokens) {
  if (auto writable = Writable("advance"); !writable) return writable;
  if (auto ready = Ready("advance"); !ready) return ready;
  if (tokens.size() > reserved_) {
    return Error{ErrorCode::kInvalidArgument,
                 "advance: " + std::to_string(tokens.size()) + " tokens, " + std::to_string(reserved_) + " rows are reserved"};
  }
  if (unnamed_ > 0 && !tokens.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "advance: " + std::to_string(unnamed_) + " tokens before these have no ids yet; name them first (Name)"};
  }
  if (auto good = CheckTokens(tokens, "advance"); !good) return good;
  if (auto finite = CheckUnseenRows(tokens.size()); !finite) return finite;
  // Rows beyond the tokens are given up, whatever the number of tokens. Growth does that; here nothing grows.
  if (tokens.empty()) {
    ForgetReserved();
    if (poisoned_rows_) poisoned_rows_ = 0;
  }
  quantizers::FoldNewRows(tail_, length(), tokens.size());
  auto advanced = local() ? AdvanceLocal(tokens) : AdvanceInService(tokens);
  if (!advanced && advanced.error().code == ErrorCode::kDeadlineExceeded) return advanced;  // the tokens may still come
  if (auto kept = KeepBudget(); !kept && advanced) return kept;
  return advanced;
}

Result<void> Sequence::AdvanceUnnamed(std::size_t tokens) {
  if (auto writable = Writable("advance"); !writable) return writable;
  if (auto ready = Ready("advance"); !ready) return ready;
  if (tokens == 0 || tokens > reserved_) {
    return Error{ErrorCode::kInvalidArgument, "advance: " + std::to_string(tokens) + " tokens without ids, " +
                                                  std::to_string(reserved_) + " rows are reserved"};
  }
  if (auto finite = CheckUnseenRows(tokens); !finite) return finite;
  quantizers::FoldNewRows(tail_, length(), tokens);
  TakeReserved(tokens);
  unnamed_ += tokens;
  return KeepBudget();
}

Result<void> Sequence::Name(std::span<const TokenId> tokens) {
  if (auto writable = Writable("name"); !writable) return writable;
  if (auto ready = Ready("name"); !ready) return ready;
  if (tokens.size() > unnamed_) {
    return Error{ErrorCode::kInvalidArgument,
                 "name: " + std::to_string(tokens.size()) + " ids, " + std::to_string(unnamed_) + " tokens have none"};
  }
  if (auto good = CheckTokens(tokens, "name"); !good) return good;
  if (tokens.empty()) return {};
  return local() ? AdvanceLocal(tokens) : AdvanceInService(tokens);
}

void Sequence::TakeReserved(std::uint64_t tokens) noexcept {
  ClientCounters& counters = session().counters();
  counters.tokens_advanced += tokens;
  counters.bytes_zero_copy +=
      2 * tail_.layout.kv_heads * tokens * tail_.layout.row_bytes() * (tail_.layout.layers - reserved_layers_copied_);
  if (poisoned_rows_) poisoned_rows_ = 0;
  ForgetReserved();
}

void Sequence::Grow(std::uint64_t tokens) noexcept {
  if (unnamed_ > 0) {
    unnamed_ -= tokens;
  } else {
    TakeReserved(tokens);
  }
  progress_.Grow(tokens);
}

Result<void> Sequence::AdvanceInService(std::span<const TokenId> tokens) {
  if (auto sent = SendAdvance(tokens, "advance"); !sent) return sent;
  if (auto answered = Settle("advance"); !answered) return answered;
  return seal_error_ ? Result<void>(*seal_error_) : Result<void>();
}

Result<void> Sequence::AdvanceLocal(std::span<const TokenId> tokens) {
  const std::uint64_t length = named() + tokens.size();
  const quantizers::SealCounts counts = progress_.ScheduledAt(length);
  bool told = false;
  if (counts.due > told_due_) {
    if (auto sent = SendAdvance(tokens, "advance"); !sent) return sent;
    session().connection().Push();  // the daemon encodes while this thread goes on
    told_due_ = counts.due;
    told = true;
  }
  if (counts.switched > blocks_.size()) {
    // These blocks switch now: the answer to the call that asked for them is needed, or a new try if they could not be sealed.
    if (advancing_.get() == nullptr) {
      if (auto sent = SendAdvance(tokens, "advance"); !sent) return sent;
      told = true;
    }
    if (auto answered = Settle("advance"); !answered) return answered;
  }
  if (!told) {
    for (const TokenId token : tokens) untold_.push_back(static_cast<std::uint32_t>(token));
  }
  if (length > named()) Grow(length - named());  // unless the answer has come, and with it the growth
  progress_.SwitchTo(counts.switched);
  if (progress_.switched_blocks() < counts.switched && seal_error_) return *seal_error_;
  return {};
}

Result<void> Sequence::SendAdvance(std::span<const TokenId> tokens, std::string_view operation) {
  if (auto settled = Settle(operation); !settled) return settled;
  auto request = session().remote().advanceRequest();
  auto item = request.initItems(1)[0];
  item.setSequence(id_);
  auto ids = item.initTokens(static_cast<unsigned>(untold_.size() + tokens.size()));
  unsigned count = 0;
  for (const std::uint32_t token : untold_) ids.set(count++, token);
  for (const TokenId token : tokens) ids.set(count++, static_cast<std::uint32_t>(token));
  item.setWaitSealed(local());
  if (choice_.policy().kind != quantizers::PolicyKind::kAll) item.setKeptTokens(choice_.Kept(told_length_ + count));
  auto sent = session().connection().Send(request, operation);
  if (!sent) return sent.error();
  advancing_ = std::move(*sent);
  told_length_ += count;
  untold_.clear();
  return {};
}

Result<void> Sequence::Settle(std::string_view operation) {
  if (lost_) return Error{lost_->code, std::string(operation) + ": " + lost_->message};
  if (advancing_.get() == nullptr) return {};
  auto answer = session().connection().Wait(*advancing_, operation);
  if (!answer) {
    if (answer.error().code == ErrorCode::kDeadlineExceeded) return answer.error();
    advancing_ = nullptr;
    return Lose(answer.error());
  }
  advancing_ = nullptr;
  const auto outcomes = answer->getOutcomes();
  if (outcomes.size() != 1) {
    return Lose(
        {ErrorCode::kInternal, "the daemon answered one advance with " + std::to_string(outcomes.size()) + " outcomes"});
  }
  return AdoptAdvanced(outcomes[0], operation);
}

Result<void> Sequence::AdoptAdvanced(wire::Advanced::Reader outcome, std::string_view operation) {
  auto status = wire::ReadStatus(outcome.getStatus());
  seal_error_.reset();
  if (!status) seal_error_ = status.error();
  if (outcome.hasWarning()) store_->set_warning({outcome.getWarning().begin(), outcome.getWarning().size()});
  if (outcome.getLength() != told_length_) {
    if (!status && outcome.getLength() == named()) {  // refused: nothing changed
      told_length_ = named();
      return status;
    }
    lost_ =
        Error{status ? ErrorCode::kInternal : status.error().code,
              "the daemon's copy of sequence " + std::to_string(id_) + " has " + std::to_string(outcome.getLength()) +
                  " tokens instead of " + std::to_string(told_length_) + (status ? "" : " (" + status.error().message + ")")};
    return Error{lost_->code, std::string(operation) + ": " + lost_->message};
  }
  if (local()) {
    // The daemon will not list these blocks again.
    if (auto adopted = AdoptTable(outcome.getTable()); !adopted) return Lose(adopted.error());
  } else {
    progress_.SetSealed(std::max<std::uint64_t>(progress_.sealed_blocks(), outcome.getSwitchedBlocks()));
  }
  if (told_length_ > named()) Grow(told_length_ - named());
  progress_.SwitchTo(outcome.getSwitchedBlocks());
  return {};
}

Result<void> Sequence::Ready(std::string_view operation) {
  if (lost_) return Error{lost_->code, std::string(operation) + ": " + lost_->message};
  if (local() && told_length_ <= named()) return {};  // the answer is wanted when its block switches
  return Settle(operation);
}

Result<void> Sequence::Flush(std::string_view operation) {
  if (untold_.empty()) return Settle(operation);
  if (auto sent = SendAdvance({}, operation); !sent) return sent;
  return Settle(operation);
}

}  // namespace kvant::client
