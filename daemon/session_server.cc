#include "daemon/session_server.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "daemon/rpc_guard.h"
#include "protocol/digest.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

// ---------------------------------------------------------------------------------------------- from messages

RangePlace ReadRange(wire::Range::Reader from) { return {from.getArena(), from.getOffset(), from.getBytes()}; }

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

/// Fills everything but the sequence.
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

Result<void> RunAppend(Session& session, wire::AppendItem::Reader from) {
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
  return session.Append(call);
}

// ------------------------------------------------------------------------------------------------ to messages

void WriteBlock(SlotRef slot, std::uint64_t generation, wire::BlockRef::Builder to) {
  to.setSlab(slot.slab);
  to.setSlot(slot.slot);
  to.setGeneration(generation);
}

/// Blocks [first, end) of a sequence.
void WriteTable(const Sequence& sequence, std::uint64_t first, std::uint64_t end, wire::BlockTable::Builder to) {
  const auto blocks = sequence.blocks().first(static_cast<std::size_t>(end));
  to.setFirst(static_cast<std::uint32_t>(first));
  if (first >= end) return;
  auto list = to.initBlocks(static_cast<unsigned>(end - first));
  for (std::uint64_t i = first; i < end; ++i) {
    WriteBlock(blocks[i]->slot, blocks[i]->generation, list[static_cast<unsigned>(i - first)]);
  }
  if (first == 0 && blocks[0]->sinks) WriteBlock(*blocks[0]->sinks, blocks[0]->generation, to.initSinks());
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

// -------------------------------------------------------------------------------------------------- sequences

/// The sequences that a batch names.
template <typename Items, typename IdOf>
std::vector<std::uint64_t> IdsOf(Items items, IdOf id_of) {
  std::vector<std::uint64_t> ids;
  ids.reserve(items.size());
  for (auto item : items) ids.push_back(id_of(item));
  return ids;
}

Sequence* FindAny(const Session& session, std::uint64_t id) {
  if (auto view = session.View(id)) return view->sequence;
  auto elsewhere = session.services().core.sequences.Find(id);  // the source of a fork
  return elsewhere ? *elsewhere : nullptr;
}

void CheckBatch(std::size_t items) {
  KJ_REQUIRE(items <= wire::MAX_BATCH, "too many items in one call", items, +wire::MAX_BATCH);
}

/// Attends every item whose outcome is success so far.
template <typename Items, typename AttendOf>
void RunAttend(Session& session, Items items, AttendOf attend_of, std::vector<Result<void>>& outcomes) {
  std::vector<AttendCall> calls;
  std::vector<std::size_t> item_of_call;
  calls.reserve(items.size());
  item_of_call.reserve(items.size());
  for (unsigned i = 0; i < items.size(); ++i) {
    if (!outcomes[i]) continue;
    const wire::AttendItem::Reader item = attend_of(items[i]);
    auto view = session.View(item.getSequence());
    if (!view) {
      outcomes[i] = view.error();
      continue;
    }
    auto call = ReadAttend(session, item);
    if (!call) {
      outcomes[i] = call.error();
      continue;
    }
    call->sequence = view->sequence;
    calls.push_back(*call);
    item_of_call.push_back(i);
    session.CountAttend();
  }
  std::vector<Result<void>> attended(calls.size());
  session.services().attend.Run(calls, attended);
  for (std::size_t i = 0; i < calls.size(); ++i) outcomes[item_of_call[i]] = std::move(attended[i]);
}

/// Answers of one advance's items as they come in; shared by the callbacks and the continuation.
struct AdvanceAnswers {
  std::vector<std::optional<Result<Advanced>>> of_item;
  std::size_t missing = 0;
  kj::Own<kj::PromiseFulfiller<void>> all_here;  // set while the call waits

  void Put(std::size_t item, Result<Advanced> answer) {
    of_item[item] = std::move(answer);
    if (--missing == 0 && all_here.get() != nullptr) all_here->fulfill();
  }
};

using AdvanceContext = capnp::CallContext<wire::Session::AdvanceParams, wire::Session::AdvanceResults>;

void WriteAnswers(Session& session, const AdvanceAnswers& answers, AdvanceContext context) {
  const auto items = context.getParams().getItems();
  auto outcomes = context.getResults().initOutcomes(items.size());
  for (unsigned i = 0; i < items.size(); ++i) WriteAdvanced(session, items[i].getSequence(), *answers.of_item[i], outcomes[i]);
}

kj::Promise<void> RunAdvance(const std::shared_ptr<Session>& session, AdvanceContext context) {
  const auto items = context.getParams().getItems();
  auto answers = std::make_shared<AdvanceAnswers>();
  answers->of_item.resize(items.size());
  answers->missing = items.size();
  for (unsigned i = 0; i < items.size(); ++i) {
    auto own = session->Own(items[i].getSequence());
    if (!own) {
      answers->Put(i, own.error());
      continue;
    }
    const SealWait wait = items[i].getWaitSealed() ? SealWait::kDue : SealWait::kSwitched;
    const std::uint64_t before = own->sequence->length();
    own->sequence->Advance(ReadTokens(items[i].getTokens()), wait, [answers, i](Result<Advanced> answer) { answers->Put(i, std::move(answer)); });
    session->CountAdvanced(own->sequence->length() - before);
  }
  if (answers->missing == 0) {
    WriteAnswers(*session, *answers, context);
    return kj::READY_NOW;
  }
  auto pair = kj::newPromiseAndFulfiller<void>();
  answers->all_here = kj::mv(pair.fulfiller);
  return pair.promise.then([session, answers, context]() mutable {
    Guarded([&] { WriteAnswers(*session, *answers, context); });
  });
}

using ReleaseContext = capnp::CallContext<wire::Session::ReleaseParams, wire::Advanced>;

kj::Promise<void> RunRelease(const std::shared_ptr<Session>& session, ReleaseContext context) {
  const std::uint64_t id = context.getParams().getSequence();
  auto own = session->Own(id);
  if (!own) {
    WriteAdvanced(*session, id, own.error(), context.getResults());
    return kj::READY_NOW;
  }
  auto pair = kj::newPromiseAndFulfiller<void>();
  // The callback may come from inside Release; the answer is written in the next turn either way.
  auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
  auto result = std::make_shared<std::optional<Result<Advanced>>>();
  own->sequence->Release(context.getParams().getMark().getLength(), [fulfiller, result](Result<Advanced> answer) {
    *result = std::move(answer);
    (*fulfiller)->fulfill();
  });
  return pair.promise.then([session, id, result, context]() mutable {
    Guarded([&] { WriteAdvanced(*session, id, **result, context.getResults()); });
  });
}

template <typename Context>
void WriteOutcomes(const std::vector<Result<void>>& outcomes, Context context) {
  auto list = context.getResults().initOutcomes(static_cast<unsigned>(outcomes.size()));
  for (unsigned i = 0; i < list.size(); ++i) wire::WriteStatus(outcomes[i], list[i]);
}

}  // namespace

