// One side of one codec at work over blocks that come from memory: scores of keys or weighted sums of values, without softmax.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "tools/bench/rows.h"
#include "tools/codec_calls.h"
#include "tools/made_codec.h"

namespace kvant::tools {

/// Calls over one block after another, around and around. kGroup queries. One calling thread.
class CodecSweep {
 public:
  /// `memory`, 64-byte aligned, outlives this and has room for some blocks; it is filled with encoded rows. A run reads about
  /// `run_bytes`. Errors are the codec's.
  static Result<std::unique_ptr<CodecSweep>> Make(MadeCodec codec, std::span<std::byte> memory, std::size_t run_bytes);

  /// The next blocks of one run.
  void Run();
  /// As many blocks, but the same few: they come from a cache.
  void RunCached();

  /// How far scores (sums) of one block are from those of its decoded rows, as RelativeRms; an error if that is more than
  /// rounding queries (weights) explains.
  [[nodiscard]] Result<double> Check(const std::string& what);

  /// Of one run.
  [[nodiscard]] std::size_t bytes() const noexcept { return run_blocks_ * made_.codec().block_bytes(); }
  [[nodiscard]] std::size_t tokens() const noexcept { return run_blocks_ * kBlockTokens; }

 private:
  CodecSweep(MadeCodec codec, std::span<std::byte> memory, std::size_t run_bytes);
  Result<void> Fill();
  void Attend(std::size_t block);
  [[nodiscard]] quantizers::ConstBlockView Block(std::size_t i) const {
    return AdjacentParts<const std::byte>(made_.codec(), memory_.data() + i * stride_);
  }

  MadeCodec made_;
  std::span<std::byte> memory_;
  std::size_t stride_;      ///< from one block to the next
  std::size_t blocks_;      ///< in memory
  std::size_t run_blocks_;  ///< in one run
  std::size_t next_ = 0;
  std::size_t acc_floats_ = 0;
  std::vector<float> queries_;
  std::vector<float> weights_;
  std::vector<float> logits_;
  std::vector<float> acc_;
  AlignedBytes prepared_;
  AlignedBytes scratch_;
};

}  // namespace kvant::tools
