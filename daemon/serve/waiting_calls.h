// Calls that could not be answered in the turn that read them. A daemon that is about to end lets them finish first.
#pragma once

#include <cstddef>
#include <utility>

#include <kj/async.h>

namespace kvant::daemon {

/// Owned by the daemon, outlives the calls. Loop thread.
class WaitingCalls {
 public:
  WaitingCalls() = default;
  ~WaitingCalls() noexcept = default;
  WaitingCalls(const WaitingCalls&) = delete;
  WaitingCalls& operator=(const WaitingCalls&) = delete;

  /// `call`, counted until it has ended one way or another.
  [[nodiscard]] kj::Promise<void> Count(kj::Promise<void> call) { return call.attach(kj::heap<Entry>(*this)); }

  [[nodiscard]] std::size_t count() const noexcept { return count_; }

  /// Resolves when there is none. One waiter at a time.
  [[nodiscard]] kj::Promise<void> WhenNone() {
    if (count_ == 0) return kj::READY_NOW;
    auto pair = kj::newPromiseAndFulfiller<void>();
    none_ = kj::mv(pair.fulfiller);
    return kj::mv(pair.promise);
  }

 private:
  class Entry {
   public:
    explicit Entry(WaitingCalls& calls) : calls_(calls) { ++calls_.count_; }
    ~Entry() {
      if (--calls_.count_ == 0 && calls_.none_.get() != nullptr) calls_.none_->fulfill();
    }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

   private:
    WaitingCalls& calls_;
  };

  std::size_t count_ = 0;
  kj::Own<kj::PromiseFulfiller<void>> none_;
};

}  // namespace kvant::daemon
