#include "daemon/worker_threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

void NoFailure(const std::string& what) { ADD_FAILURE() << what; }

/// A loop: functions posted from anywhere, run by one thread.
class Loop {
 public:
  void Post(std::function<void()> f) {
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(f));
    }
    wake_.notify_one();
  }
  template <typename Condition>
  void RunUntil(Condition condition) {
    while (!condition()) {
      std::function<void()> f;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return !queue_.empty(); });
        f = std::move(queue_.front());
        queue_.pop_front();
      }
      f();
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
};

TEST(WorkerThreadsTest, EveryJobRunsOnceAndEndsOnTheLoop) {
  Loop loop;
  std::atomic<int> jobs = 0;
  int ends = 0;
  const std::thread::id here = std::this_thread::get_id();
  WorkerThreads workers(
      "test", 3, 0, [&](std::function<void()> f) { loop.Post(std::move(f)); }, NoFailure);
  for (int i = 0; i < 200; ++i) {
    workers.Submit(
        [&] {
          EXPECT_NE(std::this_thread::get_id(), here);
          ++jobs;
        },
        [&] {
          EXPECT_EQ(std::this_thread::get_id(), here);
          ++ends;
        });
  }
  loop.RunUntil([&] { return ends == 200; });
  EXPECT_EQ(jobs, 200);
}

TEST(WorkerThreadsTest, WorkersAreNicerThanTheLoop) {
  Loop loop;
  const auto nice = [] { return ::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid())); };
  const int own = nice();
  bool ended = false;
  int of_worker = own;
  WorkerThreads workers(
      "test", 1, 5, [&](std::function<void()> f) { loop.Post(std::move(f)); }, NoFailure);
  workers.Submit([&] { of_worker = nice(); }, [&] { ended = true; });
  loop.RunUntil([&] { return ended; });
  EXPECT_EQ(of_worker, std::min(19, own + 5));
  EXPECT_EQ(nice(), own);
}

TEST(WorkerThreadsTest, DestructionDropsWhatHasNotBegun) {
  std::atomic<int> jobs = 0;
  std::atomic<bool> begun = false;
  std::atomic<bool> open = false;
  std::optional<WorkerThreads> workers(
      std::in_place, "test", 1u, 0, [](const std::function<void()>&) {}, NoFailure);
  for (int i = 0; i < 10; ++i) {
    workers->Submit(
        [&] {
          begun = true;
          while (!open) std::this_thread::yield();
          ++jobs;
        },
        [] {});
  }
  while (!begun) std::this_thread::yield();
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // by then the destructor has emptied the queue
    open = true;
  });
  workers.reset();
  opener.join();
  EXPECT_GE(jobs, 1);  // what had begun was waited for
  EXPECT_LT(jobs, 10);
}

TEST(WorkerThreadsTest, AJobThatThrowsIsReportedAndEndsLikeAnyOther) {
  Loop loop;
  std::vector<std::string> failures;
  WorkerThreads workers(
      "test", 1, 0, [&](std::function<void()> f) { loop.Post(std::move(f)); },
      [&](const std::string& what) { failures.push_back(what); });
  int ended = 0;
  workers.Submit([] { throw std::bad_alloc(); }, [&] { ++ended; });
  workers.Submit([] {}, [&] { ++ended; });
  loop.RunUntil([&] { return ended == 2; });
  EXPECT_EQ(failures, std::vector<std::string>{std::bad_alloc().what()});
}

TEST(WorkerThreadsTest, SequencesSealOnRealThreads) {
  const SequenceConfig kConfig{.recent_tokens = 20, .max_step_tokens = 24, .client = "test", .label = ""};
  Loop loop;
  Budget budget = Budget::Make(std::size_t{64} << 20).value();
  WorkerThreads encode(
      "test", 2, 0, [&](std::function<void()> f) { loop.Post(std::move(f)); }, NoFailure);
  WorkerThreads populate(
      "test", 1, 0, [&](std::function<void()> f) { loop.Post(std::move(f)); }, NoFailure);
  const quantizers::Registry codecs = quantizers::Registry::Builtin();
  Core core{budget, encode, populate, codecs, 1};
  StoreTable stores(core);
  const auto store = stores.Open(SmallSpec()).value().store;
  std::optional<Result<Advanced>> unanswered;  // closing the sequence answers
  {
    TestSequence first = TestSequence::Open(store, {}, kConfig);
    TestSequence second = TestSequence::Open(store, {}, kConfig);
    const auto tokens = Tokens(400);
    while (first.tokens.size() + 24 <= tokens.size()) {
      for (TestSequence* sequence : {&first, &second}) {
        std::optional<Result<Advanced>> answer;
        sequence->Advance(std::span(tokens).subspan(sequence->tokens.size(), 24), &answer);
        loop.RunUntil([&] { return answer.has_value(); });
        ASSERT_TRUE(answer->has_value());
      }
    }
    EXPECT_EQ(first.Fault(), "");
    EXPECT_EQ(second.Fault(), "");
    // Closed while jobs may still run.
    first.Advance(Tokens(24, 77), &unanswered);
    second.Advance(Tokens(24, 78));
  }
  int rest = 0;
  encode.Submit([] {}, [&] { ++rest; });
  encode.Submit([] {}, [&] { ++rest; });
  loop.RunUntil([&] { return rest == 2; });
  EXPECT_EQ(store->Figures().leases, 0u);
}

}  // namespace
}  // namespace kvant::daemon
