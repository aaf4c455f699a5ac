// What codecs of vector codes share: blocks of rotated rows in 256 words of four numbers with one 16-bit scale per row
// (kernels/vector), for a codebook and smooth factors of the codec's choice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/vector/codebook.h"
#include "kernels/vector/encode.h"
#include "quantizers/codec.h"
#include "quantizers/rotation.h"

namespace kvant::quantizers {

/// What makes one codec of vector codes differ from another.
struct VectorChoices {
  std::string_view name;  ///< of the codec; rotations depend on it and on `version`
  std::uint32_t version = 1;
  std::vector<kernels::VectorCodebook> codebooks;  ///< of the heads from head_begin on; empty: the Gaussian one for all
  std::span<const float>
      smooth;               ///< keys: [kv_heads, head_dim], positive; rows are divided by them, queries multiplied. Or empty
  double normal_error = 0;  ///< WordsFit::error (vector_error.h) of the codebooks
};

/// What both sides share.
class VectorBlocks {
 public:
  /// kUnsupported for a head size or number of tokens that the codes cannot have.
  static Result<VectorBlocks> Make(const CodecConfig& config, VectorChoices choices);

  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return dim_ * sizeof(float); }
  [[nodiscard]] std::size_t bytes() const noexcept;
  [[nodiscard]] std::size_t memory_bytes() const noexcept;
  [[nodiscard]] const kernels::VectorCodebook& codebook(std::size_t head) const;
  [[nodiscard]] const Rotation& rotation(std::size_t head) const { return rotations_.of(head); }
  /// [head_dim], or null.
  [[nodiscard]] const float* smooth(std::size_t head) const noexcept;

  [[nodiscard]] CodecTraits traits() const noexcept;
  [[nodiscard]] CodeForm form() const noexcept;
  [[nodiscard]] double expected_error() const noexcept;
  [[nodiscard]] std::size_t encode_scratch() const noexcept { return kernels::VectorEncodeScratchBytes(dim_); }
  [[nodiscard]] std::size_t decode_scratch() const noexcept { return unrotate_scratch(1) + row_bytes(); }
  /// Of the rotation, and of n rows before they are put where they belong.
  [[nodiscard]] std::size_t unrotate_scratch(std::size_t n) const noexcept;

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const;
  void Decode(const DecodeArgs& args) const;
  /// n rows in codebook units, row i at from + i * from_stride, rotated back and unsmoothed into `rows`. Scratch:
  /// unrotate_scratch(n).
  struct Unrotated {
    std::size_t head = 0;
    const float* from = nullptr;
    std::size_t from_stride = 0;
    std::size_t n = 0;
    float* rows = nullptr;
    std::size_t row_stride = 0;
    bool add = false;
    std::byte* scratch = nullptr;
  };
  void Unrotate(const Unrotated& args) const;

 private:
  VectorBlocks() = default;

  Side side_ = Side::kKeys;
  std::size_t dim_ = 0;
  std::size_t tokens_ = 0;
  std::size_t first_head_ = 0;
  VectorChoices choices_;
  HeadRotations rotations_;
};

Result<std::unique_ptr<KeyCodec>> MakeVectorKeys(const CodecConfig& config, VectorChoices choices);
Result<std::unique_ptr<ValueCodec>> MakeVectorValues(const CodecConfig& config, VectorChoices choices);

}  // namespace kvant::quantizers
