// Where a sequence stands: how many tokens it has, how many of its leading blocks are sealed and how many of those attention
// reads as codes, and which marks are held. The daemon and a client with local placement each drive one of these through the
// same calls, so that both read the same blocks as codes at every length.
//
// The rules:
//  * Blocks become due and switch by ScheduledSeals, a function of the length alone. Counts never fall while a sequence grows.
//  * A mark promises that Rewind restores the very rows and codes of that moment. So while any mark is held, whichever, no
//    block switches and no encoding begins. When the last one is released, the schedule at the present length applies again.
//  * A block that could not be sealed holds back those behind it: blocks switch up to the sealed ones.
//  * Dropping tokens drops the blocks that are not whole any more, and the marks beyond the new end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <kvant/result.h>

#include "quantizers/sequence/schedule.h"

namespace kvant::quantizers {

/// Counts only; knows no memory. Always: switched_blocks() <= sealed_blocks(), and switched_blocks() * block_tokens <=
/// length().
class Progress {
 public:
  static constexpr std::size_t kMaxMarks = 1024;

  Progress(std::uint32_t block_tokens, std::uint32_t recent_tokens) noexcept
      : block_tokens_(block_tokens), recent_tokens_(recent_tokens) {}

  [[nodiscard]] std::uint64_t length() const noexcept { return length_; }
  [[nodiscard]] std::uint64_t sealed_blocks() const noexcept { return sealed_; }
  [[nodiscard]] std::uint64_t switched_blocks() const noexcept { return switched_; }
  /// First position that attention reads as a raw row.
  [[nodiscard]] std::uint64_t tail_first_position() const noexcept { return switched_ * block_tokens_; }
  /// Tokens whose rows are raw.
  [[nodiscard]] std::uint64_t raw_tokens() const noexcept { return length_ - tail_first_position(); }
  [[nodiscard]] std::span<const std::uint64_t> marks() const noexcept { return marks_; }  ///< ascending

  /// Stands at `length` tokens now, the first `blocks` blocks sealed and switched; marks stay as they are. For a sequence that
  /// begins (open, fork), and for a client that takes over what the daemon says.
  void Start(std::uint64_t length, std::uint64_t blocks) noexcept;

  void Grow(std::uint64_t tokens) noexcept { length_ += tokens; }

  /// The counts that the schedule asks for at `length` tokens (>= length()) with the marks held now: never less than what is.
  [[nodiscard]] SealCounts ScheduledAt(std::uint64_t length) const noexcept;
  [[nodiscard]] SealCounts Scheduled() const noexcept { return ScheduledAt(length_); }

  /// The first `blocks` blocks are sealed. Requires: not fewer than are switched.
  void SetSealed(std::uint64_t blocks) noexcept { sealed_ = blocks; }
  /// Attention reads the first `blocks` blocks as codes from now on, or as many of them as are sealed; never fewer than before.
  void SwitchTo(std::uint64_t blocks) noexcept;

  /// Leaves the first `length` tokens. kOutOfRange beyond length(): nothing changed.
  [[nodiscard]] Result<void> Trim(std::uint64_t length);

  /// Marks the present length and returns it. kOutOfRange when kMaxMarks are held.
  [[nodiscard]] Result<std::uint64_t> SetMark();
  /// kNotFound if no mark is held at `mark` tokens.
  [[nodiscard]] Result<void> FindMark(std::uint64_t mark) const;
  /// Lets go of one mark at `mark` tokens; errors as FindMark.
  [[nodiscard]] Result<void> Release(std::uint64_t mark);

 private:
  std::uint32_t block_tokens_;
  std::uint32_t recent_tokens_;
  std::uint64_t length_ = 0;
  std::uint64_t sealed_ = 0;
  std::uint64_t switched_ = 0;
  std::vector<std::uint64_t> marks_;
};

}  // namespace kvant::quantizers
