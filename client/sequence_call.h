// Calls on a sequence that are answered with where it stands then. Private to the files of client::Sequence.
#pragma once

#include <string_view>

#include "client/sequence.h"
#include "protocol/wire.h"

namespace kvant::client {

template <typename Params, typename Results>
Result<void> Sequence::CallForState(capnp::Request<Params, Results>& request, std::string_view operation) {
  Session& link = session();
  const bool opening = id_ == 0;
  auto answer = link.Call(request, operation, [&link, opening](capnp::Response<Results>&& late) {
    // A sequence that nobody waits for any more.
    if (!opening || late.isError()) return;
    auto close = link.remote().closeRequest();
    close.setSequence(late.getOk().getSequence());
    if (auto closing = link.connection().Send(close, "close"); closing)
      link.connection().Forget(std::move(*closing), [](auto&) {});
  });
  if (!answer) return Lose(answer.error());
  if (answer->isError()) return wire::ReadError(answer->getError());
  return Adopt(answer->getOk());
}

}  // namespace kvant::client
