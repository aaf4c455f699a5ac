// A program of ours as a child process that is talked to in lines.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace kvant::testing {

class Child {
 public:
  /// `arguments[0]` is the program's path. Standard error goes to the test's.
  explicit Child(const std::vector<std::string>& arguments);
  ~Child();  ///< kills it if it still runs
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  void Send(const std::string& line);
  /// The next line of its standard output; nothing if it ended or the time did.
  std::optional<std::string> ReadLine(std::chrono::milliseconds limit = std::chrono::seconds(20));
  /// Send, then ReadLine.
  std::optional<std::string> Ask(const std::string& line);
  void Signal(int signal) const;
  /// SIGSTOP, and waits until all its threads have stopped.
  void Stop() const;
  /// Waits for its end; the exit status, or 128 + the signal that ended it.
  int Wait();

 private:
  pid_t pid_ = -1;
  int input_ = -1;
  int output_ = -1;
  std::string pending_;
};

/// A kvantd with a socket in a directory of its own, which is removed at the end; one process, unless `arguments` have
/// --holder.
class KvantdProcess {
 public:
  explicit KvantdProcess(const std::vector<std::string>& arguments = {},
                         std::string program = std::string(KVANT_PROGRAM_DIR) + "/kvantd");
  ~KvantdProcess();
  KvantdProcess(const KvantdProcess&) = delete;
  KvantdProcess& operator=(const KvantdProcess&) = delete;

  [[nodiscard]] const std::string& socket() const noexcept { return socket_; }
  [[nodiscard]] Child& child() noexcept { return *child_; }
  /// Starts it again on the same socket, after its end.
  void Restart();

 private:
  void Start();

  std::string directory_;
  std::string socket_;
  std::vector<std::string> arguments_;
  std::string program_;
  std::optional<Child> child_;
};

}  // namespace kvant::testing
