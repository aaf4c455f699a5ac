// The calls of wire::Session that open, look into and rearrange sequences.
#include <algorithm>

#include "daemon/serve/rpc_guard.h"
#include "daemon/serve/session_messages.h"
#include "daemon/serve/session_server.h"
#include "protocol/wire.h"

namespace kvant::daemon {

kj::Promise<void> SessionServer::openSequence(OpenSequenceContext context) {
  return Guarded([&]() -> kj::Promise<void> {
    const auto params = context.getParams();
    auto options = ReadOptions(params.getOptions());
    auto sequence = options ? session_->Open(params.getStore(), ReadTokens(params.getTokens()), *options)
                            : Result<Sequence*>(options.error());
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
    return InOrder(context.getParams().getSource(), CallNeeds::kSettled, [session = session_, context]() mutable {
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
    return InOrder(context.getParams().getSource(), CallNeeds::kOrder, [session = session_, context]() mutable {
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
    return InOrder(context.getParams().getSequence(), CallNeeds::kOrder, [session = session_, context]() mutable {
      wire::WriteStatus(session->CloseSequence(context.getParams().getSequence()), context.getResults());
    });
  });
}

kj::Promise<void> SessionServer::trim(TrimContext context) {
  return Guarded([&] {
    return InOrder(context.getParams().getSequence(), CallNeeds::kSettled, [session = session_, context]() mutable {
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
    return InOrder(context.getParams().getSequence(), CallNeeds::kSettled, [session = session_, context]() mutable {
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
    return InOrder(context.getParams().getSequence(), CallNeeds::kSettled, [session = session_, context]() mutable {
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

kj::Promise<void> SessionServer::blocks(BlocksContext context) {
  return Guarded([&] {
    return InOrder(context.getParams().getSequence(), CallNeeds::kOrder, [session = session_, context]() mutable {
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

}  // namespace kvant::daemon
