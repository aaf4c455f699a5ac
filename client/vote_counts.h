// What each token of a sequence got of all queries' softmax weights so far, per layer and KV head: what H2O chooses by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "client/session.h"

namespace kvant::client {

/// f32 in the arena: 4 * layers * kv_heads bytes a token. Owning thread only.
class VoteCounts {
 public:
  VoteCounts(std::uint32_t layers, std::uint32_t kv_heads) : kv_heads_(kv_heads), voted_(layers) {}

  /// Of one KV head, by position: room for stride() tokens.
  [[nodiscard]] std::span<float> Of(std::size_t layer, std::size_t head) const noexcept;
  [[nodiscard]] std::size_t stride() const noexcept { return stride_; }

  /// Queries at positions [first, end) of a layer are about to be asked: true if they vote, which each does once. Their own
  /// tokens begin without votes. An error of the arena changes nothing.
  Result<bool> Begin(Session& session, std::size_t layer, std::uint64_t first, std::uint64_t end);
  /// Those at positions >= length are no queries of the sequence any more; what they gave to others stays.
  void Trim(std::uint64_t length) noexcept;
  [[nodiscard]] Result<VoteCounts> CopyAt(Session& session, std::uint64_t length) const;

 private:
  Result<void> MakeRoom(Session& session, std::uint64_t tokens);

  std::uint32_t kv_heads_;
  std::vector<std::uint64_t> voted_;  // of each layer: queries below this position have voted
  std::size_t stride_ = 0;
  ArenaMemory memory_;  // [layers, kv_heads, stride]
};

}  // namespace kvant::client
