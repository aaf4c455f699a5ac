// Rows in two streams: the strongest channels in one codec, the others in another. What keys and values of `outlier` share:
// where both codecs' blocks lie and which channels are whose (codecs/outlier.cc has the format).
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quantizers/channel_split.h"
#include "quantizers/codec.h"
#include "quantizers/scratch.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {

/// `Base` is KeyCodec or ValueCodec.
template <class Base>
class TwoStreams : public Base {
 public:
  /// `calibrated`: the hot channels of heads from config.head_begin on, as a block would store them; empty: each block chooses.
  TwoStreams(const CodecConfig& config, std::size_t hot_dim, std::vector<std::byte> calibrated, std::unique_ptr<Base> hot,
             std::unique_ptr<Base> rest)
      : dim_(config.head_dim),
        hot_dim_(hot_dim),
        tokens_(config.block_tokens),
        first_head_(config.head_begin),
        calibrated_(std::move(calibrated)),
        hot_(std::move(hot)),
        rest_(std::move(rest)) {}

  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override {
    return AdjacentBytes(*hot_) + AdjacentBytes(*rest_) + (chooses() ? ChannelSplit::StoredBytes(dim_, hot_dim_) : 0);
  }
  [[nodiscard]] std::size_t memory_bytes() const noexcept override {
    constexpr std::size_t kCodecObject = 192;  // of a part, about
    return 2 * kCodecObject + hot_->memory_bytes() + rest_->memory_bytes() + calibrated_.capacity();
  }
  [[nodiscard]] CodecTraits traits() const noexcept override {
    const CodecTraits hot = hot_->traits(), rest = rest_->traits();
    return {.exact_zero = hot.exact_zero && rest.exact_zero,
            .rows_alone = !chooses() && hot.rows_alone && rest.rows_alone,
            .largest_norm = std::min(hot.largest_norm, rest.largest_norm)};
  }
  /// Each part's error, times its share of the energy: of normal rows the strongest channels of a block have more than theirs.
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override {
    const auto hot = hot_->expected_error(hot_->parts()), rest = rest_->expected_error(rest_->parts());
    if (!hot || !rest) return std::nullopt;
    const double share =
        static_cast<double>(hot_dim_) / static_cast<double>(dim_) * (chooses() ? LargestEnergy(dim_, hot_dim_, tokens_) : 1.0);
    return share * *hot + (1.0 - share) * *rest;
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    Pieces pieces(args.scratch);
    float* rows = pieces.Floats(tokens_ * dim_);
    float* hot = pieces.Floats(tokens_ * hot_dim_);
    float* rest = pieces.Floats(tokens_ * rest_dim());
    float* energies = pieces.Floats(dim_);
    const std::size_t bad = LoadFiniteRows(args.rows, rows);
    if (bad != args.rows.count) {
      return Error{ErrorCode::kNotFinite, "encode as outlier: row " + std::to_string(bad) + " holds NaN or infinity"};
    }
    if (chooses()) MeasureEnergies(rows, energies);
    const ChannelSplit split = chooses() ? ChannelSplit::Largest(energies, dim_, hot_dim_) : SplitOf(args.head, {});
    for (std::size_t t = 0; t < tokens_; ++t) split.Take(rows + t * dim_, hot + t * hot_dim_, rest + t * rest_dim());
    if (chooses()) split.Store(args.block.part[0] + channels_at());
    EncodeArgs child = args;
    child.scratch = pieces.rest();
    child.rows = {hot, ElementType::kF32, tokens_, hot_dim_, hot_dim_};
    child.block = HotBlock(args.block);
    if (auto done = hot_->Encode(child); !done) return done;
    child.rows = {rest, ElementType::kF32, tokens_, rest_dim(), rest_dim()};
    child.block = RestBlock(args.block);
    return rest_->Encode(child);
  }

  void Decode(const DecodeArgs& args) const override {
    Pieces pieces(args.scratch);
    float* hot = pieces.Floats(hot_dim_);
    float* rest = pieces.Floats(rest_dim());
    const ChannelSplit split = SplitOf(args.head, args.block);
    DecodeArgs child = args;
    child.scratch = pieces.rest();
    child.add = false;
    for (std::size_t t = args.begin; t < args.end; ++t) {
      child.begin = t;
      child.end = t + 1;
      child.rows = hot;
      child.row_stride = hot_dim_;
      child.block = HotBlock(args.block);
      hot_->Decode(child);
      child.rows = rest;
      child.row_stride = rest_dim();
      child.block = RestBlock(args.block);
      rest_->Decode(child);
      split.Put(hot, rest, args.add, args.rows + (t - args.begin) * args.row_stride);
    }
  }

 protected:
  [[nodiscard]] bool chooses() const noexcept { return calibrated_.empty(); }
  [[nodiscard]] std::size_t rest_dim() const noexcept { return dim_ - hot_dim_; }
  [[nodiscard]] std::size_t channels_at() const noexcept { return AdjacentBytes(*hot_) + AdjacentBytes(*rest_); }
  [[nodiscard]] Needs block_needs() const noexcept {
    const Needs hot = hot_->needs(0), rest = rest_->needs(0);
    const std::size_t parts = FloatBytes(hot_dim_) + FloatBytes(rest_dim());
    return {.encode = FloatBytes(tokens_ * dim_) + FloatBytes(tokens_ * hot_dim_) + FloatBytes(tokens_ * rest_dim()) +
                      FloatBytes(dim_) + std::max(hot.encode, rest.encode),
            .decode = parts + std::max(hot.decode, rest.decode)};
  }
  template <typename Byte>
  BasicBlockView<Byte> HotBlock(const BasicBlockView<Byte>& block) const {
    return AdjacentParts(*hot_, block.part[0]);
  }
  template <typename Byte>
  BasicBlockView<Byte> RestBlock(const BasicBlockView<Byte>& block) const {
    return AdjacentParts(*rest_, block.part[0] + AdjacentBytes(*hot_));
  }
  [[nodiscard]] ChannelSplit SplitOf(std::size_t head, const ConstBlockView& block) const {
    const std::byte* stored = chooses() ? block.part[0] + channels_at()
                                        : calibrated_.data() + (head - first_head_) * ChannelSplit::StoredBytes(dim_, hot_dim_);
    return ChannelSplit::Load(stored, dim_, hot_dim_);
  }

  std::size_t dim_;
  std::size_t hot_dim_;
  std::size_t tokens_;
  std::size_t first_head_;
  std::vector<std::byte> calibrated_;
  std::unique_ptr<Base> hot_;
  std::unique_ptr<Base> rest_;

 private:
  /// Sums of squares per channel, in the order of tokens on every machine.
  void MeasureEnergies(const float* rows, float* energies) const {
    std::fill_n(energies, dim_, 0.0F);
    for (std::size_t t = 0; t < tokens_; ++t) {
      for (std::size_t d = 0; d < dim_; ++d) energies[d] += rows[t * dim_ + d] * rows[t * dim_ + d];
    }
  }
};

}  // namespace kvant::quantizers
