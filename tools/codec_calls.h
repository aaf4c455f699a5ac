// Calls of a codec with memory of their own, for tools and tests that count no allocations.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "quantizers/attention/aligned_buffer.h"
#include "quantizers/codec.h"
#include "quantizers/scratch.h"

namespace kvant::tools {

/// 64-byte aligned memory of a given size, zeros at first.
class AlignedBytes {
 public:
  explicit AlignedBytes(std::size_t bytes) : size_(bytes) {
    memory_.Reserve(std::max<std::size_t>(bytes, 1));
    std::fill_n(memory_.data(), bytes, std::byte{});
  }
  [[nodiscard]] std::byte* data() noexcept { return memory_.data(); }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  std::size_t size_;
  quantizers::AlignedBuffer memory_;
};

using quantizers::AdjacentBytes;
using quantizers::AdjacentParts;

inline Result<void> EncodeBlock(const quantizers::BlockCodec& codec, std::size_t head, std::uint64_t first_position,
                                const RowsView& rows, const quantizers::BlockView& block) {
  AlignedBytes scratch(codec.needs(0).encode);
  return codec.Encode(
      {.head = head, .first_position = first_position, .rows = rows, .block = block, .scratch = scratch.data()});
}

/// Rows [begin, end) of a block as [end - begin, head_dim].
inline void DecodeBlock(const quantizers::BlockCodec& codec, std::size_t head, std::uint64_t first_position,
                        const quantizers::ConstBlockView& block, std::size_t begin, std::size_t end, float* rows,
                        std::size_t head_dim) {
  AlignedBytes scratch(codec.needs(0).decode);
  codec.Decode({.head = head,
                .first_position = first_position,
                .block = block,
                .begin = begin,
                .end = end,
                .rows = rows,
                .row_stride = head_dim,
                .scratch = scratch.data()});
}

}  // namespace kvant::tools
