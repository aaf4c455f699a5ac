// Which tokens a sequence attends: its policy applied when asked, and after each advance.
#include <algorithm>
#include <string>
#include <utility>

#include "client/attend.h"
#include "client/sequence.h"
#include "quantizers/tokens/choose.h"

namespace kvant::client {
namespace {

Error InvalidArgument(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

}  // namespace

Result<void> Sequence::CheckList(std::string_view operation, std::size_t layer, std::size_t kv_head) const {
  const StoreSpec& spec = store_->spec();
  if (layer < spec.layers && kv_head < spec.kv_heads) return {};
  return Error{ErrorCode::kOutOfRange, std::string(operation) + ": layer " + std::to_string(layer) + ", KV head " +
                                           std::to_string(kv_head) + " of " + std::to_string(spec.layers) + " layers with " +
                                           std::to_string(spec.kv_heads) + " KV heads"};
}

Result<void> Sequence::MayDrop(std::string_view operation) const {
  if (progress_.marks().empty()) return {};
  return InvalidArgument(std::string(operation) + ": a mark at " + std::to_string(progress_.marks().front()) +
                         " tokens is held, which promises what is attended as it is now; release it first");
}

Result<void> Sequence::ApplyPolicy() {
  constexpr std::string_view kOperation = "apply policy";
  if (auto writable = Writable(kOperation); !writable) return writable;
  if (auto ready = Ready(kOperation); !ready) return ready;
  const quantizers::TokenPolicy& policy = choice_.policy();
  if (!policy.chooses()) return {};
  if (auto may = MayDrop(kOperation); !may) return may;
  if (policy.kind == quantizers::PolicyKind::kH2O) {
    choice_.StartDropping();
    if (auto kept = choice_.KeepBudget(session(), length()); !kept) return kept;
  } else if (length() > policy.min && choice_.Kept(length()) > policy.budget) {
    if (auto chosen = ChooseByNewestQueries(); !chosen) {
      return Error{chosen.error().code, std::string(kOperation) + ": " + chosen.error().message};
    }
  }
  return TellKept(kOperation);
}

Result<void> Sequence::ChooseByNewestQueries() {
  const StoreSpec& spec = store_->spec();
  const quantizers::TokenPolicy& policy = choice_.policy();
  const std::uint64_t length = this->length();
  const auto counted = static_cast<std::size_t>(length - std::min<std::uint64_t>(length, policy.recent));
  auto lists = choice_.Draft(session(), length);
  if (!lists) return lists.error();
  auto votes = session().Allocate(spec.kv_heads * length * sizeof(float), "votes of one layer");
  if (!votes) return votes.error();
  const std::span all(reinterpret_cast<float*>(votes->data()), spec.kv_heads * length);
  std::vector<std::uint32_t> candidates;
  for (std::size_t layer = 0; layer < spec.layers; ++layer) {
    std::fill(all.begin(), all.end(), 0.0f);
    if (auto voted = AskAgain(layer, all); !voted) return voted;
    for (std::size_t head = 0; head < spec.kv_heads; ++head) {
      const auto scores = all.subspan(head * length, counted);
      quantizers::PoolScores(scores, policy.kernel, policy.pool);
      quantizers::ChooseTokens(policy, scores, length, lists->Bits(layer, head), candidates);
    }
  }
  choice_.Adopt(std::move(*lists));
  return {};
}

/// The newest queries of a layer once more, for their votes.
Result<void> Sequence::AskAgain(std::size_t layer, std::span<float> votes) {
  const std::uint64_t length = this->length();
  bool any = false;
  for (RecentQueries::Piece& piece : choice_.NewestQueries(layer, length)) {
    const ConstTensorView& q = piece.args.q;
    if (q.tokens == 0) continue;
    any = true;
    const std::size_t numbers = q.tokens * q.heads * q.dim;
    auto memory = session().Allocate((numbers + q.tokens * q.heads) * sizeof(float), "outputs of SnapKV's queries");
    if (!memory) return memory.error();
    auto* const out = reinterpret_cast<float*>(memory->data());
    piece.args.out = {out, ElementType::kF32, q.tokens, q.heads, q.dim, q.heads * q.dim, q.dim};
    piece.args.lse = out + numbers;
    const AttendCall again{.sequence = this,
                           .args = &piece.args,
                           .from_end = length - piece.first,
                           .votes = votes.data(),
                           .votes_stride = static_cast<std::size_t>(length)};
    if (auto attended = Attend(layer, std::span(&again, 1)); !attended) return attended;
  }
  if (any) return {};
  return InvalidArgument("no query of the newest " + std::to_string(choice_.policy().recent) + " tokens is known of layer " +
                         std::to_string(layer) + "; its tokens were found sealed, or never asked");
}

Result<void> Sequence::TellKept(std::string_view operation) {
  if (auto sent = SendAdvance({}, operation); !sent) return sent;
  if (auto answered = Settle(operation); !answered && !seal_error_) return answered;
  return {};
}

Result<std::vector<std::uint64_t>> Sequence::KeptTokens(std::size_t layer, std::size_t kv_head) const {
  if (auto found = CheckList("kept tokens", layer, kv_head); !found) return found.error();
  std::vector<std::uint64_t> positions;
  const std::uint64_t length = this->length();
  if (length == 0) return positions;
  const quantizers::KeptTokens kept =
      choice_.policy().kind == quantizers::PolicyKind::kWindow ? choice_.policy().Window() : choice_.lists().Of(layer);
  const quantizers::Range gap = kept.Gap(length - 1);
  for (std::uint64_t p = 0; p < length; ++p) {
    if (kept.Has(kv_head, {p, p + 1}, gap)) positions.push_back(p);
  }
  return positions;
}

Result<void> Sequence::Keep(std::size_t layer, std::size_t kv_head, std::span<const std::uint64_t> positions) {
  constexpr std::string_view kOperation = "keep";
  if (auto writable = Writable(kOperation); !writable) return writable;
  if (auto ready = Ready(kOperation); !ready) return ready;
  if (auto found = CheckList(kOperation, layer, kv_head); !found) return found;
  if (auto may = MayDrop(kOperation); !may) return may;
  if (choice_.policy().kind == quantizers::PolicyKind::kWindow) {
    return InvalidArgument("keep: the sequence was opened with a window, which needs no list");
  }
  if (positions.empty()) return InvalidArgument("keep: no positions; a list has one at least");
  for (std::size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] < length() && (i == 0 || positions[i] > positions[i - 1])) continue;
    return InvalidArgument("keep: position " + std::to_string(positions[i]) + " behind " +
                           (i == 0 ? "none" : std::to_string(positions[i - 1])) + "; they ascend below the length " +
                           std::to_string(length()));
  }
  auto lists = choice_.Draft(session(), length());
  if (!lists) return lists.error();
  const auto bits = lists->Bits(layer, kv_head);
  std::vector<std::uint64_t> wanted(bits.size());
  for (const std::uint64_t p : positions) wanted[p / 64] |= std::uint64_t{1} << (p % 64);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] &= wanted[i];
  choice_.Adopt(std::move(*lists));
  return {};
}

Result<void> Sequence::KeepBudget() {
  choice_.Trim(length());  // rows that were given up
  if (!progress_.marks().empty()) return {};
  auto kept = choice_.KeepBudget(session(), length());
  if (!kept) return Error{kept.error().code, "advance: token policy: " + kept.error().message};
  return {};
}

}  // namespace kvant::client
