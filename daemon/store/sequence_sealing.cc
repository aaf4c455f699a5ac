// The part of Sequence that turns raw rows into sealed blocks. Only token counts decide what attention reads as codes
// (quantizers/sequence/schedule.h); when encodings end decides how long an advance waits, never a result.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "daemon/store/seal.h"
#include "daemon/store/sequence.h"
#include "protocol/digest.h"

namespace kvant::daemon {

std::span<const std::uint32_t> Sequence::RawTokens(std::uint64_t block) const {
  const std::uint64_t block_tokens = store_->spec().block_tokens;
  return std::span(tail_tokens_).subspan((block - switched_blocks()) * block_tokens, block_tokens);
}

const protocol::Digest& Sequence::ChainOf(std::uint64_t block) const {
  return block < blocks_.size() ? blocks_[block]->chain : seals_[block - blocks_.size()]->chain;
}

void Sequence::Advance(std::span<const std::uint32_t> tokens, SealWait wait, Done done) {
  if (tokens.size() > free_rows()) {
    done(Error{ErrorCode::kTailFull, "advance sequence " + std::to_string(id_) + " by " + std::to_string(tokens.size()) +
                                         " tokens: the tail has " + std::to_string(free_rows()) + " free rows of " +
                                         std::to_string(tail_.layout.capacity)});
    return;
  }
  tail_tokens_.insert(tail_tokens_.end(), tokens.begin(), tokens.end());
  progress_.Grow(tokens.size());
  Continue(wait, std::move(done));
}

void Sequence::WhenSettled(std::function<void()> ready) {
  if (settled()) {
    ready();
  } else {
    waiters_.push_back({.sealed = 0, .switch_to = 0, .done = nullptr, .ready = std::move(ready)});
  }
}

void Sequence::FinishSealing(std::function<void()> done) {
  progress_.ReleaseAll();
  Continue(SealWait::kDue, [done = std::move(done)](const Result<Advanced>&) { done(); });
}

void Sequence::Continue(SealWait wait, Done done) {
  Waiter waiter{.sealed = 0, .switch_to = 0, .done = std::move(done), .ready = nullptr};
  const quantizers::SealCounts counts = progress_.Scheduled();
  if (marks().empty()) {
    StartSeals(counts.due);
    LinkFinished();  // a block found in the store may have been all that finished ones behind it waited for
  }
  waiter.sealed = wait == SealWait::kDue ? counts.due : counts.switched;
  waiter.switch_to = counts.switched;
  waiters_.push_back(std::move(waiter));
  AnswerWaiters();
}

void Sequence::StartSeals(std::uint64_t due) {
  // Those without room first, in order: a block without its predecessors is of no use.
  for (std::size_t i = 0; i < seals_.size(); ++i) {
    if (seals_[i]->state == Seal::State::kRefused) return;
    if (seals_[i]->state != Seal::State::kNoRoom) continue;
    const std::size_t before = seals_.size();
    if (!StartSeal(*seals_[i])) return;
    if (seals_.size() != before) --i;  // it was there already, and left the queue's front
  }
  for (std::uint64_t block = blocks_.size() + seals_.size(); block < due; block = blocks_.size() + seals_.size()) {
    auto seal = std::make_unique<Seal>();
    seal->block = block;
    seal->parent = block == 0 ? store_->identity() : ChainOf(block - 1);
    seal->chain = protocol::ChainDigest(seal->parent, RawTokens(block));
    seals_.push_back(std::move(seal));
    if (!StartSeal(*seals_.back())) return;
  }
}

/// False if there is no room. May take `seal` out of the queue: then its block was in the store already.
bool Sequence::StartSeal(Seal& seal) {
  const auto no_room = [&](const Error& error) {
    seal.state = Seal::State::kNoRoom;
    seal.error = {error.code, "sequence " + std::to_string(id_) + ", block at position " +
                                  std::to_string(seal.block * store_->spec().block_tokens) + ": " + error.message};
    return false;
  };
  const std::span<const std::uint32_t> tokens = RawTokens(seal.block);
  if (seal.block == blocks_.size()) {
    const Block* parent = blocks_.empty() ? nullptr : blocks_.back();
    if (Block* existing = store_->FindWhole(parent, seal.chain, tokens); existing != nullptr) {
      if (Result<void> held = Lease(*existing); !held) return no_room(held.error());
      store_->NoteUse(*existing, config_.priority);
      ++store_->counters().deduplicated_blocks;
      seals_.pop_front();  // it is the front: seals_[0] is block blocks_.size()
      return true;
    }
  }
  const StoreSpec& spec = store_->spec();
  const bool with_sinks = seal.block == 0 && spec.sink_tokens != 0;
  Result<PendingBlock> place = store_->Reserve(with_sinks ? std::optional(tail_.layout.type) : std::nullopt);
  if (!place) return no_room(place.error());

  auto job = std::make_shared<SealJob>();
  job->plan = store_->plan();
  job->tail = tail_;
  job->tokens.assign(tokens.begin(), tokens.end());
  job->info = {.kind = protocol::BlockKind::kCodes,
               .element_type = 0,
               .identity = store_->identity(),
               .chain = seal.chain,
               .parent = seal.parent,
               .first_position = seal.block * spec.block_tokens,
               .generation = place->generation()};
  const auto target = [&](const BlockPart& part) {
    return SealJob::Target{store_->pool().slab(part.slot.slab), part.slot.slot, part.payload_bytes};
  };
  job->codes = target(place->parts()[0]);
  if (with_sinks) job->sinks = target(place->parts()[1]);
  job->place.emplace(std::move(*place));
  seal.job = job;
  seal.state = Seal::State::kEncoding;
  // Written by the job, read by its end.
  auto outcome = std::make_shared<Result<void>>(Error{ErrorCode::kSystem, "the encoding ended without a result"});
  store_->core().encode.Submit([job, outcome] { *outcome = job->Run(); },
                               [job, outcome, self = std::weak_ptr<Sequence*>(self_)]() mutable {
                                 if (const auto sequence = self.lock()) (*sequence)->SealEnded(job.get(), std::move(*outcome));
                                 job.reset();  // gives the slots back if the block was not linked
                               });
  return true;
}

void Sequence::SealEnded(const SealJob* job, Result<void> outcome) {
  const auto found = std::ranges::find_if(seals_, [&](const auto& seal) { return seal->job.get() == job; });
  if (found == seals_.end()) return;  // trimmed away meanwhile
  Seal& seal = **found;
  if (outcome) {
    seal.state = Seal::State::kEncoded;
  } else {
    const bool refused = outcome.error().code == ErrorCode::kNotFinite;
    seal.state = refused ? Seal::State::kRefused : Seal::State::kNoRoom;
    seal.error = {outcome.error().code, "sequence " + std::to_string(id_) + ": " + outcome.error().message};
    seal.job.reset();
    if (refused) {
      ++store_->counters().not_finite_errors;
      DropSeals(seal.block + 1);  // they could never be linked
    }
  }
  LinkFinished();
  AnswerWaiters();
}

void Sequence::LinkFinished() {
  while (!seals_.empty() && seals_.front()->state == Seal::State::kEncoded) {
    Seal& seal = *seals_.front();
    Block* parent = blocks_.empty() ? nullptr : blocks_.back();
    Block* block = store_->FindWhole(parent, seal.chain, seal.job->tokens);
    if (block != nullptr) {
      ++store_->counters().deduplicated_blocks;  // another sequence was faster; our slots go back with the job
    } else {
      store_->NoteKeys(seal.job->key_means);
      const std::uint64_t first_position = seal.job->info.first_position;
      block =
          std::move(*seal.job->place).Link(seal.chain, parent, first_position, std::move(seal.job->tokens), config_.priority);
      seal.job->place.reset();
    }
    if (Result<void> held = Lease(*block); !held) {
      // The block is in the store without us; the next advance finds it there, if there is room for the record then.
      seal.state = Seal::State::kNoRoom;
      seal.error = held.error();
      seal.job.reset();
      return;
    }
    seals_.pop_front();
  }
}

void Sequence::DropSeals(std::uint64_t from_block) {
  while (!seals_.empty() && seals_.back()->block >= from_block) {
    if (seals_.back()->job != nullptr) seals_.back()->job->cancelled.store(true, std::memory_order_relaxed);
    seals_.pop_back();
  }
}

void Sequence::SwitchUpTo(std::uint64_t blocks) {
  const std::uint64_t before = tail_first_position();
  progress_.SwitchTo(blocks);
  const std::uint64_t freed = tail_first_position() - before;
  if (freed == 0) return;
  ++rewrites_;
  tail_tokens_.erase(tail_tokens_.begin(), tail_tokens_.begin() + static_cast<std::ptrdiff_t>(freed));
}

void Sequence::AnswerWaiters() {
  const std::shared_ptr<Sequence*> self = self_;
  while (!waiters_.empty()) {
    const Waiter& front = waiters_.front();
    const bool sealing =
        !seals_.empty() && (seals_.front()->state == Seal::State::kEncoding || seals_.front()->state == Seal::State::kEncoded);
    if (blocks_.size() < front.sealed && sealing) return;
    Waiter waiter = std::move(waiters_.front());
    waiters_.pop_front();
    SwitchUpTo(waiter.switch_to);
    if (!waiter.done) {
      waiter.ready();  // may close the sequence, as may done below
    } else {
      Advanced answer{.length = length(),
                      .switched_blocks = switched_blocks(),
                      .sealed_blocks = blocks_.size(),
                      .seal_error = std::nullopt};
      if (blocks_.size() < waiter.sealed && !seals_.empty()) {
        answer.seal_error = seals_.front()->error;
        if (answer.seal_error->code == ErrorCode::kStoreFull) ++store_->counters().store_full_errors;
      }
      waiter.done(std::move(answer));
    }
    if (*self == nullptr) return;
  }
}

}  // namespace kvant::daemon
