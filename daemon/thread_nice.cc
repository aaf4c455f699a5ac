#include "daemon/thread_nice.h"

#include <algorithm>

#include <sys/resource.h>
#include <unistd.h>

namespace kvant::daemon {
namespace {

constexpr int kNicest = 19;

}  // namespace

void BeNicer(int by) noexcept {
  // To Linux a thread is a process here.
  const auto thread = static_cast<id_t>(::gettid());
  static_cast<void>(::setpriority(PRIO_PROCESS, thread, std::min(kNicest, ::getpriority(PRIO_PROCESS, thread) + by)));
}

}  // namespace kvant::daemon
