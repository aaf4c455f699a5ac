#include "tools/bench/peers/peer_calls.h"

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace kvant::tools {
namespace {

const float kScale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));

}  // namespace

PeerCalls::PeerCalls(const PeerFormat& format, const SampleRows& rows, std::size_t tokens, quantizers::Executor& executor,
                     std::span<std::byte> memory)
    : format_(format), rows_(rows), tokens_(tokens), attention_(format, executor), out_(kKvHeads * kGroup * kHeadDim) {
  // Layers start at odd cache lines, not all at the same place of a page.
  const std::size_t stride = bytes() / 64 * 64 + 64 * 3;
  if (memory.size() < stride)
    throw std::invalid_argument("no room for " + std::to_string(tokens) + " tokens of " + std::string(format.name));
  std::byte* first = memory.data();
  const std::size_t side = tokens * format.row_bytes;
  for (std::size_t head = 0; head < kKvHeads; ++head) {
    std::byte* keys = first + 2 * head * side;
    // In stretches that are adjacent in the rows.
    for (std::size_t t = 0; t < tokens; t += kBlockTokens) {
      const std::size_t from = Content(t) * kHeadDim;
      format.encode(rows.Keys(head) + from, kBlockTokens, keys + t * format.row_bytes);
      format.encode(rows.Values(head) + from, kBlockTokens, keys + side + t * format.row_bytes);
    }
  }
  for (std::size_t at = 0; at + stride <= memory.size(); at += stride) {
    if (at != 0) std::memcpy(first + at, first, bytes());
    layers_.push_back(first + at);
  }
}

void PeerCalls::Run() {
  attention_.Run({layers_[next_], kKvHeads, tokens_}, rows_.Queries(0, 0), kScale, out_.data());
  next_ = (next_ + 1) % layers_.size();
}

Result<Accuracy> PeerCalls::Check() {
  next_ = 0;
  Run();
  std::vector<double> times(rows_.tokens, 0.0);
  for (std::size_t t = 0; t < tokens_; ++t) times[Content(t)] += 1.0;
  std::vector<double> exact(out_.size());
  std::vector<double> decoded(out_.size());
  const auto round = [&](const float* rows) {
    std::vector<std::byte> encoded(rows_.tokens * format_.row_bytes);
    std::vector<float> result(rows_.tokens * kHeadDim);
    format_.encode(rows, rows_.tokens, encoded.data());
    format_.decode(encoded.data(), rows_.tokens, result.data());
    return result;
  };
  for (std::size_t head = 0; head < kKvHeads; ++head) {
    const std::vector<float> keys = round(rows_.Keys(head));
    const std::vector<float> values = round(rows_.Values(head));
    const std::size_t at = head * kGroup * kHeadDim;
    const auto scale = static_cast<double>(kScale);
    PlainAttention({keys.data(), values.data(), times, kHeadDim}, rows_.Queries(0, head), kGroup, scale, &decoded[at]);
    PlainAttention({rows_.Keys(head), rows_.Values(head), times, kHeadDim}, rows_.Queries(0, head), kGroup, scale, &exact[at]);
  }
  const Accuracy accuracy = Compare(out_, decoded, exact);
  if (auto right = Judge(accuracy, std::string(format_.name) + ", " + std::to_string(tokens_) + " tokens"); !right) {
    return right.error();
  }
  return accuracy;
}

}  // namespace kvant::tools
