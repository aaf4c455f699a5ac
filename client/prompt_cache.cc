#include <kvant/prompt_cache.h>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "client/cache_folder.h"
#include "client/guard.h"
#include "client/restored_blocks.h"
#include "client/saved_blocks.h"
#include "client/session.h"
#include "client/store.h"
#include "protocol/digest.h"
#include "protocol/snapshot/reader.h"

namespace kvant {

using client::CacheFile;
using client::CacheFolder;
using client::Guard;
using client::MovedFrom;
using client::PromptName;

namespace {

namespace fs = std::filesystem;

/// Files whose index is read to see how much of a prompt they have, the newest of those that begin with its first block.
constexpr std::size_t kMostRead = 256;

/// The digest of each whole block of `tokens` with all before it.
Result<std::vector<protocol::Digest>> ChainsOf(const client::Store& store, std::span<const TokenId> tokens,
                                               const std::string& operation) {
  std::vector<protocol::Digest> chains;
  const std::size_t block_tokens = store.spec().block_tokens;
  std::vector<std::uint32_t> ids;
  for (const TokenId token : tokens) {
    if (token < 0 || token > std::numeric_limits<std::uint32_t>::max()) {
      return Error{ErrorCode::kInvalidArgument, operation + ": token id " + std::to_string(token) + " has more than 32 bits"};
    }
    ids.push_back(static_cast<std::uint32_t>(token));
    if (ids.size() < block_tokens) continue;
    chains.push_back(protocol::ChainDigest(chains.empty() ? store.identity() : chains.back(), ids));
    ids.clear();
  }
  return chains;
}

bool Damaged(const Error& error) { return error.code == ErrorCode::kCorrupt || error.code == ErrorCode::kVersionMismatch; }

/// Blocks that a file's only store and the prompt have in common: those of a sequence stand in its order.
std::size_t CommonBlocks(const snapshot::StoredStore& stored, const std::vector<protocol::Digest>& chains) {
  const std::size_t most = std::min(stored.blocks(), chains.size());
  std::size_t common = 0;
  while (common < most && stored.chains[common] == chains[common]) ++common;
  return common;
}

}  // namespace

class PromptCache::Impl {
 public:
  Impl(CacheFolder folder, std::uint64_t budget_bytes) : folder_(std::move(folder)), budget_bytes_(budget_bytes) {}

  Result<CachedPrefix> Load(const std::shared_ptr<client::Store>& store, std::span<const TokenId> tokens) {
    auto chains = ChainsOf(*store, tokens, "load from a prompt cache");
    if (!chains) return chains.error();
    covered_ = {};
    for (;;) {
      auto best = FindBest(*store, *chains);
      if (!best) return CachedPrefix{};
      const client::StoreToRestore from{.from = &best->reader.stores().front(), .to = store, .blocks = best->blocks};
      auto restored = client::RestoreBlocks(store->session(), best->reader, {&from, 1}, {});
      if (restored) {
        CacheFolder::Touch(best->path);
        covered_ = {.path = best->path, .last = (*chains)[best->blocks - 1]};
        return CachedPrefix{
            .tokens = best->blocks * store->spec().block_tokens, .restored = restored->restored, .file = best->path.string()};
      }
      if (!Damaged(restored.error())) return restored.error();
      CacheFolder::SetAside(best->path);
    }
  }

  Result<SaveReport> Save(const client::Store& store, SequenceId sequence, std::span<const TokenId> tokens) {
    auto chains = ChainsOf(store, tokens, "save to a prompt cache");
    if (!chains) return chains.error();
    auto blocks = client::SavedBlocks::Of(store, sequence);
    if (!blocks) return blocks.error();
    // Those behind are not sealed yet.
    const std::size_t sealed = blocks->store().blocks.size();
    if (sealed > chains->size()) {
      return Error{ErrorCode::kInvalidArgument, "save to a prompt cache: sequence " + std::to_string(sequence) + " has " +
                                                    std::to_string(sealed) + " sealed blocks, the " +
                                                    std::to_string(tokens.size()) + " tokens fill " +
                                                    std::to_string(chains->size())};
    }
    if (sealed == 0) return SaveReport{};
    chains->resize(sealed);
    auto folder = folder_.FolderOf(store.identity());
    if (!folder) return folder.error();
    const fs::path target = *folder / PromptName{.first = chains->front(), .last = chains->back()}.FileName();
    const fs::path& has = covered_.last == chains->back() ? covered_.path : target;
    std::error_code missing;
    if (fs::exists(has, missing)) {
      CacheFolder::Touch(has);
      return SaveReport{};
    }
    if (const auto longer = FindBest(store, *chains); longer && longer->blocks == sealed) {
      CacheFolder::Touch(longer->path);
      return SaveReport{};
    }
    auto lock = folder_.Lock();
    if (!lock) return lock.error();
    folder_.RemovePartial();
    const std::vector<fs::path> continued = ContinuedBy(store, *chains);
    std::optional<bool> room;
    std::uint64_t needed = 0;
    auto saved =
        client::WriteSaved(store.session().connection(), {&*blocks, 1}, target.string(), [&](std::uint64_t, std::uint64_t all) {
          if (!room) room = folder_.MakeRoom(needed = all, budget_bytes_, continued);
          return *room;
        });
    if (!saved && room == false) {
      return Error{ErrorCode::kOutOfRange, "save to a prompt cache: a file of " + std::to_string(needed) +
                                               " bytes does not fit into its budget of " + std::to_string(budget_bytes_)};
    }
    if (!saved) return saved.error();
    for (const fs::path& old : continued) fs::remove(old, missing);
    return saved;
  }

