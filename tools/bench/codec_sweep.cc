#include "tools/bench/codec_sweep.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "tools/bench/reference.h"

namespace kvant::tools {
namespace {

/// Blocks of unlike contents; the others are copies.
constexpr std::size_t kContents = 4;
/// Blocks between the one that is read and the one that is asked for: attention asks a chunk ahead.
constexpr std::size_t kAhead = 4;

/// A row before RoPE, turned to its position as kMadeRope says.
void Turn(double position, std::span<double> row) {
  const std::size_t half = row.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = position * std::pow(kMadeRope.theta, -static_cast<double>(i) / static_cast<double>(half));
    const double a = row[i], b = row[i + half];
    row[i] = a * std::cos(angle) - b * std::sin(angle);
    row[i + half] = a * std::sin(angle) + b * std::cos(angle);
  }
}

}  // namespace

CodecSweep::CodecSweep(MadeCodec codec, std::span<std::byte> memory, std::size_t run_bytes)
    : made_(std::move(codec)),
      memory_(memory),
      stride_(quantizers::Aligned(AdjacentBytes(made_.codec()))),
      blocks_(memory.size() / stride_),
      run_blocks_(std::clamp<std::size_t>(run_bytes / stride_, 1, blocks_)),
      queries_(NormalRows(kGroup * kHeadDim, 2)),
      weights_(NormalRows(kGroup * kBlockTokens, 3)),
      logits_(kGroup * kBlockTokens),
      prepared_(made_.codec().needs(kGroup).prepared),
      scratch_(made_.codec().needs(kGroup).scratch) {
  for (float& weight : weights_) weight = std::exp(weight);
  if (made_.values != nullptr) acc_floats_ = made_.values->accumulator_floats(kGroup);
  acc_.resize(kGroup * acc_floats_);
}

Result<std::unique_ptr<CodecSweep>> CodecSweep::Make(MadeCodec codec, std::span<std::byte> memory, std::size_t run_bytes) {
  std::unique_ptr<CodecSweep> sweep(new CodecSweep(std::move(codec), memory, run_bytes));
  if (auto filled = sweep->Fill(); !filled) return filled.error();
  return sweep;
}

Result<void> CodecSweep::Fill() {
  for (std::size_t i = 0; i < blocks_; ++i) {
    if (i >= kContents) {
      std::memcpy(memory_.data() + i * stride_, memory_.data() + i % kContents * stride_, stride_);
      continue;
    }
    std::vector<float> rows = NormalRows(kBlockTokens * kHeadDim, 10 + i);
    for (std::size_t at = 0; !made_.mean.empty() && at < rows.size(); ++at) rows[at] += made_.mean[at % kHeadDim];
    const RowsView view{rows.data(), ElementType::kF32, kBlockTokens, kHeadDim, kHeadDim};
    auto done = EncodeBlock(made_.codec(), 0, kBlockTokens, view, AdjacentParts(made_.codec(), memory_.data() + i * stride_));
    if (!done) return done;
  }
  if (made_.keys != nullptr) {
    made_.keys->Prepare({.queries = queries_.data(),
                         .query_stride = kHeadDim,
                         .n = kGroup,
                         .prepared = prepared_.data(),
                         .scratch = scratch_.data()});
  }
  return {};
}

void CodecSweep::Attend(std::size_t block) {
  const quantizers::Ahead ahead{memory_.data() + (block + kAhead) % blocks_ * stride_, stride_};
  if (made_.keys != nullptr) {
    made_.keys->Score({.first_position = kBlockTokens,
                       .queries = queries_.data(),
                       .query_stride = kHeadDim,
                       .prepared = prepared_.data(),
                       .n = kGroup,
                       .block = Block(block),
                       .logits = logits_.data(),
                       .stride = kBlockTokens,
                       .scratch = scratch_.data(),
                       .next = ahead});
  } else {
    made_.values->Accumulate({.first_position = kBlockTokens,
                              .weights = weights_.data(),
                              .stride = kBlockTokens,
                              .n = kGroup,
                              .block = Block(block),
                              .acc = acc_.data(),
                              .acc_stride = acc_floats_,
                              .acc_floats = acc_floats_,
                              .scratch = scratch_.data(),
                              .next = ahead});
  }
}

void CodecSweep::Run() {
  for (std::size_t i = 0; i < run_blocks_; ++i) {
    Attend(next_);
    next_ = (next_ + 1) % blocks_;
  }
}

void CodecSweep::RunCached() {
  const std::size_t few = std::min(kContents, blocks_);
  for (std::size_t i = 0; i < run_blocks_; ++i) Attend(i % few);
}

Result<double> CodecSweep::Check(const std::string& what) {
  std::vector<float> rows(kBlockTokens * kHeadDim);
  DecodeBlock(made_.codec(), 0, kBlockTokens, Block(0), 0, kBlockTokens, rows.data(), kHeadDim);
  std::vector<double> exact(kGroup * (made_.keys != nullptr ? kBlockTokens : kHeadDim));
  std::vector<double> row(kHeadDim);
  for (std::size_t t = 0; t < kBlockTokens; ++t) {
    std::copy_n(&rows[t * kHeadDim], kHeadDim, row.begin());
    if (made_.keys != nullptr && made_.keys->pre_rope()) Turn(static_cast<double>(kBlockTokens + t), row);
    for (std::size_t q = 0; q < kGroup; ++q) {
      for (std::size_t d = 0; d < kHeadDim; ++d) {
        if (made_.keys != nullptr) {
          exact[q * kBlockTokens + t] += double{queries_[q * kHeadDim + d]} * row[d];
        } else {
          exact[q * kHeadDim + d] += double{weights_[q * kBlockTokens + t]} * row[d];
        }
      }
    }
  }
  std::fill(acc_.begin(), acc_.end(), 0.0F);
  Attend(0);
  std::vector<float> result = logits_;
  if (made_.values != nullptr) {
    float sums[kGroup] = {};
    for (std::size_t i = 0; i < weights_.size(); ++i) sums[i / kBlockTokens] += weights_[i];
    result.assign(kGroup * kHeadDim, 0.0F);
    made_.values->Finish({.acc = acc_.data(),
                          .acc_stride = acc_floats_,
                          .acc_floats = acc_floats_,
                          .weight_sums = sums,
                          .n = kGroup,
                          .rows = result.data(),
                          .row_stride = kHeadDim,
                          .scratch = scratch_.data()});
  }
  const double difference = RelativeRms(result, exact);
  const double bound = HiddenLossBound(made_.codec().expected_error(made_.codec().parts()).value_or(0.0));
  if (difference <= bound) return difference;  // not so for NaN
  return Error{ErrorCode::kInternal, what + ": results differ from those of decoded rows by " + std::to_string(difference) +
                                         ", more than " + std::to_string(bound)};
}

}  // namespace kvant::tools
