#include "client/process_fork.h"

#include <pthread.h>

#include <atomic>

namespace kvant::client {
namespace {

std::atomic<std::uint64_t> generation{0};

}  // namespace

std::uint64_t ForkGeneration() noexcept {
  static const int registered = ::pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1, std::memory_order_relaxed); });
  static_cast<void>(registered);  // fails for want of memory only
  return generation.load(std::memory_order_relaxed);
}

}  // namespace kvant::client
