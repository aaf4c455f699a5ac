// Raw keys that come before RoPE, turned to their positions once per call of attention, however many tiles read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quantizers/attention/aligned_buffer.h"
#include "quantizers/attention/attention.h"

namespace kvant::quantizers {

/// Owned by the scratch of one calling thread and used by call after call. Lay first, then do every job, then read.
class TurnedKeys {
 public:
  /// Makes room for the raw keys that any query of an item sees, of items whose layer has them before RoPE. Allocates only
  /// while the buffers grow. `items` stay where they are until the last job is done.
  void Lay(std::span<const AttendItem> items);

  /// Jobs are independent: any thread may do any of them, each once.
  [[nodiscard]] std::size_t jobs() const noexcept { return jobs_.size(); }
  void Turn(std::size_t job);

  /// Where the keys of an item are as attention multiplies them, one entry for each of its raw rows and in the same order. Only
  /// `keys` and what places them are set. An item whose keys come after RoPE has its own raw rows here.
  [[nodiscard]] std::span<const RawRows> KeysOf(std::size_t item) const noexcept { return keys_[item]; }

 private:
  /// Rows [begin, begin + count) of one turned piece, all heads.
  struct Job {
    const CachedLayer* cache = nullptr;
    std::size_t raw = 0;     ///< index in cache->raw
    std::size_t turned = 0;  ///< index in turned_
    std::size_t begin = 0;
    std::size_t count = 0;
  };

  std::vector<std::span<const RawRows>> keys_;  ///< [items]
  std::vector<RawRows> turned_;
  std::vector<std::size_t> offsets_;  ///< of turned_[i]'s rows in memory_, in floats
  std::vector<Job> jobs_;
  AlignedBuffer memory_;
};

}  // namespace kvant::quantizers
