#include "client/attend.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "client/tensor_place.h"
#include "protocol/wire.h"
#include "quantizers/sequence/view.h"

namespace kvant::client {
namespace {

Error InvalidArgument(const std::string& message) { return {ErrorCode::kInvalidArgument, "attend: " + message}; }

bool Aligned(const void* data) noexcept { return reinterpret_cast<std::uintptr_t>(data) % alignof(float) == 0; }

/// The call as attention takes it. Checks what concerns this process's memory and the reserved rows; quantizers::MakeItem
/// checks the rest where attention runs.
Result<quantizers::AttendRequest> ReadArgs(std::size_t layer, const AttendCall& call) {
  Sequence& sequence = *call.sequence;
  const AttendArgs& args = *call.args;
  if (auto good = CheckView(args.q, "attend: q"); !good) return good.error();
  if (auto good = CheckView(AsConst(args.out), "attend: out"); !good) return good.error();
  if (!Aligned(args.lse) || !Aligned(args.sink_logits)) return InvalidArgument("lse or sink_logits is not aligned to floats");
  const std::size_t reserved = call.from_end == 0 ? sequence.reserved() : 0;
  if (reserved > 0 && args.q.tokens > reserved) {
    return InvalidArgument(std::to_string(args.q.tokens) + " queries for " + std::to_string(reserved) + " reserved rows");
  }
  quantizers::AttendRequest request{.layer = layer,
                                    .new_rows = reserved > 0 ? args.q.tokens : 0,
                                    .q = args.q,
                                    .out = args.out,
                                    .lse = args.lse,
                                    .sink_logits = args.sink_logits,
                                    .scale = args.scale,
                                    .softcap = args.softcap,
                                    .window = args.window,
                                    .from_end = call.from_end,
                                    .votes = call.votes,
                                    .votes_stride = call.votes_stride};
  if (auto chosen = sequence.choice().Prepare(sequence.session(), sequence.length(), args, request); !chosen) {
    return Error{chosen.error().code, "attend: token policy: " + chosen.error().message};
  }
  return request;
}

/// What the request says of tokens: lists and votes lie in the arena.
void WriteTokens(Session& session, std::size_t kv_heads, const quantizers::AttendRequest& request,
                 wire::AttendItem::Builder item) {
  const auto place = [&](const void* data, std::size_t bytes, wire::Range::Builder to) {
    to.setArena(session.arena_id());
    to.setOffset(session.ArenaOffset(data, bytes).value());
    to.setBytes(bytes);
  };
  if (const quantizers::KeptTokens& kept = request.kept; !kept.all()) {
    auto to = item.initKept();
    to.setWindow(kept.window);
    to.setSinks(kept.sinks);
    to.setWholeBelow(kept.whole_below);
    to.setEnd(kept.end);
    if (kept.bits != nullptr) place(kept.bits, kv_heads * kept.words * sizeof(std::uint64_t), to.initBits());
  }
  if (request.votes != nullptr) place(request.votes, kv_heads * request.votes_stride * sizeof(float), item.initVotes());
  item.setFromEnd(static_cast<std::uint32_t>(request.from_end));
}

/// Floats in the arena: in place or staged.
Result<float*> PlaceFloats(Session& session, const float* floats, std::size_t count, wire::Range::Builder to) {
  const std::size_t bytes = count * sizeof(float);
  to.setArena(session.arena_id());
  to.setBytes(bytes);
  if (const auto offset = session.ArenaOffset(floats, bytes)) {
    to.setOffset(*offset);
    session.counters().bytes_zero_copy += bytes;
    return static_cast<float*>(nullptr);
  }
  auto place = session.Scratch(bytes);
  if (!place) return place.error();
  session.counters().bytes_copied += bytes;
  to.setOffset(*session.ArenaOffset(*place, bytes));
  return reinterpret_cast<float*>(*place);
}

/// An item of a call to the daemon, and what to copy back afterwards.
struct Sent {
  PlacedOutput out;
  float* staged_lse = nullptr;  ///< null if the daemon writes in place
};

Result<Sent> WriteItem(Session& session, const Sequence& sequence, const quantizers::AttendRequest& request,
                       wire::AttendItem::Builder item) {
  Sent sent;
  item.setSequence(sequence.id());
  item.setLayer(static_cast<std::uint32_t>(std::min<std::size_t>(request.layer, UINT32_MAX)));
  item.setUnnamed(static_cast<std::uint32_t>(sequence.unnamed()));
  item.setNewTokens(static_cast<std::uint32_t>(request.new_rows));
  if (auto placed = PlaceInput(session, request.q, item.initQ()); !placed) return placed.error();
  auto out = PlaceOutput(session, request.out, item.initOut());
  if (!out) return out.error();
  sent.out = *out;
  if (out->staged.data == nullptr) session.counters().bytes_zero_copy += PayloadBytes(AsConst(request.out));
  if (request.lse != nullptr) {
    auto lse = PlaceFloats(session, request.lse, request.q.tokens * request.q.heads, item.initLse());
    if (!lse) return lse.error();
    sent.staged_lse = *lse;
  }
  if (request.sink_logits != nullptr) {
    auto sinks = PlaceFloats(session, request.sink_logits, request.q.heads, item.initSinkLogits());
    if (!sinks) return sinks.error();
    if (*sinks != nullptr) std::memcpy(*sinks, request.sink_logits, request.q.heads * sizeof(float));
  }
  item.setScale(request.scale);
  item.setSoftcap(request.softcap);
  item.setWindow(request.window);
  WriteTokens(session, sequence.store().spec().kv_heads, request, item);
  return sent;
}

Result<void> AttendInService(Session& session, std::size_t layer, std::span<const AttendCall> requests) {
  if (requests.size() > wire::MAX_BATCH) {
    return InvalidArgument("a batch of " + std::to_string(requests.size()) + " items, at most " +
                           std::to_string(wire::MAX_BATCH) + " go in one call");
  }
  // A reader's session may have no arena yet.
  if (auto arena = session.GetArena(); !arena) return arena.error();
  session.ResetScratch();
  // Without a hint Cap'n Proto clears 8 KiB for a message of a few hundred bytes.
  constexpr std::uint64_t kWordsOfItem = 60;
  auto call = session.remote().attendRequest(capnp::MessageSize{8 + kWordsOfItem * requests.size(), 0});
  auto items = call.initItems(static_cast<unsigned>(requests.size()));
  std::vector<Sent> sent(requests.size());
  for (unsigned i = 0; i < items.size(); ++i) {
    const CountFor counted(*requests[i].sequence);
    ++session.counters().attend_calls;
    auto request = ReadArgs(layer, requests[i]);
    if (!request) return request.error();
    auto item = WriteItem(session, *requests[i].sequence, *request, items[i]);
    if (!item) return Error{item.error().code, "attend: " + item.error().message};
    sent[i] = *item;
  }
  auto answer = session.Call(call, "attend", [](auto&&) {});
  if (!answer) return answer.error();
  const auto outcomes = answer->getOutcomes();
  if (outcomes.size() != requests.size()) {
    return Error{ErrorCode::kInternal, "attend: the daemon answered " + std::to_string(requests.size()) + " items with " +
                                           std::to_string(outcomes.size()) + " outcomes"};
  }
  Result<void> first_failure;
  for (unsigned i = 0; i < outcomes.size(); ++i) {
    auto outcome = wire::ReadStatus(outcomes[i]);
    if (!outcome) {
      if (first_failure) {
        first_failure = requests.size() == 1
                            ? outcome.error()
                            : Error{outcome.error().code, "item " + std::to_string(i) + ": " + outcome.error().message};
      }
      continue;
    }
    const CountFor counted(*requests[i].sequence);
    FinishOutput(session, sent[i].out);
    if (requests[i].from_end == 0) requests[i].sequence->RowsAreFinite(layer, requests[i].args->q.tokens);
    if (sent[i].staged_lse != nullptr) {
      const AttendArgs& args = *requests[i].args;
      std::memcpy(args.lse, sent[i].staged_lse, args.q.tokens * args.q.heads * sizeof(float));
    }
  }
  return first_failure;
}

Result<void> AttendHere(Session& session, std::size_t layer, std::span<const AttendCall> requests) {
  LocalAttention& local = session.local();
  local.views.resize(requests.size());
  local.items.clear();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Sequence& sequence = *requests[i].sequence;
    const CountFor counted(sequence);
    ++session.counters().attend_calls;
    auto plan = sequence.store().plan();
    if (!plan) return plan.error();
    auto request = ReadArgs(layer, requests[i]);
    if (!request) return request.error();
    auto item = quantizers::MakeItem(**plan, sequence.Cache(), *request, local.views[i]);
    if (!item) return item.error();
    local.items.push_back(*item);
    session.counters().bytes_zero_copy += PayloadBytes(request->q) + PayloadBytes(AsConst(request->out));
  }
  local.attention.Run(local.items);
  // Looked at afterwards: only then is it sure that no slot was rewritten while it was read.
  for (const AttendCall& request : requests) {
    if (auto held = request.sequence->store().CheckHeld("attend"); !held) return held;
  }
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (auto finite = quantizers::CheckResult(local.items[i]); !finite) return finite;
    if (requests[i].from_end == 0) requests[i].sequence->RowsAreFinite(layer, local.items[i].query.q.tokens);
  }
  return {};
}

}  // namespace

Result<void> Attend(std::size_t layer, std::span<const AttendCall> requests) {
  if (requests.empty()) return {};
  Session& session = requests[0].sequence->session();
  const bool local = requests[0].sequence->local();
  for (const AttendCall& request : requests) {
    if (&request.sequence->session() != &session)
      return InvalidArgument("the sequences of a batch belong to different clients");
    if (request.sequence->local() != local) return InvalidArgument("the sequences of a batch have different placements");
    const CountFor counted(*request.sequence);
    if (auto ready = request.sequence->Ready("attend"); !ready) return ready;
  }
  return local ? AttendHere(session, layer, requests) : AttendInService(session, layer, requests);
}

}  // namespace kvant::client
