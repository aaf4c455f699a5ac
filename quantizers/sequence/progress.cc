#include "quantizers/sequence/progress.h"

#include <algorithm>
#include <string>

namespace kvant::quantizers {

void Progress::Start(std::uint64_t length, std::uint64_t blocks) noexcept {
  length_ = length;
  sealed_ = blocks;
  switched_ = blocks;
}

SealCounts Progress::ScheduledAt(std::uint64_t length) const noexcept {
  const SealCounts now{.due = sealed_, .switched = switched_};
  if (!marks_.empty()) return now;
  const SealCounts then = ScheduledSeals(length, block_tokens_, recent_tokens_);
  return {.due = std::max(now.due, then.due), .switched = std::max(now.switched, then.switched)};
}

void Progress::SwitchTo(std::uint64_t blocks) noexcept { switched_ = std::max(switched_, std::min(blocks, sealed_)); }

Result<void> Progress::Trim(std::uint64_t length) {
  if (length > length_) {
    return Error{ErrorCode::kOutOfRange, "the sequence has " + std::to_string(length_) + " tokens"};
  }
  length_ = length;
  const std::uint64_t whole_blocks = length / block_tokens_;
  sealed_ = std::min(sealed_, whole_blocks);
  switched_ = std::min(switched_, whole_blocks);
  std::erase_if(marks_, [&](std::uint64_t mark) { return mark > length; });
  return {};
}

Result<std::uint64_t> Progress::SetMark() {
  if (marks_.size() >= kMaxMarks) {
    return Error{ErrorCode::kOutOfRange, "the sequence holds " + std::to_string(kMaxMarks) + " marks already"};
  }
  marks_.push_back(length_);
  return length_;
}

Result<void> Progress::FindMark(std::uint64_t mark) const {
  if (std::ranges::find(marks_, mark) != marks_.end()) return {};
  return Error{ErrorCode::kNotFound, "the sequence holds no mark at " + std::to_string(mark) + " tokens"};
}

Result<void> Progress::Release(std::uint64_t mark) {
  if (auto found = FindMark(mark); !found) return found;
  marks_.erase(std::ranges::find(marks_, mark));
  return {};
}

}  // namespace kvant::quantizers
