// Runs the project's programs for tests and looks at what they print and how they end.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace kvant::tests {

struct Finished {
  int exit_code = -1;  ///< -1: ended by a signal
  std::string out;
  std::string err;
};

/// Runs `program` (a path) to its end with standard input closed. `out_path` takes its standard output, which is not read back
/// then; empty: a file of the test's own.
Finished RunProgram(const std::string& program, const std::vector<std::string>& arguments, const std::string& out_path = {});

/// A kvantd with a socket in a directory of its own. Killed and cleaned up on destruction.
class RunningDaemon {
 public:
  explicit RunningDaemon(const std::vector<std::string>& arguments);
  ~RunningDaemon();
  RunningDaemon(const RunningDaemon&) = delete;
  RunningDaemon& operator=(const RunningDaemon&) = delete;

  /// Empty if the daemon did not come up within ten seconds.
  [[nodiscard]] const std::string& socket() const noexcept { return socket_; }
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }

 private:
  std::string directory_;
  std::string socket_;
  pid_t pid_ = -1;
};

}  // namespace kvant::tests
