// An engine's private states: into the store through the arena, out of it from the mapped slot.
#include <cstring>
#include <string>

#include "client/sequence.h"
#include "protocol/wire.h"

namespace kvant::client {

Result<void> Sequence::PutState(std::span<const std::byte> state) {
  if (auto writable = Writable("put state"); !writable) return writable;
  if (unnamed_ > 0) {
    return Error{ErrorCode::kInvalidArgument,
                 "put state: " + std::to_string(unnamed_) + " tokens have no ids yet; name them first (Name)"};
  }
  if (state.empty() || state.size() > wire::MAX_STATE_BYTES) {
    return Error{ErrorCode::kInvalidArgument, "put state: " + std::to_string(state.size()) + " bytes, a state has 1.." +
                                                  std::to_string(wire::MAX_STATE_BYTES)};
  }
  if (auto flushed = Flush("put state"); !flushed) return flushed;
  auto request = session().remote().putStateRequest();
  request.setSequence(id_);
  auto range = request.initState();
  range.setArena(session().arena_id());
  range.setBytes(state.size());
  ArenaMemory staged;
  auto offset = session().ArenaOffset(state.data(), state.size());
  if (!offset) {
    auto memory = session().Allocate(state.size(), "staging a state of " + std::to_string(state.size()) + " bytes");
    if (!memory) return Error{memory.error().code, "put state: " + memory.error().message};
    staged = std::move(*memory);
    std::memcpy(staged.data(), state.data(), state.size());
    session().counters().bytes_copied += state.size();
    offset = session().ArenaOffset(staged.data(), state.size());
  }
  range.setOffset(*offset);
  auto answer = session().Call(request, "put state", [](auto&&) {});
  if (!answer) return answer.error();
  session().counters().bytes_copied += state.size();  // by the daemon
  return wire::ReadStatus(*answer);
}

Result<capnp::Response<wire::Outcome<wire::StateInfo>>> Sequence::GetState(std::string_view operation) {
  if (auto writable = Writable(operation); !writable) return writable.error();
  if (auto ready = Ready(operation); !ready) return ready.error();
  auto request = session().remote().getStateRequest();
  request.setSequence(id_);
  auto answer = session().connection().Call(request, operation);
  if (!answer) return answer.error();
  if (answer->isError()) return wire::ReadError(answer->getError());
  return answer;
}

Result<StateInfo> Sequence::FindState() {
  auto answer = GetState("find state");
  if (!answer) return answer.error();
  return StateInfo{.length = answer->getOk().getLength(), .bytes = answer->getOk().getBytes()};
}

Result<void> Sequence::CopyState(std::span<std::byte> to) {
  auto answer = GetState("copy state");
  if (!answer) return answer.error();
  const auto found = answer->getOk();
  if (found.getBytes() != to.size()) {
    return Error{ErrorCode::kInvalidArgument, "copy state: room for " + std::to_string(to.size()) + " bytes, the state has " +
                                                  std::to_string(found.getBytes())};
  }
  auto slot = store_->Slot(found.getPlace(), protocol::BlockKind::kState);
  if (slot && slot->payload_bytes != to.size()) {
    return Error{ErrorCode::kCorrupt, "copy state: its slot holds " + std::to_string(slot->payload_bytes) + " bytes, not " +
                                          std::to_string(to.size())};
  }
  auto whole = slot ? store_->Verify(*slot) : Result<void>(slot.error());
  if (whole) std::memcpy(to.data(), slot->payload, to.size());
  // Looked at afterwards: only then is it sure that the slot was the state's all the while.
  if (auto held = store_->CheckHeld("copy state"); !held) return held;
  if (!whole) return Error{whole.error().code, "copy state: " + whole.error().message};
  session().counters().bytes_copied += to.size();
  return {};
}

}  // namespace kvant::client
