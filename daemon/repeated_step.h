// Work that the daemon does again and again for as long as it lives.
#pragma once

#include <functional>

#include <kj/async.h>
#include <kj/exception.h>
#include <kj/timer.h>

namespace kvant::daemon {

/// Calls a step on the loop thread, waits as long as it says, and calls it again. A step that throws is told to `failed` and
/// followed by the next one after the first pause: whatever was wrong, the work goes on. Ends when it is destroyed; until then
/// `chain` fails only if the timer does.
class RepeatedStep {
 public:
  using Step = std::function<kj::Duration()>;
  using Failed = std::function<void(const kj::Exception&)>;

  /// `timer` outlives it; the first call comes after `pause`.
  RepeatedStep(kj::Timer& timer, kj::Duration pause, Step step, Failed failed)
      : timer_(timer), pause_(pause), step_(std::move(step)), failed_(std::move(failed)) {}
  RepeatedStep(const RepeatedStep&) = delete;
  RepeatedStep& operator=(const RepeatedStep&) = delete;

  /// The steps, for whoever watches them. Call once; must not outlive this.
  [[nodiscard]] kj::Promise<void> chain() { return After(pause_); }

 private:
  kj::Promise<void> After(kj::Duration pause) {
    return timer_.afterDelay(pause).then([this] {
      kj::Duration next = pause_;
      const auto failure = kj::runCatchingExceptions([&] { next = step_(); });
      KJ_IF_MAYBE (exception, failure) failed_(*exception);
      return After(next);
    });
  }

  kj::Timer& timer_;
  const kj::Duration pause_;
  const Step step_;
  const Failed failed_;
};

}  // namespace kvant::daemon
