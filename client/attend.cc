#include "client/attend.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "client/tensor_place.h"
#include "protocol/wire.h"
#include "quantizers/attention/attention.h"

namespace kvant::client {
namespace {

Error InvalidArgument(const std::string& message) { return {ErrorCode::kInvalidArgument, "attend: " + message}; }

std::string Shape(const ConstTensorView& view) {
  return "[" + std::to_string(view.tokens) + ", " + std::to_string(view.heads) + ", " + std::to_string(view.dim) + "]";
}

bool Aligned(const void* data) noexcept { return reinterpret_cast<std::uintptr_t>(data) % alignof(float) == 0; }

/// What both placements check before memory is read.
Result<void> CheckArgs(const SequenceState& sequence, std::size_t layer, const AttendArgs& args) {
  const StoreSpec& spec = sequence.store().spec();
  if (layer >= spec.layers) {
    return Error{ErrorCode::kOutOfRange, "attend: layer " + std::to_string(layer) + " of " + std::to_string(spec.layers)};
  }
  if (auto good = CheckView(args.q, "attend: q"); !good) return good;
  if (auto good = CheckView(AsConst(args.out), "attend: out"); !good) return good;
  if (args.q.dim != spec.head_dim) {
    return InvalidArgument("q is " + Shape(args.q) + ", the store's head_dim is " + std::to_string(spec.head_dim));
  }
  if (args.q.heads % spec.kv_heads != 0) {
    return InvalidArgument("q has " + std::to_string(args.q.heads) + " heads, not a multiple of the store's " +
                           std::to_string(spec.kv_heads) + " KV heads");
  }
  if (args.out.tokens != args.q.tokens || args.out.heads != args.q.heads || args.out.dim != args.q.dim) {
    return InvalidArgument("out is " + Shape(AsConst(args.out)) + ", q is " + Shape(args.q));
  }
  if (sequence.reserved() == 0 && args.q.tokens != 1) {
    return InvalidArgument(std::to_string(args.q.tokens) + " queries without reserved rows; a probe of what is cached has one");
  }
  // How long a reader's sequence is by now, the daemon knows.
  if (sequence.reserved() == 0 && !sequence.read_only() && (sequence.length() == 0 || args.window == 1)) {
    return InvalidArgument(std::string("a query without reserved rows sees nothing: ") +
                           (args.window == 1 ? "its window holds itself only" : "the sequence is empty"));
  }
  if (sequence.reserved() > 0 && args.q.tokens > sequence.reserved()) {
    return InvalidArgument(std::to_string(args.q.tokens) + " queries for " + std::to_string(sequence.reserved()) +
                           " reserved rows");
  }
  if (!std::isfinite(args.scale) || args.scale == 0.0f) return InvalidArgument("scale is " + std::to_string(args.scale));
  if (!Aligned(args.lse) || !Aligned(args.sink_logits)) return InvalidArgument("lse or sink_logits is not aligned to floats");
  return {};
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

Result<Sent> WriteItem(Session& session, std::size_t layer, const AttendRequest& request, wire::AttendItem::Builder item) {
  const AttendArgs& args = *request.args;
  Sent sent;
  item.setSequence(request.sequence->id());
  item.setLayer(static_cast<std::uint32_t>(layer));
  item.setNewTokens(static_cast<std::uint32_t>(request.sequence->reserved()));
  if (auto placed = PlaceInput(session, args.q, item.initQ()); !placed) return placed.error();
  auto out = PlaceOutput(session, args.out, item.initOut());
  if (!out) return out.error();
  sent.out = *out;
  if (args.lse != nullptr) {
    auto lse = PlaceFloats(session, args.lse, args.q.tokens * args.q.heads, item.initLse());
    if (!lse) return lse.error();
    sent.staged_lse = *lse;
  }
  if (args.sink_logits != nullptr) {
    auto sinks = PlaceFloats(session, args.sink_logits, args.q.heads, item.initSinkLogits());
    if (!sinks) return sinks.error();
    if (*sinks != nullptr) std::memcpy(*sinks, args.sink_logits, args.q.heads * sizeof(float));
  }
  item.setScale(args.scale);
  item.setSoftcap(args.softcap);
  item.setWindow(args.window);
  return sent;
}

Result<void> AttendInService(Session& session, std::size_t layer, std::span<const AttendRequest> requests) {
  if (requests.size() > wire::MAX_BATCH) {
    return InvalidArgument("a batch of " + std::to_string(requests.size()) + " items, at most " +
                           std::to_string(wire::MAX_BATCH) + " go in one call");
  }
  // A reader's session may have no arena yet.
  if (auto arena = session.GetArena(); !arena) return arena.error();
  session.ResetScratch();
  // Without a hint Cap'n Proto clears 8 KiB for a message of a few hundred bytes.
  constexpr std::uint64_t kWordsOfItem = 40;
  auto call = session.remote().attendRequest(capnp::MessageSize{8 + kWordsOfItem * requests.size(), 0});
  auto items = call.initItems(static_cast<unsigned>(requests.size()));
  std::vector<Sent> sent(requests.size());
  for (unsigned i = 0; i < items.size(); ++i) {
    auto item = WriteItem(session, layer, requests[i], items[i]);
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
    FinishOutput(session, sent[i].out);
    if (sent[i].staged_lse != nullptr) {
      const AttendArgs& args = *requests[i].args;
      std::memcpy(args.lse, sent[i].staged_lse, args.q.tokens * args.q.heads * sizeof(float));
    }
  }
  return first_failure;
}

Result<void> AttendHere(Session& session, std::size_t layer, std::span<const AttendRequest> requests) {
  LocalAttention& local = session.local();
  local.views.resize(requests.size());
  local.items.clear();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    SequenceState& sequence = *requests[i].sequence;
    const AttendArgs& args = *requests[i].args;
    auto plan = sequence.store().plan();
    if (!plan) return plan.error();
    local.views[i] = sequence.View(layer);
    // A probe stands at length() but has no row there: it sees what the last token sees, less the oldest of its window.
    const std::uint32_t behind = sequence.reserved() == 0 ? 1 : 0;
    const quantizers::AttendItem item{.cache = {.plan = *plan,
                                                .layer = layer,
                                                .blocks = local.views[i].blocks,
                                                .raw = std::span(local.views[i].raw).first(local.views[i].raw_count)},
                                      .query = {.q = args.q,
                                                .out = args.out,
                                                .lse = args.lse,
                                                .sink_logits = args.sink_logits,
                                                .first_position = sequence.length() - behind,
                                                .scale = args.scale,
                                                .softcap = args.softcap,
                                                .window = args.window == 0 ? 0 : args.window - behind}};
    if (auto good = quantizers::CheckItem(item); !good) return good;
    if (auto finite = sequence.CheckReservedRows(layer); !finite) return finite;
    local.items.push_back(item);
    session.counters().bytes_zero_copy += PayloadBytes(args.q) + PayloadBytes(AsConst(args.out));
  }
  local.attention.Run(local.items);
  return {};
}

}  // namespace

Result<void> Attend(std::size_t layer, std::span<const AttendRequest> requests) {
  if (requests.empty()) return {};
  Session& session = requests[0].sequence->session();
  const bool local = requests[0].sequence->local();
  for (const AttendRequest& request : requests) {
    if (&request.sequence->session() != &session)
      return InvalidArgument("the sequences of a batch belong to different clients");
    if (request.sequence->local() != local) return InvalidArgument("the sequences of a batch have different placements");
    if (auto ready = request.sequence->Ready("attend"); !ready) return ready;
    if (auto good = CheckArgs(*request.sequence, layer, *request.args); !good) return good;
  }
  session.counters().attend_calls += requests.size();
  return local ? AttendHere(session, layer, requests) : AttendInService(session, layer, requests);
}

}  // namespace kvant::client
