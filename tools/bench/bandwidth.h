// The limit that attention over a large cache runs against: how fast this process reads memory and does nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quantizers/attention/attention.h"

namespace kvant::tools {

/// A wide sum over memory in portions of `portion_bytes`, each call the next portion, around and around. The executor's threads
/// share a portion. `memory` and `executor` outlive this.
class ReadOnlySum {
 public:
  /// Requires: 0 < portion_bytes <= memory.size().
  ReadOnlySum(quantizers::Executor& executor, std::span<const std::byte> memory, std::size_t portion_bytes)
      : executor_(executor), memory_(memory), portion_bytes_(portion_bytes) {}
  void Run();
  [[nodiscard]] std::size_t portion_bytes() const noexcept { return portion_bytes_; }

 private:
  quantizers::Executor& executor_;
  std::span<const std::byte> memory_;
  std::size_t portion_bytes_;
  std::size_t next_ = 0;
};

/// Bytes per second of a read-only sum over `memory`: best of `rounds`.
/// Best, because a virtual machine's neighbours and clock only ever take away.
double ReadBandwidth(std::span<const std::byte> memory, std::size_t threads, std::size_t rounds);

}  // namespace kvant::tools
