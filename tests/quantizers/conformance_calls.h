// A codec's calls as the conformance suite makes them: with memory of exactly the promised sizes, guards around every piece of
// it, and nothing allocated meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <kvant/result.h>

#include "quantizers/codec.h"
#include "tests/quantizers/guarded_bytes.h"
#include "tools/codec_calls.h"

namespace kvant::quantizers::test {

/// The KV head of all calls.
inline constexpr std::size_t kHead = 2;
inline constexpr std::uint64_t kSeed = 20240607;
/// Float arithmetic of a dot product over up to 1024 numbers, relative to |a| |b|.
inline constexpr double kFloatError = 1e-6;
/// Share of a codec's own squared error that its integer arithmetic may add.
inline constexpr double kHiddenShare = 0.05;

/// Numbers of N(0, 1).
std::vector<float> Gaussian(std::size_t n, std::uint64_t seed);

inline RowsView View(const std::vector<float>& rows, std::size_t dim) {
  return {rows.data(), ElementType::kF32, rows.size() / dim, dim, dim};
}

/// Memory for an encoded block.
class Block {
 public:
  explicit Block(const BlockCodec& codec) : codec_(codec), bytes_(tools::AdjacentBytes(codec)) {}
  [[nodiscard]] BlockView view() { return tools::AdjacentParts(codec_, bytes_.data()); }
  [[nodiscard]] ConstBlockView first(std::size_t parts) {
    ConstBlockView block = AsConst(view());
    block.parts = parts;
    for (std::size_t p = parts; p < kMaxParts; ++p) block.part[p] = nullptr;
    return block;
  }
  /// What the codec wrote: without the padding between parts.
  [[nodiscard]] std::vector<std::byte> bytes() {
    std::vector<std::byte> all;
    const BlockView block = view();
    for (std::size_t p = 0; p < block.parts; ++p) all.insert(all.end(), block.part[p], block.part[p] + codec_.part_bytes(p));
    return all;
  }
  [[nodiscard]] bool intact() const { return bytes_.intact(); }

 private:
  const BlockCodec& codec_;
  GuardedBytes bytes_;
};

/// Encodes with scratch of the promised size, and sees that nothing else is written and nothing allocated.
Result<void> Encode(const BlockCodec& codec, std::uint64_t position, const RowsView& rows, Block& block);

struct DecodeCall {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t row_stride = 0;
  bool add = false;
};

void DecodeInto(const BlockCodec& codec, std::uint64_t position, const ConstBlockView& block, const DecodeCall& call,
                float* rows);

/// Queries prepared for scoring.
class Prepared {
 public:
  Prepared(const KeyCodec& codec, const float* queries, std::size_t stride, std::size_t n);
  void Score(std::uint64_t position, const ConstBlockView& block, float* logits, std::size_t stride, bool add = false,
             Ahead next = {});

 private:
  const KeyCodec& codec_;
  const float* queries_;
  std::size_t stride_;
  std::size_t n_;
  GuardedBytes prepared_;
  GuardedBytes scratch_;
};

/// Accumulators of n queries with room between them.
class Sums {
 public:
  Sums(const ValueCodec& codec, std::size_t n, std::size_t queries_of_call);
  void Add(const float* weights, std::size_t stride, const ConstBlockView& block, Ahead next = {});
  void Finish(const float* weight_sums, float* rows, std::size_t row_stride, bool add = false);
  [[nodiscard]] std::vector<float> Of(std::size_t query) const;

 private:
  const ValueCodec& codec_;
  std::size_t n_;
  std::size_t floats_;
  std::size_t stride_;
  std::vector<float> acc_;
  GuardedBytes scratch_;
};

}  // namespace kvant::quantizers::test
