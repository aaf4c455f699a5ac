// The newest queries of every layer, as SnapKV chooses by them: kept from call to call, so that it does not matter in how many
// steps a prompt was read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <kvant/client.h>

#include "client/session.h"

namespace kvant::client {

/// A ring of `window` queries per layer in the arena, f32: 4 * window * q_heads * head_dim bytes a layer. Owning thread only.
class RecentQueries {
 public:
  RecentQueries(std::uint32_t layers, std::uint32_t window) : window_(window), layers_(layers) {}

  /// The queries of a call at positions [first, first + args.q.tokens), with what else their scores depend on. A call at
  /// earlier positions than the last one replaces what was there. An error of the arena changes nothing.
  Result<void> Record(Session& session, std::size_t layer, std::uint64_t first, const AttendArgs& args);
  /// Queries at positions >= length are forgotten.
  void Trim(std::uint64_t length) noexcept;
  [[nodiscard]] Result<RecentQueries> CopyAt(Session& session, std::uint64_t length) const;

  /// Adjacent queries, and the call that asks them again; `args.out` and `args.lse` are not set.
  struct Piece {
    std::uint64_t first = 0;
    AttendArgs args;
  };
  /// Those at positions [from, end) that are known, in order; the second is empty unless the ring wraps between them.
  [[nodiscard]] std::array<Piece, 2> Pieces(std::size_t layer, std::uint64_t from) const noexcept;

 private:
  struct Layer {
    std::uint64_t first = 0;  // positions [first, end) are known
    std::uint64_t end = 0;
    AttendArgs style;  // of the newest call
    std::vector<float> sink_logits;
  };
  [[nodiscard]] float* Row(std::size_t layer, std::uint64_t position) const noexcept;

  std::uint32_t window_;
  std::size_t heads_ = 0;
  std::size_t dim_ = 0;
  std::vector<Layer> layers_;
  ArenaMemory memory_;  // [layers, window, heads, dim]
};

}  // namespace kvant::client
