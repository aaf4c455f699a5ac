#include "daemon/store/evicted_blocks.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

namespace kvant::daemon {
namespace {

std::uint64_t Fingerprint(const protocol::Digest& chain, const void* owner) noexcept {
  std::uint64_t number;
  std::memcpy(&number, chain.data(), sizeof number);
  number ^= reinterpret_cast<std::uintptr_t>(owner) * 0x9E3779B97F4A7C15;
  return number == 0 ? 1 : number;
}

}  // namespace

EvictedBlocks::EvictedBlocks(Charge charge) : charge_(std::move(charge)) {
  entries_.resize(charge_.bytes() / kEntryBytes / kSetEntries * kSetEntries);
}

std::size_t EvictedBlocks::SetOf(std::uint64_t fingerprint) const noexcept {
  return fingerprint % (entries_.size() / kSetEntries) * kSetEntries;
}

void EvictedBlocks::Remember(const protocol::Digest& chain, const void* owner, std::uint64_t now_ms) noexcept {
  if (entries_.empty()) return;
  const std::uint64_t fingerprint = Fingerprint(chain, owner);
  const std::span<Entry> set = std::span(entries_).subspan(SetOf(fingerprint), kSetEntries);
  auto place = std::ranges::find(set, fingerprint, &Entry::fingerprint);
  if (place == set.end()) place = std::ranges::find(set, 0U, &Entry::fingerprint);
  if (place == set.end()) place = std::ranges::min_element(set, {}, &Entry::evicted_ms);
  *place = {fingerprint, now_ms};
}

std::optional<std::uint64_t> EvictedBlocks::Find(const protocol::Digest& chain, const void* owner) const noexcept {
  if (entries_.empty()) return std::nullopt;
  const std::uint64_t fingerprint = Fingerprint(chain, owner);
  const std::span<const Entry> set = std::span(entries_).subspan(SetOf(fingerprint), kSetEntries);
  const auto found = std::ranges::find(set, fingerprint, &Entry::fingerprint);
  return found == set.end() ? std::nullopt : std::optional(found->evicted_ms);
}

}  // namespace kvant::daemon
