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

void LongAttention::Submit(const void* session, std::shared_ptr<AttendJob> job, std::function<void()> done) {
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

std::size_t LongAttention::NextTurn() const {
  return static_cast<std::size_t>(std::ranges::min_element(turns_, {}, &Turn::used) - turns_.begin());
}

void LongAttention::Work(std::size_t threads, int nicer) {
  ::pthread_setname_np(::pthread_self(), "kvant-attend");
  BeNicer(nicer);
  quantizers::WorkerTeam team(threads - 1);  // made here: helpers inherit this thread's nice value
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stop_ || !turns_.empty(); });
    if (turns_.empty()) return;
    const void* const session = turns_[NextTurn()].session;
    AttendJob* const job = turns_[NextTurn()].entries.front().job.get();
    lock.unlock();
    const Clock::time_point begin = Clock::now();
    const bool ended =
        job->Continue(team, [&] { return sessions_.load(std::memory_order_relaxed) > 1 && Clock::now() - begin >= kSlice; });
    const Clock::duration used = Clock::now() - begin;
    lock.lock();
    const auto turn = std::ranges::find(turns_, session, &Turn::session);  // others may have come
    turn->used += used;
    if (!ended) continue;
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
