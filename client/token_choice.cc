#include "client/token_choice.h"

#include <algorithm>
#include <utility>

#include "quantizers/tokens/choose.h"

namespace kvant::client {

using quantizers::PolicyKind;

TokenChoice::TokenChoice(const quantizers::TokenPolicy& policy, std::uint32_t layers, std::uint32_t kv_heads)
    : policy_(policy), layers_(layers), kv_heads_(kv_heads), lists_(layers, kv_heads) {
  if (policy.kind == PolicyKind::kSnapKV) queries_.emplace(layers, policy.recent);
  if (policy.kind == PolicyKind::kH2O) votes_.emplace(layers, kv_heads);
}

Result<void> TokenChoice::Prepare(Session& session, std::uint64_t first, const AttendArgs& args,
                                  quantizers::AttendRequest& request) {
  request.kept = policy_.kind == PolicyKind::kWindow ? policy_.Window() : lists_.Of(request.layer);
  if (request.new_rows == 0) return {};  // a probe, or queries that were asked before
  if (queries_) return queries_->Record(session, request.layer, first, args);
  if (!votes_) return {};
  auto votes = votes_->Begin(session, request.layer, first, first + args.q.tokens);
  if (!votes) return votes.error();
  if (!*votes) return {};
  if (request.lse == nullptr) {
    const std::size_t bytes = args.q.tokens * args.q.heads * sizeof(float);
    if (bytes > lse_.bytes()) {
      auto memory = session.Allocate(bytes, "log-sum-exps for H2O");
      if (!memory) return memory.error();
      lse_ = std::move(*memory);
    }
    request.lse = reinterpret_cast<float*>(lse_.data());
  }
  request.votes = votes_->Of(request.layer, 0).data();
  request.votes_stride = votes_->stride();
  return {};
}

std::array<RecentQueries::Piece, 2> TokenChoice::NewestQueries(std::size_t layer, std::uint64_t length) const {
  return queries_->Pieces(layer, length - std::min<std::uint64_t>(length, policy_.recent));
}

Result<KeptLists> TokenChoice::Draft(Session& session, std::uint64_t length) const {
  auto draft = lists_.CopyAt(session, length);
  if (!draft) return draft;
  if (auto covered = draft->Cover(session, length); !covered) return covered.error();
  return draft;
}

void TokenChoice::Adopt(KeptLists lists) {
  lists_ = std::move(lists);
  listed_ = lists_.Count(lists_.end());
}

Result<void> TokenChoice::KeepBudget(Session& session, std::uint64_t length) {
  if (!dropping_ || length <= policy_.min || Kept(length) <= policy_.budget) return {};
  if (auto covered = lists_.Cover(session, length); !covered) return covered;
  std::uint64_t kept = 0;
  for (std::size_t layer = 0; layer < layers_; ++layer) {
    for (std::size_t head = 0; head < kv_heads_; ++head) {
      kept += quantizers::ChooseTokens(policy_, votes_->Of(layer, head), length, lists_.Bits(layer, head), candidates_);
    }
  }
  const std::uint64_t lists = std::uint64_t{layers_} * kv_heads_;
  listed_ = (kept + lists / 2) / lists;
  return {};
}

void TokenChoice::Trim(std::uint64_t length) {
  if (queries_) queries_->Trim(length);
  if (votes_) votes_->Trim(length);
  if (length >= lists_.end()) return;
  lists_.Trim(length);
  listed_ = lists_.Count(lists_.end());
}

Result<TokenChoice> TokenChoice::CopyAt(Session& session, std::uint64_t length) const {
  TokenChoice copy(policy_, layers_, kv_heads_);
  copy.dropping_ = dropping_;
  auto lists = lists_.CopyAt(session, length);
  if (!lists) return lists.error();
  copy.Adopt(std::move(*lists));
  if (queries_) {
    auto queries = queries_->CopyAt(session, length);
    if (!queries) return queries.error();
    copy.queries_ = std::move(*queries);
  }
  if (votes_) {
    auto votes = votes_->CopyAt(session, length);
    if (!votes) return votes.error();
    copy.votes_ = std::move(*votes);
  }
  return copy;
}

std::uint64_t TokenChoice::Kept(std::uint64_t length) const noexcept {
  if (policy_.kind == PolicyKind::kWindow) {
    return length <= policy_.min ? length : std::min<std::uint64_t>(length, std::uint64_t{policy_.recent} + policy_.sinks);
  }
  return lists_.end() == 0 ? length : listed_ + length - std::min(length, lists_.end());
}

}  // namespace kvant::client
