#include "client/vote_counts.h"

#include <algorithm>

namespace kvant::client {
namespace {

constexpr std::uint64_t kLeastTokens = 1024;

}  // namespace

std::span<float> VoteCounts::Of(std::size_t layer, std::size_t head) const noexcept {
  return {reinterpret_cast<float*>(memory_.data()) + (layer * kv_heads_ + head) * stride_, stride_};
}

Result<bool> VoteCounts::Begin(Session& session, std::size_t layer, std::uint64_t first, std::uint64_t end) {
  if (layer >= voted_.size() || first < voted_[layer]) return false;
  if (auto room = MakeRoom(session, end); !room) return room.error();
  voted_[layer] = end;
  for (std::size_t head = 0; head < kv_heads_; ++head) {
    const auto votes = Of(layer, head).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(end - first));
    std::fill(votes.begin(), votes.end(), 0.0f);
  }
  return true;
}

Result<void> VoteCounts::MakeRoom(Session& session, std::uint64_t tokens) {
  if (tokens <= stride_) return {};
  const auto stride = static_cast<std::size_t>(std::max({tokens, kLeastTokens, std::uint64_t{stride_} + stride_ / 2}));
  const std::size_t lists = voted_.size() * kv_heads_;
  auto memory = session.Allocate(lists * stride * sizeof(float), "votes for H2O");  // zeros
  if (!memory) return memory.error();
  for (std::size_t i = 0; stride_ != 0 && i < lists; ++i) {
    std::copy_n(Of(0, i).begin(), stride_, reinterpret_cast<float*>(memory->data()) + i * stride);
  }
  memory_ = std::move(*memory);
  stride_ = stride;
  return {};
}

void VoteCounts::Trim(std::uint64_t length) noexcept {
  for (std::uint64_t& voted : voted_) voted = std::min(voted, length);
}

Result<VoteCounts> VoteCounts::CopyAt(Session& session, std::uint64_t length) const {
  VoteCounts copy(static_cast<std::uint32_t>(voted_.size()), kv_heads_);
  if (stride_ == 0) return copy;
  if (auto room = copy.MakeRoom(session, stride_); !room) return room.error();
  std::copy_n(memory_.data(), memory_.bytes(), copy.memory_.data());
  copy.voted_ = voted_;
  copy.Trim(length);
  return copy;
}

}  // namespace kvant::client
