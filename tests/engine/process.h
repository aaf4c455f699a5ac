// Programs of the project as child processes.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <sys/types.h>

namespace kvant::examples {

/// A running program. Its stdin is a pipe, its outputs are files; killed at destruction if it still runs.
class Process {
 public:
  /// `arguments[0]` is the program's path.
  Process(const std::vector<std::string>& arguments, const std::string& input_at_start);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void CloseInput();
  /// Waits for the end and returns the exit status; 128 + signal if it was killed.
  int Wait();
  /// Waits until `text` stands in its stdout; false if it ended or the time did.
  bool WaitForOutput(const std::string& text, std::chrono::seconds limit);
  void Signal(int signal) const;
  [[nodiscard]] bool Running();
  [[nodiscard]] std::string Output() const;
  [[nodiscard]] std::string Errors() const;

 private:
  std::string folder_;
  int input_ = -1;
  pid_t pid_ = -1;
  int status_ = -1;
};

struct Finished {
  int status = 0;
  std::string output;
  std::string errors;
};

/// Runs a program to its end.
Finished RunProgram(const std::vector<std::string>& arguments, const std::string& input = {});

}  // namespace kvant::examples
