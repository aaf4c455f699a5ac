#include "daemon/store/prefix_index.h"

#include <algorithm>
#include <cstring>

#include "daemon/memory/check.h"
#include "protocol/digest.h"

namespace kvant::daemon {

std::size_t PrefixIndex::DigestHash::operator()(const protocol::Digest& digest) const noexcept {
  std::size_t hash;
  std::memcpy(&hash, digest.data(), sizeof hash);
  return hash;
}

PrefixIndex::~PrefixIndex() {
  for (const auto& [use, block] : idle_) {
    RemoveFine(*block);
    order_.all.blocks.Remove(*block, block->retention.rank);
    order_.doomed.Remove(*block, block->retention.rank);
    if (tenant_ != nullptr) tenant_->blocks.Remove(*block, block->retention.rank);
  }
  for (const auto& [chain, block] : blocks_) {
    order_.UncountBlock();
    order_.policy().Evicted(*block, order_.blocks());
  }
}

Block* PrefixIndex::Find(const Block* parent, const protocol::Digest& chain, std::span<const std::uint32_t> tokens) const {
  const auto [begin, end] = blocks_.equal_range(chain);
  for (auto it = begin; it != end; ++it) {
    Block* block = it->second.get();
    if (block->parent == parent && !block->damaged && std::ranges::equal(block->tokens, tokens)) return block;
  }
  return nullptr;
}

std::vector<Block*> PrefixIndex::LongestPrefix(const protocol::Digest& root, std::span<const std::uint32_t> tokens,
                                               std::uint32_t block_tokens) const {
  std::vector<Block*> prefix;
  protocol::Digest chain = root;
  Block* parent = nullptr;
  for (std::size_t begin = 0; begin + block_tokens <= tokens.size(); begin += block_tokens) {
    const auto ids = tokens.subspan(begin, block_tokens);
    chain = protocol::ChainDigest(chain, ids);
    Block* block = Find(parent, chain, ids);
    if (block == nullptr) break;
    prefix.push_back(block);
    parent = block;
  }
  return prefix;
}

/// Without recursion: a chain is as long as a client likes.
std::vector<Block*> PrefixIndex::WithContinuations(Block& root) {
  std::vector<Block*> found = {&root};
  for (std::size_t i = 0; i < found.size(); ++i) {
    for (Block* child = found[i]->first_child; child != nullptr; child = child->next_sibling) found.push_back(child);
  }
  return found;
}

Block* PrefixIndex::Insert(std::unique_ptr<Block> block) {
  Block* raw = block.get();
  raw->index = this;
  order_.CountBlock();
  NoteTime(*raw);
  raw->retention.sealed_ms = order_.now_ms;
  order_.policy().Inserted(*raw, order_.blocks());
  if (Block* parent = raw->parent; parent != nullptr) {
    if (parent->first_child == nullptr && parent->leases == 0) UpdateEvictable(*parent, false);
    raw->next_sibling = parent->first_child;
    if (raw->next_sibling != nullptr) raw->next_sibling->previous_sibling = raw;
    parent->first_child = raw;
  }
  blocks_.emplace(raw->chain, std::move(block));
  ++size_;
  UpdateEvictable(*raw, true);
  return raw;
}

void PrefixIndex::NoteTime(Block& block) {
  block.retention.last_use = order_.NextUse();
  block.retention.last_use_ms = order_.now_ms;
}

void PrefixIndex::NoteUse(Block& block, std::uint32_t priority) {
  const bool evictable = block.leases == 0 && block.first_child == nullptr;
  if (evictable) UpdateEvictable(block, false);
  block.retention.Use(priority);
  block.retention.coarse = false;
  NoteTime(block);
  order_.policy().Used(block, order_.blocks());
  if (evictable) UpdateEvictable(block, true);
}

void PrefixIndex::AddLease(Block& block) {
  if (block.leases == 0) {
    if (block.first_child == nullptr) UpdateEvictable(block, false);
    ++leased_blocks_;
  }
  ++block.leases;
  ++leases_;
}

void PrefixIndex::DropLease(Block& block) {
  KVANT_CHECK(block.leases != 0 && leases_ != 0, block.leases, leases_, block.first_position, block.generation);
  --leases_;
  if (--block.leases != 0) return;
  --leased_blocks_;
  NoteTime(block);
  if (block.first_child == nullptr) UpdateEvictable(block, true);
}

std::vector<Block*> PrefixIndex::blocks() const {
  std::vector<Block*> list;
  list.reserve(size_);
  for (const auto& [chain, block] : blocks_) list.push_back(block.get());
  return list;
}

void PrefixIndex::OrderByGeneration() {
  std::vector<Block*> list = blocks();
  std::ranges::sort(list, {}, &Block::generation);
  for (Block* block : list) {
    AddLease(*block);
    DropLease(*block);
  }
}

void PrefixIndex::Unlink(Block& block) noexcept {
  if (block.next_sibling != nullptr) block.next_sibling->previous_sibling = block.previous_sibling;
  if (block.previous_sibling != nullptr) {
    block.previous_sibling->next_sibling = block.next_sibling;
  } else if (block.parent != nullptr) {
    block.parent->first_child = block.next_sibling;
  }
}

std::unique_ptr<Block> PrefixIndex::TakeOut(Block& block) {
  KVANT_CHECK(block.leases == 0 && block.first_child == nullptr, block.leases, block.first_position, block.generation);
  UpdateEvictable(block, false);
  const auto [begin, end] = blocks_.equal_range(block.chain);
  const auto entry = std::find_if(begin, end, [&](const auto& pair) { return pair.second.get() == &block; });
  std::unique_ptr<Block> taken = std::move(entry->second);
  blocks_.erase(entry);
  --size_;
  order_.UncountBlock();
  order_.policy().Evicted(*taken, order_.blocks());
  Unlink(*taken);
  if (Block* parent = taken->parent; parent != nullptr && parent->first_child == nullptr && parent->leases == 0) {
    parent->retention.coarse = false;
    UpdateEvictable(*parent, true);
  }
  return taken;
}

void PrefixIndex::NoteCoarse(Block& block) {
  block.retention.coarse = true;
  RemoveFine(block);
}

void PrefixIndex::RemoveFine(const Block& block) {
  fine_.Remove(block, block.retention.rank);
  order_.all.fine.Remove(block, block.retention.rank);
  if (tenant_ != nullptr) tenant_->fine.Remove(block, block.retention.rank);
}

void PrefixIndex::Rerank(Block& block) {
  UpdateEvictable(block, false);
  UpdateEvictable(block, true);
}

void PrefixIndex::UpdateEvictable(Block& block, bool evictable) {
  Retention& retention = block.retention;
  if (evictable) {
    retention.rank = order_.policy().RankOf(block);
    idle_.emplace(retention.last_use, &block);
    ranking_.Add(block, retention.rank);
    order_.all.blocks.Add(block, retention.rank);
    if (retention.doomed) order_.doomed.Add(block, retention.rank);
    if (tenant_ != nullptr) tenant_->blocks.Add(block, retention.rank);
    if (order_.demote_to != 0 && !retention.coarse) {
      fine_.Add(block, retention.rank);
      order_.all.fine.Add(block, retention.rank);
      if (tenant_ != nullptr) tenant_->fine.Add(block, retention.rank);
    }
  } else {
    RemoveFine(block);
    idle_.erase({retention.last_use, &block});
    ranking_.Remove(block, retention.rank);
    order_.all.blocks.Remove(block, retention.rank);
    order_.doomed.Remove(block, retention.rank);
    if (tenant_ != nullptr) tenant_->blocks.Remove(block, retention.rank);
  }
}

}  // namespace kvant::daemon
