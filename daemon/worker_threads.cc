#include "daemon/worker_threads.h"

#include <exception>
#include <utility>

#include <pthread.h>

#include "daemon/thread_nice.h"

namespace kvant::daemon {

WorkerThreads::WorkerThreads(const char* name, std::size_t threads, int nicer, PostToLoop post, Report job_failed)
    : name_(name), nicer_(nicer), post_(std::move(post)), job_failed_(std::move(job_failed)) {
  threads_.reserve(threads);
  for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
}

WorkerThreads::~WorkerThreads() {
  std::deque<Job> dropped;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    dropped.swap(queue_);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerThreads::Submit(std::function<void()> job, std::function<void()> done) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back({std::move(job), std::move(done)});
  }
  wake_.notify_one();
}

void WorkerThreads::Work() {
  ::pthread_setname_np(::pthread_self(), name_);
  BeNicer(nicer_);
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      job = std::move(queue_.front());
      queue_.pop_front();
    }
    try {
      job.run();
    } catch (const std::exception& failure) {
      post_([this, what = std::string(failure.what())] { job_failed_(what); });
    }
    job.run = nullptr;  // what it held goes here, not on the loop thread
    post_(std::move(job.done));
  }
}

}  // namespace kvant::daemon
