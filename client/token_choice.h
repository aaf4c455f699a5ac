// A sequence's token policy at work: which tokens its attention takes, and what the policy chooses by. ADR 0045.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <kvant/client.h>

#include "client/kept_lists.h"
#include "client/recent_queries.h"
#include "client/vote_counts.h"
#include "quantizers/sequence/view.h"
#include "quantizers/tokens/token_policy.h"

namespace kvant::client {

/// All memory lies in the arena and counts as the client's. Owning thread only.
class TokenChoice {
 public:
  TokenChoice() : lists_(0, 0) {}
  TokenChoice(const quantizers::TokenPolicy& policy, std::uint32_t layers, std::uint32_t kv_heads);

  [[nodiscard]] const quantizers::TokenPolicy& policy() const noexcept { return policy_; }
  [[nodiscard]] const KeptLists& lists() const noexcept { return lists_; }

  /// Completes a request of queries at positions from `first` on: what they see, and where their votes go. Remembers the
  /// queries that SnapKV chooses by.
  Result<void> Prepare(Session& session, std::uint64_t first, const AttendArgs& args, quantizers::AttendRequest& request);

  /// The newest `policy().recent` queries of a layer of a sequence of `length` tokens, as far as they are known.
  [[nodiscard]] std::array<RecentQueries::Piece, 2> NewestQueries(std::size_t layer, std::uint64_t length) const;

  /// Lists to be changed, covering `length` tokens; Adopt makes them the sequence's.
  [[nodiscard]] Result<KeptLists> Draft(Session& session, std::uint64_t length) const;
  void Adopt(KeptLists lists);

  /// H2O: from now on the budget holds after every advance.
  void StartDropping() noexcept { dropping_ = true; }
  /// H2O: drops what has fewest votes until the budget holds for `length` tokens, if dropping has started.
  Result<void> KeepBudget(Session& session, std::uint64_t length);

  void Trim(std::uint64_t length);
  /// What a fork at `length` tokens begins with.
  [[nodiscard]] Result<TokenChoice> CopyAt(Session& session, std::uint64_t length) const;

  /// How many of `length` tokens the newest one's queries see, mean over layers and KV heads.
  [[nodiscard]] std::uint64_t Kept(std::uint64_t length) const noexcept;

 private:
  quantizers::TokenPolicy policy_;
  std::uint32_t layers_ = 0;
  std::uint32_t kv_heads_ = 0;
  KeptLists lists_;
  std::uint64_t listed_ = 0;  // of the tokens that lists_ covers, those that are kept, in the mean
  bool dropping_ = false;
  std::optional<RecentQueries> queries_;  // SnapKV
  std::optional<VoteCounts> votes_;       // H2O
  ArenaMemory lse_;                       // H2O, of calls that want none
  std::vector<std::uint32_t> candidates_;
};

}  // namespace kvant::client
