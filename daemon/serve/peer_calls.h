// What Cap'n Proto keeps for a client beside its messages, bounded.
#pragma once

#include <cstddef>
#include <memory>

#include <capnp/message.h>

#include "daemon/serve/client_record.h"
#include "protocol/message_memory.h"

namespace kvant::daemon {

/// Looks at each message of a connection before Cap'n Proto does. A call takes memory until its client says that it is finished
/// with the answer, which a hostile one never does: so it counts. Messages that no client of ours sends (calls that bring
/// capabilities, answers to calls that nobody made) are refused. One connection; loop thread.
class PeerCalls {
 public:
  /// An answer that is not finished with, in Cap'n Proto's tables.
  static constexpr std::size_t kAnswerBytes = 512;

  /// `record`, which outlives this, is told of each message.
  PeerCalls(ClientRecord& record, std::shared_ptr<wire::MessageMemory::Account> account)
      : record_(record), account_(std::move(account)) {}
  ~PeerCalls() { account_->Give(open_ * kAnswerBytes); }
  PeerCalls(const PeerCalls&) = delete;
  PeerCalls& operator=(const PeerCalls&) = delete;

  /// Throws kj::Exception for what is refused: the connection ends.
  void Check(capnp::MessageReader& message);

 private:
  ClientRecord& record_;
  const std::shared_ptr<wire::MessageMemory::Account> account_;
  std::size_t open_ = 0;
};

}  // namespace kvant::daemon
