// When the event loop sends, looks out and sleeps. No clock: sources say what they were asked.
#include "protocol/event_loop.h"

#include <functional>

#include <gtest/gtest.h>

namespace kvant::wire {
namespace {

class CountingSource final : public Source {
 public:
  explicit CountingSource(EventLoop& loop) : loop_(loop) { loop_.Add(*this); }
  ~CountingSource() { loop_.Remove(*this); }
  CountingSource(const CountingSource&) = delete;
  CountingSource& operator=(const CountingSource&) = delete;
  void Flush() override { ++flushes; }
  bool Receive() override {
    ++looks;
    return on_look && on_look();
  }

  int flushes = 0;
  int looks = 0;
  std::function<bool()> on_look;

 private:
  EventLoop& loop_;
};

constexpr std::chrono::hours kForAges{1};

TEST(EventLoopTest, FlushesBeforeItSleepsAndNotBefore) {
  EventLoop loop;
  CountingSource source(loop);
  bool ran = false;
  kj::evalLater([&] {
    ran = true;
    EXPECT_EQ(source.flushes, 0);
  }).wait(loop.wait_scope());
  EXPECT_TRUE(ran);
  EXPECT_EQ(source.flushes, 0);  // there was always something to do
  loop.timer().afterDelay(1 * kj::MILLISECONDS).wait(loop.wait_scope());
  EXPECT_GT(source.flushes, 0);
}

TEST(EventLoopTest, WithoutSpinItNeverLooks) {
  EventLoop loop;
  CountingSource source(loop);
  loop.timer().afterDelay(1 * kj::MILLISECONDS).wait(loop.wait_scope());
  EXPECT_EQ(source.looks, 0);
}

TEST(EventLoopTest, WithSpinItLooksUntilSomethingComes) {
  EventLoop loop;
  loop.set_spin(kForAges);
  CountingSource source(loop);
  auto pair = kj::newPromiseAndFulfiller<void>();
  source.on_look = [&] {
    if (source.looks < 100) return false;
    pair.fulfiller->fulfill();
    return true;
  };
  pair.promise.wait(loop.wait_scope());
  EXPECT_EQ(source.looks, 100);
}

TEST(EventLoopTest, TimersAndOtherDescriptorsAreServedWhileItSpins) {
  EventLoop loop;
  loop.set_spin(kForAges);
  CountingSource source(loop);
  loop.timer().afterDelay(1 * kj::MILLISECONDS).wait(loop.wait_scope());
  EXPECT_GT(source.looks, 0);
}

TEST(EventLoopTest, SpinsNoLongerThanItsLimit) {
  EventLoop loop;
  loop.set_spin(std::chrono::nanoseconds(1));
  CountingSource source(loop);
  loop.timer().afterDelay(20 * kj::MILLISECONDS).wait(loop.wait_scope());
  EXPECT_LT(source.looks, 100);  // 20 ms of looking would be many thousands
}

TEST(EventLoopTest, SpinsSeldomOnceItSpinsInVain) {
  EventLoop loop;
  CountingSource source(loop);
  // How many of 100 waits for something that comes later than the spin time looked at the source.
  const auto waits_with_looks = [&] {
    int count = 0;
    for (int i = 0; i < 100; ++i) {
      const int before = source.looks;
      loop.timer().afterDelay(1 * kj::MILLISECONDS).wait(loop.wait_scope());
      if (source.looks > before) ++count;
    }
    return count;
  };
  loop.set_spin(std::chrono::microseconds(20));
  EXPECT_LT(waits_with_looks(), 50);
  // One spin of use, and it spins each time again.
  loop.set_spin(kForAges);
  while (waits_with_looks() == 0) {
  }
  EXPECT_EQ(waits_with_looks(), 100);
}

TEST(EventLoopTest, EveryCallHasItsOwnDeadlineThoughTheyShareAnAlarm) {
  EventLoop loop;
  const auto in = [](auto time) { return std::chrono::steady_clock::now() + time; };
  const auto never = [] { return false; };
  bool came = false;
  auto later = loop.timer().afterDelay(1 * kj::MILLISECONDS).then([&] { came = true; }).eagerlyEvaluate(nullptr);
  EXPECT_TRUE(loop.RunUntil([&] { return came; }, in(std::chrono::hours(1))));
  for (const int milliseconds : {5, 1, 10}) {
    const auto deadline = in(std::chrono::milliseconds(milliseconds));
    EXPECT_FALSE(loop.RunUntil(never, deadline));
    EXPECT_GE(std::chrono::steady_clock::now(), deadline);
  }
  EXPECT_TRUE(loop.RunUntil([] { return true; }, in(std::chrono::hours(-1))));
}

TEST(EventLoopTest, WithoutSocketsThereIsNothingToSpinFor) {
  EventLoop loop;
  loop.set_spin(kForAges);
  int looks = 0;
  {
    CountingSource source(loop);
    source.on_look = [&] { return ++looks, false; };
  }
  loop.timer().afterDelay(1 * kj::MILLISECONDS).wait(loop.wait_scope());
  EXPECT_EQ(looks, 0);
}

}  // namespace
}  // namespace kvant::wire
