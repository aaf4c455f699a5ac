// Lists of the tokens that a sequence attends, one per layer and KV head, as bits in the arena, where attention of either
// placement reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "client/session.h"
#include "quantizers/attention/kept.h"

namespace kvant::client {

/// Tokens from end() on are kept without being listed; a list begins with everything kept. Owning thread only.
class KeptLists {
 public:
  KeptLists(std::uint32_t layers, std::uint32_t kv_heads) noexcept : layers_(layers), kv_heads_(kv_heads) {}

  [[nodiscard]] std::uint64_t end() const noexcept { return end_; }  ///< 0: there are no lists
  /// Of one layer, for attention.
  [[nodiscard]] quantizers::KeptTokens Of(std::size_t layer) const noexcept;
  /// Of one KV head: WordsOf(end()) words.
  [[nodiscard]] std::span<std::uint64_t> Bits(std::size_t layer, std::size_t head) const noexcept;

  /// The lists cover `end` tokens from now on, the new ones kept. An error of the arena changes nothing.
  Result<void> Cover(Session& session, std::uint64_t end);
  /// The sequence has `length` tokens now.
  void Trim(std::uint64_t length) noexcept;
  /// A copy of the lists' first `length` tokens.
  [[nodiscard]] Result<KeptLists> CopyAt(Session& session, std::uint64_t length) const;

  /// How many of a sequence's `length` tokens take part, mean over layers and KV heads. Counts bits: call it where lists have
  /// changed.
  [[nodiscard]] std::uint64_t Count(std::uint64_t length) const;

 private:
  std::uint32_t layers_;
  std::uint32_t kv_heads_;
  std::uint64_t end_ = 0;
  std::size_t words_ = 0;  // of one KV head
  ArenaMemory memory_;     // [layers, kv_heads, words]
};

}  // namespace kvant::client