 private:
  struct Found {
    fs::path path;
    snapshot::SnapshotReader reader;
    std::size_t blocks = 0;
  };

  /// The file with the longest prefix, sound as far as its index says; none if no file has a block.
  std::optional<Found> FindBest(const client::Store& store, const std::vector<protocol::Digest>& chains) {
    std::optional<Found> best;
    std::size_t read = 0;
    if (chains.empty()) return best;
    for (const CacheFile& file : folder_.FilesOf(store.identity())) {
      const auto name = PromptName::Parse(file.path.filename());
      if (!name || name->first != chains.front() || read++ == kMostRead) continue;
      auto reader = snapshot::SnapshotReader::Open(file.path);
      if (!reader && Damaged(reader.error())) CacheFolder::SetAside(file.path);
      if (!reader || reader->stores().size() != 1 || reader->stores().front().identity != store.identity() ||
          reader->stores().front().plan != store.daemon_plan()) {
        continue;
      }
      const std::size_t blocks = CommonBlocks(reader->stores().front(), chains);
      if (blocks == 0 || (best && best->blocks >= blocks)) continue;
      best.emplace(Found{.path = file.path, .reader = *std::move(reader), .blocks = blocks});
      if (blocks == chains.size()) break;
    }
    return best;
  }

  /// Files of prompts that the one with these chains continues.
  std::vector<fs::path> ContinuedBy(const client::Store& store, const std::vector<protocol::Digest>& chains) {
    std::vector<fs::path> files;
    for (const CacheFile& file : folder_.FilesOf(store.identity())) {
      const auto name = PromptName::Parse(file.path.filename());
      if (name && std::ranges::find(chains, name->last) != chains.end()) files.push_back(file.path);
    }
    return files;
  }

  struct Covered {
    fs::path path;
    protocol::Digest last{};
  };

  CacheFolder folder_;
  std::uint64_t budget_bytes_;
  Covered covered_;  // what Load found last: the blocks up to `last`
};

PromptCache::PromptCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PromptCache::PromptCache(PromptCache&&) noexcept = default;
PromptCache& PromptCache::operator=(PromptCache&&) noexcept = default;
PromptCache::~PromptCache() = default;

Result<PromptCache> PromptCache::Open(const std::string& folder, std::uint64_t budget_bytes) {
  return Guard("open prompt cache", [&]() -> Result<PromptCache> {
    if (budget_bytes == 0) return Error{ErrorCode::kInvalidArgument, "open prompt cache " + folder + ": a budget of 0 bytes"};
    auto opened = CacheFolder::Open(folder);
    if (!opened) return opened.error();
    return PromptCache(std::make_unique<Impl>(*std::move(opened), budget_bytes));
  });
}

Result<CachedPrefix> PromptCache::Load(Store& store, std::span<const TokenId> tokens) {
  return Guard("load from a prompt cache", [&]() -> Result<CachedPrefix> {
    if (!impl_ || !store.state_) return MovedFrom("load from a prompt cache");
    if (auto entered = store.state_->session().connection().Enter("load from a prompt cache"); !entered) return entered.error();
    return impl_->Load(store.state_, tokens);
  });
}

Result<SaveReport> PromptCache::Save(Store& store, SequenceId sequence, std::span<const TokenId> tokens) {
  return Guard("save to a prompt cache", [&]() -> Result<SaveReport> {
    if (!impl_ || !store.state_) return MovedFrom("save to a prompt cache");
    if (auto entered = store.state_->session().connection().Enter("save to a prompt cache"); !entered) return entered.error();
    return impl_->Save(*store.state_, sequence, tokens);
  });
}

}  // namespace kvant
