// Token policies: which of its cached tokens a sequence attends, as text ("window:tokens=4096,sinks=4") and as numbers. ADR
// 0045 has the definitions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <kvant/result.h>

#include "quantizers/attention/kept.h"

namespace kvant::quantizers {

enum class PolicyKind : std::uint8_t {
  kAll,     ///< everything
  kWindow,  ///< StreamingLLM: the first tokens and the newest ones, at their true positions
  kSnapKV,  ///< what the last queries of a prompt attended most, per KV head, chosen when asked
  kH2O,     ///< what all queries so far attended most, per KV head, and the newest tokens
};

enum class Pooling : std::uint8_t { kMax, kAverage };

/// Counts of tokens; those that a kind does not use are 0.
struct TokenPolicy {
  PolicyKind kind = PolicyKind::kAll;
  std::uint32_t budget = 0;  ///< SnapKV, H2O: tokens of a KV head that stay, `recent` and `sinks` included
  std::uint32_t recent = 0;  ///< the newest, which stay: the window; SnapKV's whose queries choose
  std::uint32_t sinks = 0;   ///< the first, which stay
  std::uint32_t kernel = 0;  ///< SnapKV: odd; a token's score is pooled over so many neighbours
  Pooling pool = Pooling::kMax;
  std::uint32_t min = 0;  ///< up to this length the policy does nothing

  /// Reads a text; empty is `all`. kInvalidArgument names what is unknown, out of range or does not fit together.
  static Result<TokenPolicy> Parse(std::string_view text);
  /// Every parameter spelled out; Parse reads it back to the same.
  [[nodiscard]] std::string Canonical() const;

  /// True if it drops tokens by what queries attend.
  [[nodiscard]] bool chooses() const noexcept { return kind == PolicyKind::kSnapKV || kind == PolicyKind::kH2O; }
  /// What attention goes by, without a list.
  [[nodiscard]] KeptTokens Window() const noexcept {
    if (kind != PolicyKind::kWindow) return {};
    return {.window = recent, .sinks = sinks, .whole_below = min};
  }
};

}  // namespace kvant::quantizers
