#include "client/housekeeper.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <utility>

namespace kvant::client {

Housekeeper::Housekeeper(std::uint64_t* heartbeat, std::chrono::milliseconds interval) {
  ranges_.reserve(64);
  // The host's signals are for the host's threads.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this, heartbeat, interval] { Run(heartbeat, interval); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread_.native_handle(), "kvant-keeper");
}

Housekeeper::~Housekeeper() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Housekeeper::MapPages(std::shared_ptr<const void> mapping, const std::byte* begin, std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    ranges_.push_back({std::move(mapping), begin, bytes});
  }
  wake_.notify_one();
}

void Housekeeper::Run(std::uint64_t* heartbeat, std::chrono::milliseconds interval) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  auto next_beat = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (!ending_) {
    if (std::chrono::steady_clock::now() >= next_beat) {
      std::atomic_ref<std::uint64_t>(*heartbeat).fetch_add(1, std::memory_order_relaxed);
      next_beat = std::chrono::steady_clock::now() + interval;
    }
    std::vector<Range> ranges;
    ranges.reserve(ranges_.capacity());
    ranges.swap(ranges_);
    lock.unlock();
    for (const Range& range : ranges) {
      const auto begin = reinterpret_cast<std::uintptr_t>(range.begin) / page * page;
      const auto end = reinterpret_cast<std::uintptr_t>(range.begin) + range.bytes;
      // Fails on kernels before 5.14: then pages come at first touch.
      static_cast<void>(::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ));
    }
    ranges.clear();  // may unmap a slab, not under the lock
    lock.lock();
    wake_.wait_until(lock, next_beat, [this] { return ending_ || !ranges_.empty(); });
  }
}

}  // namespace kvant::client