kj::Promise<void> SegmentServer::size(SizeContext context) {
  context.getResults().setBytes(bytes_);
  return kj::READY_NOW;
}

SessionServer::SessionServer(std::shared_ptr<Session> session)
    : session_(std::move(session)), order_(std::make_shared<CallOrder>([held = session_](std::uint64_t id) { return FindAny(*held, id); })) {}

template <typename Body>
kj::Promise<void> SessionServer::InOrder(std::vector<std::uint64_t> ids, CallNeeds needs, Body body) {
  return order_->Run(std::move(ids), needs, [body = kj::mv(body)]() mutable -> kj::Promise<void> {
    Guarded(body);
    return kj::READY_NOW;
  });
}

SessionServer::~SessionServer() noexcept(false) { session_->Close(); }

kj::Promise<void> SessionServer::ping(PingContext) { return kj::READY_NOW; }

kj::Promise<void> SessionServer::createArena(CreateArenaContext context) {
  return Guarded([&]() -> kj::Promise<void> {
    auto made = session_->CreateArena(context.getParams().getBytes());
    if (!made) {
      wire::WriteError(made.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    auto ok = context.getResults().initOk();
    ok.setArena(made->number);
    ok.setBytes(made->arena->bytes());
    const int fd = made->arena->fd();
    const std::uint64_t bytes = made->arena->bytes();
    ok.setSegment(kj::heap<SegmentServer>(fd, bytes, std::move(made->arena)));
    return kj::READY_NOW;
  });
}

kj::Promise<void> SessionServer::openStore(OpenStoreContext context) {
  return Guarded([&]() -> kj::Promise<void> {
    const auto from = context.getParams().getSpec();
    auto spec = wire::ReadStoreSpec(from);
    auto held = spec ? session_->OpenStore(*std::move(spec), ReadRange(from.getArtifact())) : Result<Session::HeldStore>(spec.error());
    if (!held) {
      wire::WriteError(held.error(), context.getResults().initError());
    } else {
      WriteStore(*held, context.getResults().initOk());
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> SessionServer::slabs(SlabsContext context) {
  return Guarded([&]() -> kj::Promise<void> {
    auto store = session_->FindStore(context.getParams().getStore());
    if (!store) {
      wire::WriteError(store.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    const auto slabs = (*store)->slabs(context.getParams().getFrom());
    const auto count = static_cast<unsigned>(std::min<std::size_t>(slabs.size(), wire::kMaxFdsPerMessage));
    auto list = context.getResults().initOk(count);
    for (unsigned i = 0; i < count; ++i) {
      list[i].setIndex(slabs[i]->shape().index);
      list[i].setBytes(slabs[i]->bytes());
      list[i].setSegment(kj::heap<SegmentServer>(slabs[i]->read_only_fd(), slabs[i]->bytes(), slabs[i]));
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> SessionServer::openSequence(OpenSequenceContext context) {
  return Guarded([&]() -> kj::Promise<void> {
    const auto params = context.getParams();
    auto options = ReadOptions(params.getOptions());
    auto sequence = options ? session_->Open(params.getStore(), ReadTokens(params.getTokens()), *options) : Result<Sequence*>(options.error());
    if (!sequence) {
      wire::WriteError(sequence.error(), context.getResults().initError());
    } else {
      WriteState(*session_, **sequence, options->placement, context.getResults().initOk());
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> SessionServer::fork(ForkContext context) {
  return Guarded([&] {
    return InOrder({context.getParams().getSource()}, CallNeeds::kSettled, [session = session_, context]() mutable {
      const auto params = context.getParams();
      auto options = ReadOptions(params.getOptions());
      auto sequence = options ? session->Fork(params.getStore(), params.getSource(), params.getLength(), *options)
                              : Result<Sequence*>(options.error());
      if (!sequence) {
        wire::WriteError(sequence.error(), context.getResults().initError());
      } else {
        WriteState(*session, **sequence, options->placement, context.getResults().initOk());
      }
    });
  });
}

kj::Promise<void> SessionServer::read(ReadContext context) {
  return Guarded([&] {
    return InOrder({context.getParams().getSource()}, CallNeeds::kOrder, [session = session_, context]() mutable {
      auto reader = session->Read(context.getParams().getStore(), context.getParams().getSource());
      if (!reader) {
        wire::WriteError(reader.error(), context.getResults().initError());
        return;
      }
      auto ok = context.getResults().initOk();
      WriteState(*session, *reader->source, Placement::kService, ok);
      ok.setSequence(reader->id);
    });
  });
}

kj::Promise<void> SessionServer::close(CloseContext context) {
  return Guarded([&] {
    return InOrder({context.getParams().getSequence()}, CallNeeds::kOrder, [session = session_, context]() mutable {
      wire::WriteStatus(session->CloseSequence(context.getParams().getSequence()), context.getResults());
    });
  });
}

kj::Promise<void> SessionServer::append(AppendContext context) {
  return Guarded([&] {
    const auto sent = context.getParams().getItems();
    CheckBatch(sent.size());
    auto ids = IdsOf(sent, [](wire::AppendItem::Reader item) { return item.getSequence(); });
    return InOrder(std::move(ids), CallNeeds::kSettled, [session = session_, context]() mutable {
      const auto items = context.getParams().getItems();
      std::vector<Result<void>> outcomes(items.size());
      for (unsigned i = 0; i < items.size(); ++i) outcomes[i] = RunAppend(*session, items[i]);
      WriteOutcomes(outcomes, context);
    });
  });
}

kj::Promise<void> SessionServer::attend(AttendContext context) {
  return Guarded([&] {
    const auto sent = context.getParams().getItems();
    CheckBatch(sent.size());
    auto ids = IdsOf(sent, [](wire::AttendItem::Reader item) { return item.getSequence(); });
    return InOrder(std::move(ids), CallNeeds::kSettled, [session = session_, context]() mutable {
      const auto items = context.getParams().getItems();
      std::vector<Result<void>> outcomes(items.size());
      RunAttend(*session, items, [](wire::AttendItem::Reader item) { return item; }, outcomes);
      WriteOutcomes(outcomes, context);
    });
  });
}

kj::Promise<void> SessionServer::step(StepContext context) {
  return Guarded([&] {
    const auto sent = context.getParams().getItems();
    CheckBatch(sent.size());
    auto ids = IdsOf(sent, [](wire::StepItem::Reader item) { return item.getAttend().getSequence(); });
    return InOrder(std::move(ids), CallNeeds::kSettled, [session = session_, context]() mutable {
      const auto items = context.getParams().getItems();
      std::vector<Result<void>> outcomes(items.size());
      for (unsigned i = 0; i < items.size(); ++i) {
        if (!items[i].hasAppend()) continue;
        if (items[i].getAppend().getSequence() != items[i].getAttend().getSequence()) {
          outcomes[i] = Error{ErrorCode::kInvalidArgument, "step: append names another sequence than attend"};
        } else {
          outcomes[i] = RunAppend(*session, items[i].getAppend());
        }
      }
      RunAttend(*session, items, [](wire::StepItem::Reader item) { return item.getAttend(); }, outcomes);
      WriteOutcomes(outcomes, context);
    });
  });
}

kj::Promise<void> SessionServer::advance(AdvanceContext context) {
  return Guarded([&] {
    const auto sent = context.getParams().getItems();
    CheckBatch(sent.size());
    auto ids = IdsOf(sent, [](wire::AdvanceItem::Reader item) { return item.getSequence(); });
    // Advances follow each other without waiting for the one before to be answered: the sequence keeps them apart.
    return order_->Run(std::move(ids), CallNeeds::kOrder, [session = session_, context]() mutable {
      return Guarded([&] { return RunAdvance(session, context); });
    });
  });
}

kj::Promise<void> SessionServer::trim(TrimContext context) {
  return Guarded([&] {
    return InOrder({context.getParams().getSequence()}, CallNeeds::kSettled, [session = session_, context]() mutable {
      auto own = session->Own(context.getParams().getSequence());
      auto done = own ? own->sequence->Trim(context.getParams().getLength()) : Result<void>(own.error());
      if (!done) {
        wire::WriteError(done.error(), context.getResults().initError());
      } else {
        WriteState(*session, *own->sequence, own->placement, context.getResults().initOk());
      }
    });
  });
}

kj::Promise<void> SessionServer::mark(MarkContext context) {
  return Guarded([&] {
    return InOrder({context.getParams().getSequence()}, CallNeeds::kSettled, [session = session_, context]() mutable {
      auto own = session->Own(context.getParams().getSequence());
      auto marked = own ? own->sequence->SetMark() : Result<std::uint64_t>(own.error());
      if (!marked) {
        wire::WriteError(marked.error(), context.getResults().initError());
      } else {
        context.getResults().initOk().setLength(*marked);
      }
    });
  });
}

kj::Promise<void> SessionServer::rewind(RewindContext context) {
  return Guarded([&] {
    return InOrder({context.getParams().getSequence()}, CallNeeds::kSettled, [session = session_, context]() mutable {
      auto own = session->Own(context.getParams().getSequence());
      auto done = own ? own->sequence->Rewind(context.getParams().getMark().getLength()) : Result<void>(own.error());
      if (!done) {
        wire::WriteError(done.error(), context.getResults().initError());
      } else {
        WriteState(*session, *own->sequence, own->placement, context.getResults().initOk());
      }
    });
  });
}

kj::Promise<void> SessionServer::release(ReleaseContext context) {
  return Guarded([&] {
    return order_->Run({context.getParams().getSequence()}, CallNeeds::kOrder, [session = session_, context]() mutable {
      return Guarded([&] { return RunRelease(session, context); });
    });
  });
}

kj::Promise<void> SessionServer::blocks(BlocksContext context) {
  return Guarded([&] {
    return InOrder({context.getParams().getSequence()}, CallNeeds::kOrder, [session = session_, context]() mutable {
      auto own = session->Own(context.getParams().getSequence());
      if (!own) {
        wire::WriteError(own.error(), context.getResults().initError());
        return;
      }
      const std::uint64_t sealed = own->sequence->sealed_blocks();
      const std::uint64_t first = std::min<std::uint64_t>(context.getParams().getFrom(), sealed);
      WriteTable(*own->sequence, first, sealed, context.getResults().initOk());
    });
  });
}

kj::Promise<void> SessionServer::stats(StatsContext context) {
  auto stats = context.getResults().initStats();
  stats.setBytesCopied(session_->bytes_copied());
  stats.setAttendCalls(session_->attend_calls());
  stats.setTokensAdvanced(session_->tokens_advanced());
  stats.setArenaBytes(session_->arena_bytes());
  stats.setSequences(session_->sequences());
  return kj::READY_NOW;
}

}  // namespace kvant::daemon
