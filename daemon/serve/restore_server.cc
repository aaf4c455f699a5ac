#include "daemon/serve/restore_server.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/serve/refusals.h"
#include "daemon/serve/restore_job.h"
#include "daemon/serve/session_messages.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

Error Ended() { return {ErrorCode::kInvalidArgument, "restore: it was committed already"}; }
Error Putting() { return {ErrorCode::kInvalidArgument, "restore: blocks are still being copied"}; }
Error TooMany(std::size_t count, std::size_t most) {
  return {ErrorCode::kInvalidArgument,
          "restore: " + std::to_string(count) + " blocks in one call, at most " + std::to_string(most)};
}

/// Where the bytes of each slot of one block lie in the session's arenas.
Result<void> AddCopies(const Session& session, wire::RestoredPayload::Reader from, std::vector<SlotToFill> slots,
                       std::vector<RestoreJob::Copy>& copies) {
  for (SlotToFill& slot : slots) {
    RangePlace place;
    switch (slot.info.kind) {
      case protocol::BlockKind::kSinks:
        place = ReadRange(from.getSinks());
        slot.checksum = from.getSinksChecksum();
        break;
      case protocol::BlockKind::kState:
        place = ReadRange(from.getState());
        slot.checksum = from.getStateChecksum();
        break;
      default:
        place = ReadRange(from.getCodes());
        slot.checksum = from.getCodesChecksum();
        break;
    }
    const std::string what = "restore block " + std::to_string(from.getBlock());
    if (place.bytes != slot.bytes) {
      return Error{ErrorCode::kInvalidArgument,
                   what + ": " + std::to_string(place.bytes) + " bytes where it has " + std::to_string(slot.bytes)};
    }
    auto arena = session.FindArena(place.arena);
    if (!arena) return Error{arena.error().code, what + ": " + arena.error().message};
    auto begin = (*arena)->CheckRange(what, place.offset, place.bytes, 1);
    if (!begin) return begin.error();
    copies.push_back({.to = std::move(slot), .from = *begin});
  }
  return {};
}

Result<void> OfferAll(Restoration& restoration, const std::shared_ptr<Store>& store,
                      capnp::List<wire::RestoredBlock>::Reader blocks, std::vector<kj::byte>& wanted) {
  for (const auto block : blocks) {
    const std::vector<std::uint32_t> tokens = ReadTokens(block.getTokens());
    auto type = wire::ReadElementType(block.getSinkType());
    if (!type) return type.error();
    const bool sinks = block.getParent() == Restoration::kNoParent && store->spec().sink_tokens != 0;
    auto offered = restoration.Offer(store, {.tokens = tokens,
                                             .parent = block.getParent(),
                                             .sink_type = sinks ? std::optional(*type) : std::nullopt,
                                             .state_bytes = block.getStateBytes(),
                                             .codes_bytes = block.getCodesBytes()});
    if (!offered) return offered.error();
    wanted.push_back(*offered ? 1 : 0);
  }
  return {};
}

}  // namespace

kj::Promise<void> RestoreServer::offer(OfferContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto params = context.getParams();
    const auto blocks = params.getBlocks();
    std::vector<kj::byte> wanted;
    auto store = session_->FindStore(params.getStore());
    Result<void> outcome = store ? Result<void>() : store.error();
    if (restoration_ == nullptr) outcome = Ended();
    if (blocks.size() > wire::MAX_OFFERED) outcome = TooMany(blocks.size(), wire::MAX_OFFERED);
    if (outcome) outcome = OfferAll(*restoration_, *store, blocks, wanted);
    if (!outcome) {
      WriteRefusal(*session_, outcome.error(), context.getResults().initError());
    } else {
      context.getResults().setOk(kj::arrayPtr(wanted.data(), wanted.size()));
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> RestoreServer::reserve(ReserveContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    WriteOutcome(*session_, restoration_ == nullptr ? Result<void>(Ended()) : restoration_->Reserve(), context.getResults());
    return kj::READY_NOW;
  });
}

kj::Promise<void> RestoreServer::put(PutContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto payloads = context.getParams().getPayloads();
    Result<void> outcome;
    if (restoration_ == nullptr) outcome = Ended();
    if (session_->services().draining) outcome = EndingError("restore");
    if (payloads.size() > wire::MAX_BATCH) outcome = TooMany(payloads.size(), wire::MAX_BATCH);
    std::vector<RestoreJob::Copy> copies;
    std::vector<std::uint64_t> numbers;
    for (unsigned i = 0; outcome && i < payloads.size(); ++i) {
      auto slots = restoration_->Begin(payloads[i].getBlock());
      outcome = slots ? AddCopies(*session_, payloads[i], *std::move(slots), copies) : slots.error();
      numbers.push_back(payloads[i].getBlock());
    }
    if (!outcome) {
      WriteOutcome(*session_, outcome, context.getResults());
      return kj::READY_NOW;
    }
    auto job = std::make_shared<RestoreJob>(session_->Arenas(), restoration_, std::move(copies));
    auto pair = kj::newPromiseAndFulfiller<void>();
    auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
    session_->Submit(job, [fulfiller] { (*fulfiller)->fulfill(); });
    ++putting_;
    auto done = pair.promise.then([this, self = thisCap(), restoration = restoration_, context, job, numbers]() mutable {
      RunHandler([&] {
        --putting_;
        if (job->outcome()) {
          for (const std::uint64_t number : numbers) restoration->Filled(number);
        }
        WriteOutcome(*session_, job->outcome(), context.getResults());
      });
    });
    return session_->services().waiting_calls.Count(kj::mv(done));
  });
}

kj::Promise<void> RestoreServer::commit(CommitContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    Result<Restoration::Figures> figures = restoration_ == nullptr ? Ended()
                                           : putting_ != 0         ? Putting()
                                                                   : restoration_->Commit();
    if (!figures) {
      WriteRefusal(*session_, figures.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    restoration_ = nullptr;
    session_->services().core.events.Tell("restored", {{"client", session_->client()},
                                                       {"blocks", std::uint64_t{figures->restored}},
                                                       {"present", std::uint64_t{figures->present}}});
    auto ok = context.getResults().initOk();
    ok.setRestored(figures->restored);
    ok.setPresent(figures->present);
    return kj::READY_NOW;
  });
}

}  // namespace kvant::daemon
