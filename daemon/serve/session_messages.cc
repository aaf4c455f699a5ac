#include "daemon/serve/session_messages.h"

#include <span>
#include <string>

#include "daemon/serve/rpc_guard.h"
#include "protocol/digest.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

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

void WriteBlock(SlotRef slot, std::uint64_t generation, wire::BlockRef::Builder to) {
  to.setSlab(slot.slab);
  to.setSlot(slot.slot);
  to.setGeneration(generation);
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
  options.tail = {.offset = tail.getOffset(), .type = *type, .capacity_tokens = tail.getCapacityTokens()};
  options.recent_tokens = from.getRecentTokens();
  options.max_step_tokens = from.getMaxStepTokens();
  options.label = StringOf(from.getLabel());
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
  call.new_tokens = from.getNewTokens();
  call.scale = from.getScale();
  call.softcap = from.getSoftcap();
  call.window = from.getWindow();
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
  return call;
}

Result<Session::AppendCall> ReadAppend(const Session& session, wire::AppendItem::Reader from) {
  Session::AppendCall call;
  call.sequence = from.getSequence();
  call.layer = from.getLayer();
  call.first_token = from.getFirstToken();
  auto keys = ReadTensor(session, "append: keys", from.getKeys());
  if (!keys) return keys.error();
  call.keys = AsConst(*keys);
  auto values = ReadTensor(session, "append: values", from.getValues());
  if (!values) return values.error();
  call.values = AsConst(*values);
  return call;
}

void WriteTable(const Sequence& sequence, std::uint64_t first, std::uint64_t end, wire::BlockTable::Builder to) {
  const auto blocks = sequence.blocks().first(static_cast<std::size_t>(end));
  to.setFirst(static_cast<std::uint32_t>(first));
  if (first >= end) return;
  auto list = to.initBlocks(static_cast<unsigned>(end - first));
  for (std::uint64_t i = first; i < end; ++i) {
    WriteBlock(blocks[i]->codes().slot, blocks[i]->generation, list[static_cast<unsigned>(i - first)]);
  }
  const BlockPart* sinks = first == 0 ? blocks[0]->sinks() : nullptr;
  if (sinks != nullptr) WriteBlock(sinks->slot, blocks[0]->generation, to.initSinks());
}

void WriteState(Session& session, const Sequence& sequence, Placement placement, wire::SequenceState::Builder to) {
  to.setSequence(sequence.id());
  to.setLength(sequence.length());
  to.setPrefixHitTokens(sequence.prefix_hit_tokens());
  to.setSwitchedBlocks(static_cast<std::uint32_t>(sequence.switched_blocks()));
  if (placement != Placement::kLocal) return;
  WriteTable(sequence, 0, sequence.sealed_blocks(), to.initTable());
  session.ForgetBlocks(sequence.id(), sequence.sealed_blocks());
  session.TellBlocks(sequence.id(), sequence.sealed_blocks());
}

void WriteAdvanced(Session& session, std::uint64_t id, const Result<Advanced>& result, wire::Advanced::Builder to) {
  auto own = session.Own(id);
  if (!result || !own) {
    WriteStatus(result ? Result<void>(own.error()) : Result<void>(result.error()), to.initStatus());
    if (own) {
      to.setLength(own->sequence->length());
      to.setSwitchedBlocks(static_cast<std::uint32_t>(own->sequence->switched_blocks()));
    }
    return;
  }
  to.setLength(result->length);
  to.setSwitchedBlocks(static_cast<std::uint32_t>(result->switched_blocks));
  if (result->seal_error) {
    WriteStatus(*result->seal_error, to.initStatus());
  } else {
    to.initStatus().setOk();
  }
  if (own->placement != Placement::kLocal) return;
  const std::uint64_t sealed = own->sequence->sealed_blocks();
  session.ForgetBlocks(id, sealed);
  WriteTable(*own->sequence, session.TellBlocks(id, sealed), sealed, to.initTable());
}

void WriteStore(const Session::HeldStore& held, wire::StoreOpened::Builder to) {
  const Store& store = *held.store;
  const quantizers::Plan& plan = *store.plan();
  to.setStore(held.number);
  to.setIdentity(TextOf(protocol::DigestHex(store.identity())));
  to.setCreated(held.created);
  to.setPlan(TextOf(plan.canonical()));
  to.setSlotBytes(store.slot_bytes());
  to.setPayloadBytes(plan.payload_bytes());
  to.setLogicalBlockBytes(plan.logical_bytes());
  double key_bits = 0;
  double value_bits = 0;
  for (std::size_t i = 0; i < plan.layers(); ++i) {
    key_bits += 8.0 * static_cast<double>(plan.layer(i).keys->block_bytes());
    value_bits += 8.0 * static_cast<double>(plan.layer(i).values->block_bytes());
  }
  const double elements = static_cast<double>(plan.layers()) * plan.spec().block_tokens * plan.spec().head_dim;
  to.setKeyBitsPerElement(key_bits / elements);
  to.setValueBitsPerElement(value_bits / elements);
}

}  // namespace kvant::daemon
