// What a thread will read next, handed to kernels in pieces: memory must not rest while the arithmetic works, nor the other
// way round, so every step of a chunk asks for its share of what the following steps need.
#pragma once

#include <array>
#include <cstddef>

#include "quantizers/codec.h"

namespace kvant::quantizers {

class PrefetchStream {
 public:
  /// Most pieces of a plan; what is added beyond is left out.
  static constexpr std::size_t kMost = 128;

  void Clear() noexcept {
    size_ = at_ = 0;
    total_ = 0;
    owed_ = 0.0f;
  }
  /// Adds what will be needed after everything added before.
  void Add(const std::byte* data, std::size_t bytes) noexcept {
    if (size_ == kMost) return;
    pieces_[size_++] = {data, bytes};
    total_ += bytes;
  }
  /// Bytes added since Clear.
  [[nodiscard]] std::size_t total() const noexcept { return total_; }

  /// The next `share` of all bytes, without what lies beyond the current piece: that is made up for by the next call.
  Ahead Take(float share) noexcept {
    owed_ += share * static_cast<float>(total_);
    if (at_ == size_ || owed_ < 64.0f) return {};
    Ahead& from = pieces_[at_];
    const std::size_t wanted = static_cast<std::size_t>(owed_) / 64 * 64;
    const std::size_t bytes = wanted < from.bytes ? wanted : from.bytes;
    const Ahead taken{from.data, bytes};
    from.data += bytes;
    from.bytes -= bytes;
    owed_ -= static_cast<float>(bytes);
    if (from.bytes == 0) ++at_;
    return taken;
  }

 private:
  std::array<Ahead, kMost> pieces_;
  std::size_t size_ = 0;
  std::size_t at_ = 0;
  std::size_t total_ = 0;
  float owed_ = 0.0f;
};

}  // namespace kvant::quantizers
