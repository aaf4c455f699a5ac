#include "client/kept_lists.h"

#include <algorithm>
#include <string>

#include "quantizers/tokens/choose.h"

namespace kvant::client {

using quantizers::KeptTokens;

quantizers::KeptTokens KeptLists::Of(std::size_t layer) const noexcept {
  if (end_ == 0) return {};
  return {.bits = Bits(layer, 0).data(), .words = words_, .end = end_};
}

std::span<std::uint64_t> KeptLists::Bits(std::size_t layer, std::size_t head) const noexcept {
  auto* const all = reinterpret_cast<std::uint64_t*>(memory_.data());
  return {all + (layer * kv_heads_ + head) * words_, KeptTokens::WordsOf(end_)};
}

Result<void> KeptLists::Cover(Session& session, std::uint64_t end) {
  if (end <= end_) return {};
  const std::size_t words = KeptTokens::WordsOf(end);
  if (words > words_) {
    const std::size_t room = std::max(words, words_ + words_ / 2);  // lists that follow a sequence seldom move
    const std::size_t lists = std::size_t{layers_} * kv_heads_;
    auto memory = session.Allocate(lists * room * sizeof(std::uint64_t), "lists of kept tokens");
    if (!memory) return memory.error();
    auto* const to = reinterpret_cast<std::uint64_t*>(memory->data());
    for (std::size_t i = 0; i < lists; ++i) {
      const auto from = Bits(0, i);
      std::copy(from.begin(), from.end(), to + i * room);
    }
    memory_ = std::move(*memory);
    words_ = room;
  }
  const std::uint64_t before = end_;
  end_ = end;
  for (std::size_t i = 0; i < std::size_t{layers_} * kv_heads_; ++i) {
    const auto bits = Bits(0, i);
    std::size_t word = static_cast<std::size_t>(before / 64);
    if (before % 64 != 0) bits[word++] |= ~std::uint64_t{0} << (before % 64);
    std::fill(bits.begin() + static_cast<std::ptrdiff_t>(word), bits.end(), ~std::uint64_t{0});
  }
  return {};
}

void KeptLists::Trim(std::uint64_t length) noexcept { end_ = std::min(end_, length); }

Result<KeptLists> KeptLists::CopyAt(Session& session, std::uint64_t length) const {
  KeptLists copy(layers_, kv_heads_);
  const std::uint64_t end = std::min(end_, length);
  if (auto covered = copy.Cover(session, end); !covered) return covered.error();
  for (std::size_t i = 0; end != 0 && i < std::size_t{layers_} * kv_heads_; ++i) {
    const auto to = copy.Bits(0, i);
    std::copy_n(Bits(0, i).begin(), to.size(), to.begin());
  }
  return copy;
}

std::uint64_t KeptLists::Count(std::uint64_t length) const {
  if (end_ == 0) return length;
  std::uint64_t kept = 0;
  const std::size_t lists = std::size_t{layers_} * kv_heads_;
  for (std::size_t i = 0; i < lists; ++i) kept += quantizers::CountKept(Bits(0, i), end_);
  return length - end_ + (kept + lists / 2) / lists;
}

}  // namespace kvant::client
