// The part of Sequence that keeps an engine's states: with its blocks where those are sealed, by itself until then.
#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "daemon/store/sequence.h"
#include "protocol/digest.h"

namespace kvant::daemon {

std::shared_ptr<const StateSlot> Sequence::StateOf(std::uint64_t block) const {
  if (block < blocks_.size()) return blocks_[block]->state;
  const auto held = states_.find(block);
  return held == states_.end() ? nullptr : held->second;
}

Result<NewState> Sequence::ReserveState(std::uint64_t bytes) {
  const std::string what = "put state of sequence " + std::to_string(id_) + ": ";
  const std::uint64_t block_tokens = store_->spec().block_tokens;
  if (length() == 0 || length() % block_tokens != 0) {
    return Error{ErrorCode::kInvalidArgument, what + "it has " + std::to_string(length()) +
                                                  " tokens; a state stands at the end of a block of " +
                                                  std::to_string(block_tokens)};
  }
  if (bytes == 0 || bytes > kMaxStateBytes) {
    return Error{ErrorCode::kInvalidArgument,
                 what + std::to_string(bytes) + " bytes, a state has 1.." + std::to_string(kMaxStateBytes)};
  }
  NewState made;
  made.block = length() / block_tokens - 1;
  if (StateOf(made.block) != nullptr) return made;
  Result<std::shared_ptr<StateSlot>> slot = store_->ReserveState(bytes);
  if (!slot) return Error{slot.error().code, what + slot.error().message};
  made.slot = std::move(*slot);
  made.info = {.kind = protocol::BlockKind::kState,
               .element_type = 0,
               .identity = store_->identity(),
               .chain = store_->identity(),
               .parent = {},
               .first_position = made.block * block_tokens,
               .generation = made.slot->generation()};
  const auto tokens_of = [&](std::uint64_t block) {
    return block < blocks_.size() ? std::span<const std::uint32_t>(blocks_[block]->tokens) : RawTokens(block);
  };
  std::uint64_t block = std::min<std::uint64_t>(blocks_.size(), made.block);
  if (block > 0) made.info.chain = blocks_[block - 1]->chain;
  for (; block <= made.block; ++block) {
    made.info.parent = made.info.chain;
    made.info.chain = protocol::ChainDigest(made.info.parent, tokens_of(block));
  }
  const auto tokens = tokens_of(made.block);
  made.tokens.assign(tokens.begin(), tokens.end());
  return made;
}

void Sequence::KeepState(std::uint64_t block, std::shared_ptr<const StateSlot> state) {
  if (block >= blocks_.size()) {
    states_.emplace(block, std::move(state));
  } else if (blocks_[block]->state == nullptr) {
    blocks_[block]->state = std::move(state);
  }
}

std::optional<StateAt> Sequence::NewestState() const {
  const std::uint64_t block_tokens = store_->spec().block_tokens;
  for (std::uint64_t blocks = length() / block_tokens; blocks > 0; --blocks) {
    if (auto state = StateOf(blocks - 1)) return StateAt{blocks * block_tokens, std::move(state)};
  }
  return std::nullopt;
}

/// Block `block` has been sealed: its state goes on with it, unless another sequence's is there already.
void Sequence::MoveStateTo(Block& sealed, std::uint64_t block) {
  auto state = states_.extract(block);
  if (state && sealed.state == nullptr) sealed.state = std::move(state.mapped());
}

}  // namespace kvant::daemon
