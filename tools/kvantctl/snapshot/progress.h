// How far long work is: a bar on a terminal, one JSON object per line for programs, nothing else.
#pragma once

#include <chrono>
#include <string>

#include <kvant/snapshot.h>

#include "tools/kvantctl/command.h"

namespace kvant::tools {

/// Ctrl-C while it lives ends the work at the next step: what is half done is undone. One at a time.
class Progress {
 public:
  /// `what`: "save". A bar goes to standard error if that is a terminal; with -o json events go to standard output.
  Progress(const Globals& globals, std::string what);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// For what takes it; refers to this.
  [[nodiscard]] SnapshotProgress Callback();

 private:
  bool Show(std::uint64_t done, std::uint64_t all);

  const Globals& globals_;
  const std::string what_;
  const bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point last_;
  void (*handler_before_)(int) = nullptr;
};

}  // namespace kvant::tools
