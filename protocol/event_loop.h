// A thread's event loop: turns until nothing is left to do, sends what was gathered meanwhile, looks out for answers for a
// while without sleeping (a wake-up takes longer than most calls), then sleeps.
#pragma once

#include <chrono>
#include <vector>

#include <kj/async-unix.h>
#include <kj/async.h>

namespace kvant::wire {

// kj's interfaces have no virtual destructors: their owners know the real type.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnon-virtual-dtor"

/// A socket that the loop serves by itself. Belongs to the loop's thread.
class Source {
 public:
  /// Sends what was gathered, as far as the kernel takes it.
  virtual void Flush() = 0;
  /// Takes what has come, without waiting; true if that gave the loop something to do.
  virtual bool Receive() = 0;

 protected:
  ~Source() = default;
};

/// Made, used and destroyed on one thread; kj allows one per thread.
class EventLoop {
 public:
  EventLoop() : port_(*this), events_(port_), wait_scope_(events_) {}
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  [[nodiscard]] kj::WaitScope& wait_scope() noexcept { return wait_scope_; }
  [[nodiscard]] kj::UnixEventPort& port() noexcept { return port_; }
  [[nodiscard]] kj::Timer& timer() noexcept { return port_.getTimer(); }

  /// How long to look out, whenever there is nothing left to do, before sleeping. 0: sleep at once. A loop that spins in vain
  /// (answers take longer, or the peer waits for this very processor, as schedulers like to arrange it on machines of few
  /// cores) soon tries it seldom. It never yields instead: a thread that computes would keep the processor for milliseconds.
  void set_spin(std::chrono::nanoseconds spin) noexcept { spin_ = spin; }

  using TimePoint = std::chrono::steady_clock::time_point;
  /// Turns until `done()`, or until `deadline` has passed while there was nothing to do; says whether done. Costs less than a
  /// promise's wait with a timer. Not from inside a turn.
  template <typename Done>
  [[nodiscard]] bool RunUntil(Done done, TimePoint deadline) {
    while (!done()) {
      if (events_.isRunnable()) {
        events_.run(1);
      } else if (!WaitUntil(deadline)) {
        return false;
      }
    }
    return true;
  }

  /// `source` is served until Remove.
  void Add(Source& source) { sources_.push_back(&source); }
  void Remove(Source& source) { std::erase(sources_, &source); }

 private:
  /// kj calls wait and poll whenever its queue is empty.
  class Port final : public kj::UnixEventPort {
   public:
    explicit Port(EventLoop& loop) : loop_(loop) {}
    bool wait() override;
    bool poll() override;

   private:
    EventLoop& loop_;
  };
  /// False if that time has come.
  bool WaitUntil(TimePoint deadline);
  void Flush();
  /// True if there is something to do before the spin time is over.
  bool Spin();

  std::vector<Source*> sources_;
  std::chrono::nanoseconds spin_{0};
  unsigned in_vain_ = 0;  // spins since the last one that was of use
  unsigned skip_ = 0;     // spins to leave out
  Port port_;
  kj::EventLoop events_;
  kj::WaitScope wait_scope_;
  TimePoint alarm_time_{};  // when alarm_ wakes the loop
  kj::Promise<void> alarm_ = kj::READY_NOW;
};

#pragma GCC diagnostic pop

}  // namespace kvant::wire
