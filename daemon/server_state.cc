// The part of Server that keeps blocks from one run to the next.
#include <memory>
#include <string>
#include <utility>

#include <spdlog/spdlog.h>

#include "daemon/server.h"

namespace kvant::daemon {

/// What cannot be restored is kept aside, so that the next state does not take its place, and the daemon begins empty.
void Server::RestoreState() {
  auto restored = state_->Restore(core_, *stores_);
  if (restored) {
    if (*restored && options_.log) options_.log->info("state restored file={} blocks={}", state_->file(), (*restored)->restored);
    return;
  }
  auto aside = state_->SetAside();
  if (!aside) KJ_FAIL_REQUIRE("the state cannot be restored, nor set aside", restored.error().message.c_str(),
                              aside.error().message.c_str());
  if (options_.log) {
    options_.log->error("state not restored, the daemon begins empty kept={} reason=\"{}\"", *aside, restored.error().message);
  }
}

/// On a thread of little hurry; the loop goes on, so that Stop still ends the daemon.
kj::Promise<void> Server::SaveState() {
  if (!state_) return kj::READY_NOW;
  saving_ = std::make_unique<Saving>();
  auto gathered = StateDir::Gather(*stores_, saving_->leased);
  if (!gathered) {
    if (options_.log) options_.log->error("state not saved reason=\"{}\"", gathered.error().message);
    return kj::READY_NOW;
  }
  saving_->stores = *std::move(gathered);
  auto pair = kj::newPromiseAndFulfiller<void>();
  auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
  plans_->Submit(
      [this, saving = saving_.get()] {
        saving->outcome = state_->Save(saving->stores, [this](std::uint64_t, std::uint64_t) { return !cancel_save_.load(); });
      },
      [fulfiller] { (*fulfiller)->fulfill(); });
  return pair.promise.then([this] {
    const auto& outcome = saving_->outcome;
    if (options_.log && outcome) {
      options_.log->info("state saved file={} blocks={} bytes={}", state_->file(), outcome->blocks, outcome->bytes);
    } else if (options_.log) {
      options_.log->error("state not saved, the old file stays reason=\"{}\"", outcome.error().message);
    }
    EndSaving();
  });
}

void Server::EndSaving() { saving_.reset(); }

}  // namespace kvant::daemon
