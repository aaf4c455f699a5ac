// A codec plan made ready to work: one key codec and one value codec per layer, and where their bytes lie in a block slot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <kvant/store_spec.h>

#include "kernels/rope.h"
#include "quantizers/artifact.h"
#include "quantizers/codec.h"
#include "quantizers/registry.h"

namespace kvant::quantizers {

/// One layer of a plan. Offsets are bytes from the start of a slot's payload; all multiples of 64.
/// KV head h's keys start at `offset + h * head_stride`, its values `values_offset` bytes after that.
struct LayerCodecs {
  std::unique_ptr<KeyCodec> keys;
  std::unique_ptr<ValueCodec> values;
  std::size_t offset = 0;
  std::size_t head_stride = 0;
  std::size_t values_offset = 0;
  /// Attention may leave out values whose weights sum up to this share of a query's: a hundredth of what the codec loses on a
  /// row (the root of its declared error), 0 for codecs that lose nothing.
  float negligible_weight = 0.0f;
};

/// Immutable after Make; shared by threads. The daemon and a client with local placement build the same from the same spec.
class Plan {
 public:
  /// Checks the whole spec (shape, block size, codecs, artifact) and builds the working codecs.
  static Result<std::unique_ptr<const Plan>> Make(const Registry& registry, const StoreSpec& spec);

  [[nodiscard]] const StoreSpec& spec() const noexcept { return spec_; }
  [[nodiscard]] const LayerCodecs& layer(std::size_t i) const { return layers_[i]; }
  [[nodiscard]] std::size_t layers() const noexcept { return layers_.size(); }

  /// Bytes of one block's codes and side data over all layers and heads, alignment included: a slot's payload.
  [[nodiscard]] std::size_t payload_bytes() const noexcept { return payload_bytes_; }
  /// Bytes the same tokens take as f16: the "logical" figure.
  [[nodiscard]] std::size_t logical_bytes() const noexcept;
  /// Canonical text of every layer's codecs, one line each, for the identity and for operators.
  [[nodiscard]] const std::string& canonical() const noexcept { return canonical_; }
  /// True if the keys of this layer are handed over before RoPE.
  [[nodiscard]] bool pre_rope(std::size_t layer) const { return layers_[layer].keys->pre_rope(); }

  /// The model's rotary positions, for raw keys of pre-RoPE layers.
  [[nodiscard]] const kernels::Rope& rope() const noexcept { return rope_; }

 private:
  explicit Plan(const StoreSpec& spec) : spec_(spec), rope_(spec.rope, spec.head_dim) {}
  StoreSpec spec_;
  kernels::Rope rope_;
  std::unique_ptr<const Artifact> artifact_;
  std::vector<LayerCodecs> layers_;
  std::size_t payload_bytes_ = 0;
  std::string canonical_;
};

}  // namespace kvant::quantizers
