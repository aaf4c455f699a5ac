// Helper threads that join a computation on the calling thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "quantizers/attention/attention.h"

namespace kvant::quantizers {

/// Runs ForEach on the caller and on helpers that spin a while for the next call before they sleep: a wake-up costs more than
/// most calls' work. ForEach is called from one thread at a time. Helpers that come late find the work done and go back to
/// waiting.
class WorkerTeam final : public Executor {
 public:
  /// `helpers` threads besides the caller's (0: everything runs inline). Idle helpers spin for `spin` before they sleep.
  explicit WorkerTeam(std::size_t helpers, std::chrono::nanoseconds spin = std::chrono::microseconds(50));
  ~WorkerTeam() override;
  WorkerTeam(const WorkerTeam&) = delete;
  WorkerTeam& operator=(const WorkerTeam&) = delete;

  void ForEach(std::size_t n, void (*task)(void* context, std::size_t i, std::size_t thread), void* context) override;
  [[nodiscard]] std::size_t threads() const noexcept override { return helpers_.size() + 1; }

 private:
  void Work(std::size_t thread);
  void HelperLoop(std::size_t thread);
  /// Registers with the open call; false if none is open.
  bool Enter() noexcept;

  // The open call. Written by the caller while no helper is inside, read by helpers between Enter and leaving.
  std::size_t count_ = 0;
  void (*task_)(void*, std::size_t, std::size_t) = nullptr;
  void* context_ = nullptr;

  alignas(64) std::atomic<std::size_t> next_{0};     ///< next index to hand out
  alignas(64) std::atomic<std::uint32_t> state_{0};  ///< kOpen while a call runs, plus the number of helpers inside
  alignas(64) std::atomic<std::uint32_t> calls_{0};  ///< bumped per call and at the end: what sleepers wait on
  std::atomic<bool> stop_{false};
  std::chrono::nanoseconds spin_;
  std::vector<std::jthread> helpers_;
};

}  // namespace kvant::quantizers
