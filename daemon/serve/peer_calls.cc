#include "daemon/serve/peer_calls.h"

#include <cstdint>

#include <capnp/rpc.capnp.h>
#include <kj/debug.h>

namespace kvant::daemon {

void PeerCalls::Check(capnp::MessageReader& message) {
  using capnp::rpc::Message;
  const auto root = message.getRoot<Message>();
  record_.last_call = std::chrono::steady_clock::now();
  switch (root.which()) {
    case Message::CALL:
      KJ_REQUIRE(root.getCall().getParams().getCapTable().size() == 0, "a call that brings capabilities");
      ++record_.calls;
      [[fallthrough]];
    case Message::BOOTSTRAP:
      ++open_;
      account_->Take(kAnswerBytes);
      break;
    case Message::FINISH:
      if (open_ == 0) break;  // Cap'n Proto refuses it
      --open_;
      account_->Give(kAnswerBytes);
      break;
    case Message::RELEASE:
    case Message::DISEMBARGO:
    case Message::ABORT:
    case Message::UNIMPLEMENTED: break;
    default: KJ_FAIL_REQUIRE("a message that no client sends", static_cast<std::uint16_t>(root.which()));
  }
}

}  // namespace kvant::daemon
