#include "daemon/serve/session_messages.h"

#include <span>
#include <string>

#include "daemon/serve/refusals.h"
#include "daemon/serve/rpc_handler.h"
#include "protocol/digest.h"
#include "protocol/wire.h"
#include "quantizers/plan.h"

namespace kvant::daemon {
namespace {

static_assert(wire::MAX_STATE_BYTES == kMaxStateBytes);
static_assert(wire::kMaxOverrides == quantizers::kMaxOverrides, "what a message may hold is what a plan takes");

Result<TensorView> ReadTensor(const Session& session, std::string_view what, wire::Tensor::Reader from) {
  auto arena = session.FindArena(from.getArena());
  if (!arena) return Error{arena.error().code, std::string(what) + ": " + arena.error().message};
  auto type = wire::ReadElementType(from.getElementType());
  if (!type) return Error{type.error().code, std::string(what) + ": " + type.error().message};
  const TensorPlace place{.offset = from.getOffset(),
                          .type = *type,
                          .tokens = from.getTokens(),
                          .heads = from.getHeads(),
                          .dim = from.getDim(),
                          .token_stride = from.getTokenStride(),
                          .head_stride = from.getHeadStride()};
  return (*arena)->CheckTensor(what, place);
}

/// f32 numbers in an arena.
Result<std::span<float>> ReadFloats(const Session& session, std::string_view what, wire::Range::Reader from) {
  const RangePlace range = ReadRange(from);
  auto arena = session.FindArena(range.arena);
  if (!arena) return Error{arena.error().code, std::string(what) + ": " + arena.error().message};
  auto place = (*arena)->CheckRange(what, range.offset, range.bytes, alignof(float));
  if (!place) return place.error();
  return std::span<float>(reinterpret_cast<float*>(*place), range.bytes / sizeof(float));
}

Result<KeptWords> ReadKept(const Session& session, wire::KeptTokens::Reader from) {
  KeptWords kept;
  kept.tokens = {.window = from.getWindow(), .sinks = from.getSinks(), .whole_below = from.getWholeBelow()};
  if (!from.hasBits()) return kept;
  const RangePlace range = ReadRange(from.getBits());
  auto arena = session.FindArena(range.arena);
  if (!arena) return Error{arena.error().code, "attend: kept tokens: " + arena.error().message};
  auto place = (*arena)->CheckRange("attend: kept tokens", range.offset, range.bytes, alignof(std::uint64_t));
  if (!place) return place.error();
  kept.tokens.bits = reinterpret_cast<const std::uint64_t*>(*place);
  kept.tokens.end = from.getEnd();
  kept.words = range.bytes / sizeof(std::uint64_t);
  return kept;
}

void WriteBlock(SlotRef slot, std::uint64_t generation, wire::BlockRef::Builder to) {
  to.setSlab(slot.slab);
  to.setSlot(slot.slot);
  to.setGeneration(generation);
}

void WriteTable(const Sequence& sequence, BlockRange range, wire::BlockTable::Builder to) {
  const auto blocks = sequence.blocks().first(static_cast<std::size_t>(range.end));
  to.setFirst(static_cast<std::uint32_t>(range.begin));
  if (range.begin >= range.end) return;
  auto list = to.initBlocks(static_cast<unsigned>(range.end - range.begin));
  for (std::uint64_t i = range.begin; i < range.end; ++i) {
    WriteBlock(blocks[i]->codes().slot, blocks[i]->generation, list[static_cast<unsigned>(i - range.begin)]);
  }
  const BlockPart* sinks = range.begin == 0 ? blocks[0]->sinks() : nullptr;
  if (sinks != nullptr) WriteBlock(sinks->slot, blocks[0]->generation, to.initSinks());
}

}  // namespace

RangePlace ReadRange(wire::Range::Reader from) { return {from.getArena(), from.getOffset(), from.getBytes()}; }

Result<NewSequence> ReadOptions(wire::SequenceOptions::Reader from) {
  NewSequence options;
  switch (from.getPlacement()) {
    case wire::Placement::SERVICE: options.placement = Placement::kService; break;
    case wire::Placement::LOCAL: options.placement = Placement::kLocal; break;
    default:
      return Error{ErrorCode::kInvalidArgument, "placement " + std::to_string(static_cast<unsigned>(from.getPlacement())) +
                                                    " is unknown (service = 0, local = 1)"};
  }
  const auto tail = from.getTail();
  auto type = wire::ReadElementType(tail.getElementType());
  if (!type) return Error{type.error().code, "tail: " + type.error().message};
  options.arena = tail.getArena();
  options.tail = {.offset = tail.getOffset(),
                  .type = *type,
                  .capacity_tokens = tail.getCapacityTokens(),
                  .spare_tokens = tail.getSpareTokens()};
  options.recent_tokens = from.getRecentTokens();
  options.max_step_tokens = from.getMaxStepTokens();
  options.want_state = from.getWantState();
  options.priority = from.getPriority();
  if (options.priority > kMaxPriority) {
    return Error{ErrorCode::kInvalidArgument,
                 "priority " + std::to_string(options.priority) + ": 0 to " + std::to_string(kMaxPriority) + " are possible"};
  }
  options.label = StringOf(from.getLabel(), wire::MAX_LABEL_TEXT);
  options.policy = StringOf(from.getPolicy(), wire::MAX_LABEL_TEXT);
  return options;
}

std::vector<std::uint32_t> ReadTokens(capnp::List<std::uint32_t>::Reader from) {
  std::vector<std::uint32_t> tokens(from.size());
  for (unsigned i = 0; i < from.size(); ++i) tokens[i] = from[i];
  return tokens;
}

Result<AttendCall> ReadAttend(const Session& session, wire::AttendItem::Reader from) {
  AttendCall call;
  call.layer = from.getLayer();
  call.unnamed = from.getUnnamed();
  call.new_tokens = from.getNewTokens();
  call.scale = from.getScale();
  call.softcap = from.getSoftcap();
  call.window = from.getWindow();
  call.from_end = from.getFromEnd();
  auto q = ReadTensor(session, "attend: q", from.getQ());
  if (!q) return q.error();
  call.q = AsConst(*q);
  auto out = ReadTensor(session, "attend: out", from.getOut());
  if (!out) return out.error();
  call.out = *out;
  if (from.hasLse()) {
    auto lse = ReadFloats(session, "attend: lse", from.getLse());
    if (!lse) return lse.error();
    call.lse = lse->data();
    call.lse_floats = lse->size();
  }
  if (from.hasSinkLogits()) {
    auto sinks = ReadFloats(session, "attend: sink logits", from.getSinkLogits());
    if (!sinks) return sinks.error();
    call.sink_logits = sinks->data();
    call.sink_floats = sinks->size();
  }
  if (from.hasKept()) {
    auto kept = ReadKept(session, from.getKept());
    if (!kept) return kept.error();
    call.kept = *kept;
  }
  if (from.hasVotes()) {
    auto votes = ReadFloats(session, "attend: votes", from.getVotes());
    if (!votes) return votes.error();
    call.votes = votes->data();
    call.votes_floats = votes->size();
  }
  return call;
}

Result<quantizers::RowsRequest> ReadRowsRequest(const Session& session, wire::Session::CopyRowsParams::Reader from) {
  quantizers::RowsRequest request{.layer = from.getLayer(), .first = from.getFirst()};
  if (from.hasKeys()) {
    auto keys = ReadTensor(session, "copy rows: keys", from.getKeys());
    if (!keys) return keys.error();
    request.keys = *keys;
    request.count = keys->tokens;
  }
  if (from.hasValues()) {
    auto values = ReadTensor(session, "copy rows: values", from.getValues());
    if (!values) return values.error();
    request.values = *values;
    request.count = values->tokens;
  }
  return request;
}

void WriteState(const Sequence& sequence, BlockRange told, wire::SequenceState::Builder to) {
  to.setSequence(sequence.id());
  to.setLength(sequence.length());
  to.setPrefixHitTokens(sequence.prefix_hit_tokens());
  to.setSwitchedBlocks(static_cast<std::uint32_t>(sequence.switched_blocks()));
  if (told.end != 0) WriteTable(sequence, told, to.initTable());
}

void WriteAdvanced(Session& session, const Sequence* sequence, const Result<Advanced>& result, BlockRange told,
                   wire::Advanced::Builder to) {
  if (!result) {
    WriteRefusal(session, result.error(), to.initStatus().initError());
    if (sequence != nullptr) {
      to.setLength(sequence->length());
      to.setSwitchedBlocks(static_cast<std::uint32_t>(sequence->switched_blocks()));
    }
    return;
  }
  to.setLength(result->length);
  to.setSwitchedBlocks(static_cast<std::uint32_t>(result->switched_blocks));
  if (result->seal_error) {
    WriteRefusal(session, *result->seal_error, to.initStatus().initError());
  } else {
    to.initStatus().setOk();
  }
  if (sequence != nullptr && told.end != 0) WriteTable(*sequence, told, to.initTable());
}

void WriteStore(const Session::NumberedStore& opened, wire::StoreOpened::Builder to) {
  const Store& store = *opened.store;
  const quantizers::Plan& plan = *store.plan();
  to.setStore(opened.number);
  to.setIdentity(TextOf(protocol::DigestHex(store.identity())));
  to.setCreated(opened.created);
  to.setRelabelled(opened.relabelled);
  to.setPlan(TextOf(plan.canonical()));
  to.setSlotBytes(store.slot_bytes());
  to.setPayloadBytes(plan.payload_bytes());
  to.setLogicalBlockBytes(plan.logical_bytes());
  to.setKeyBitsPerElement(plan.bits_per_element(quantizers::Side::kKeys));
  to.setValueBitsPerElement(plan.bits_per_element(quantizers::Side::kValues));
  to.setWarning(TextOf(store.key_means().Warning()));
}

}  // namespace kvant::daemon
