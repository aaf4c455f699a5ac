#include "daemon/serve/long_attention.h"

#include <algorithm>
#include <utility>

#include <pthread.h>

#include "daemon/thread_nice.h"
#include "quantizers/attention/worker_team.h"

namespace kvant::daemon {

LongAttention::LongAttention(std::size_t threads, int nicer, WorkerThreads::PostToLoop post)
    : post_(std::move(post)), thread_([this, threads, nicer] { Work(threads, nicer); }) {}

LongAttention::~LongAttention() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    for (const Turn& turn : turns_) {
      for (const Entry& entry : turn.entries) entry.job->Cancel();
    }
  }
  wake_.notify_all();
  thread_.join();
}

void LongAttention::Submit(const void* session, std::shared_ptr<LongJob> job, std::function<void()> done) {
  {
    const std::lock_guard lock(mutex_);
    auto turn = std::ranges::find(turns_, session, &Turn::session);
    if (turn == turns_.end()) {
      // A session that comes anew enters a slice ahead of the others: one short call does not wait for a round of theirs, and
      // many do not get more than their share.
      Clock::duration least{0};
      if (!turns_.empty()) least = std::ranges::min(turns_, {}, &Turn::used).used - kSlice;
      turn = turns_.insert(turns_.end(), Turn{session, {}, least});
      sessions_.store(turns_.size());
    }
    turn->entries.push_back({std::move(job), std::move(done)});
  }
  wake_.notify_one();
}

/// Of those whose job has begun or may begin, the one that has used least time. Requires: there are turns.
LongAttention::Turn& LongAttention::NextTurn() {
  const auto may_go = [this](const Turn& turn) {
    const Entry& entry = turn.entries.front();
    return entry.begun || scratch_bytes_ == 0 || scratch_bytes_ + entry.job->scratch_bytes() <= kScratchBytes;
  };
  // Where none has begun every one may; else those that have may.
  auto next = std::ranges::find_if(turns_, may_go);
  for (auto turn = next; turn != turns_.end(); ++turn) {
    if (turn->used < next->used && may_go(*turn)) next = turn;
  }
  return *next;
}

void LongAttention::Work(std::size_t threads, int nicer) {
  ::pthread_setname_np(::pthread_self(), "kvant-attend");
  BeNicer(nicer);
  quantizers::WorkerTeam team(threads - 1);  // made here: helpers inherit this thread's nice value
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stop_ || !turns_.empty(); });
    if (turns_.empty()) return;
    Turn& next = NextTurn();
    const void* const session = next.session;
    LongJob* const job = next.entries.front().job.get();
    if (!std::exchange(next.entries.front().begun, true)) scratch_bytes_ += job->scratch_bytes();
    lock.unlock();
    const Clock::time_point begin = Clock::now();
    const bool ended =
        job->Continue(team, [&] { return sessions_.load(std::memory_order_relaxed) > 1 && Clock::now() - begin >= kSlice; });
    const Clock::duration used = Clock::now() - begin;
    lock.lock();
    const auto turn = std::ranges::find(turns_, session, &Turn::session);  // others may have come
    turn->used += used;
    if (!ended) continue;
    scratch_bytes_ -= job->scratch_bytes();
    Entry entry = std::move(turn->entries.front());
    turn->entries.pop_front();
    if (turn->entries.empty()) {
      turns_.erase(turn);
      sessions_.store(turns_.size());
    }
    lock.unlock();
    // The job's last reference goes on the loop thread, with `done` or beside it.
    post_([entry = std::move(entry)] { entry.done(); });
    lock.lock();
  }
}

}  // namespace kvant::daemon
