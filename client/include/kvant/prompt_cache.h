// Prefixes of prompts that outlive daemons: files in a folder, which any process may share, on this machine or another.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <kvant/client.h>
#include <kvant/export.h>
#include <kvant/result.h>
#include <kvant/snapshot.h>

namespace kvant {

struct CachedPrefix {
  std::uint64_t tokens = 0;    ///< of the prompt, that a file had; 0: none had any
  std::uint64_t restored = 0;  ///< blocks that came into the store; the others were there already
  std::string file;            ///< that file
};

/// A folder of snapshots, one for each prompt that was saved, in a folder for each store's identity. At most `budget_bytes` of
/// files: those that nobody used longest ago make room. Files are whole or not there; several processes may read and save at
/// once, and who saves waits for others who do, at most 10 s. A file that turns out to be damaged, or from a newer version, is
/// renamed to NAME.damaged, counted in the budget, and the first to make room.
///
/// Movable. Knows no daemon: any thread, one at a time, which is also the owning thread of the store it is given.
class KVANT_API PromptCache {
 public:
  /// Makes the folder (0700) if it is not there; the folder around it must be. kSystem names it and the reason,
  /// kInvalidArgument for a budget of 0.
  static Result<PromptCache> Open(const std::string& folder, std::uint64_t budget_bytes);
  PromptCache(PromptCache&&) noexcept;
  PromptCache& operator=(PromptCache&&) noexcept;
  ~PromptCache();

  /// Before Store::Open: brings the longest prefix of `tokens` that a file has into the store, if that has less. Files for
  /// other identities are never looked at. Errors as Store::Load, kStoreFull for a budget of the daemon's that is too small
  /// among them: the store is then as it was, and the prompt can be computed. kInvalidArgument for a token id beyond 32 bits.
  Result<CachedPrefix> Load(Store& store, std::span<const TokenId> tokens);

  /// Saves the sealed blocks of a sequence that holds `tokens`, in place of files whose prompt this one continues. Nothing, and
  /// a report of 0 blocks, if a file has them already or there is no whole block. kOutOfRange for a file that is larger than
  /// the budget, kUnavailable if others are saving all the while, else as Store::Save; no file has changed then.
  Result<SaveReport> Save(Store& store, SequenceId sequence, std::span<const TokenId> tokens);

 private:
  class Impl;
  explicit PromptCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvant
