// Work counted, not timed.
#pragma once

#include <csignal>
#include <cstdint>
#include <functional>

#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace kvant::testing {

/// Instructions of user code that `work` takes. They are counted one by one (some 10 us each) in a child of this process, so
/// that what `work` changes in private memory is not seen here; shared memory stays as the child left it. 0 if the system lets
/// no process trace another.
inline std::uint64_t CountInstructions(const std::function<void()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(2);
    ::raise(SIGSTOP);
    work();
    ::_exit(0);
  }
  std::uint64_t count = 0;
  int status = 0;
  while (::waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
    const int signal = WSTOPSIG(status);  // others than those of tracing end the child as they would without it
    const bool ours = signal == SIGSTOP || signal == SIGTRAP;
    if (::ptrace(PTRACE_SINGLESTEP, child, nullptr, ours ? 0 : signal) != 0) break;
    ++count;
  }
  if (WIFSTOPPED(status)) {  // it could not be stepped on
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 2) return 0;
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the work failed, status " << status;
  return count;
}

}  // namespace kvant::testing
