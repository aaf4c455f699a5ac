// A codec plan made ready to work: which codecs serve which KV heads of each layer, and where their bytes lie in a block slot.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <kvant/store_spec.h>

#include "kernels/rope.h"
#include "quantizers/artifact.h"
#include "quantizers/codec.h"
#include "quantizers/registry.h"

namespace kvant::quantizers {

/// Limits that bound what a hostile spec can cost: entries of a plan's overrides, layers that all entries name together, and
/// bytes of the plan's text.
inline constexpr std::size_t kMaxOverrides = 4096;
inline constexpr std::size_t kMaxOverrideLayers = 16384;
inline constexpr std::size_t kMaxPlanText = std::size_t{1} << 20;

/// The cheap part of what Plan::Make checks: names, shape and rotary positions. Errors name the field.
[[nodiscard]] Result<void> CheckStoreSpec(const StoreSpec& spec);

/// What a spec takes in memory, its artifact not.
[[nodiscard]] std::size_t SpecBytes(const StoreSpec& spec);

/// The most that a plan of this spec takes in memory, its own copy of the spec included, its artifact not: to be charged before
/// it is made, when nothing more is known. Requires: CheckStoreSpec. A codec that `registry` does not know counts as one that
/// says nothing of its memory: Plan::Make will refuse it.
[[nodiscard]] std::size_t PlanBytes(const Registry& registry, const StoreSpec& spec);

/// Where the encoded blocks of one side of one KV head lie: part p begins `offset[p]` bytes from the start of a slot's payload,
/// a multiple of 64, and takes `room[p]` bytes, of which the codec writes the first `bytes[p]`.
struct Place {
  std::size_t parts = 1;
  std::array<std::size_t, kMaxParts> offset{};
  std::array<std::size_t, kMaxParts> bytes{};
  std::array<std::size_t, kMaxParts> room{};

  /// The block in a payload that has its first `sections` sections (Plan::section_end).
  template <typename Byte>
  [[nodiscard]] BasicBlockView<Byte> In(Byte* payload, std::size_t sections = kMaxParts) const noexcept {
    BasicBlockView<Byte> block;
    block.parts = parts < sections ? parts : sections;
    for (std::size_t p = 0; p < block.parts; ++p) block.part[p] = payload + offset[p];
    return block;
  }
};

/// The codecs of KV heads [begin, end) of one layer.
struct HeadCodecs {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  std::unique_ptr<KeyCodec> keys;
  std::unique_ptr<ValueCodec> values;
  /// Attention may leave out values whose weights sum up to this share of a query's: a hundredth of what the codec loses on a
  /// row (the root of its expected error), 0 where it loses nothing or does not know.
  float negligible_weight = 0.0f;
  Place first_keys;  ///< of head `begin`; those of the next head lie head_stride[p] further
  Place first_values;
  std::array<std::size_t, kMaxParts> head_stride{};
};

/// A codec of a plan, once however many heads it serves.
struct UsedCodec {
  Side side = Side::kKeys;
  std::string spec;                   ///< canonical
  const BlockCodec* codec = nullptr;  ///< of the first heads that it serves; blocks of the others have the same form
  std::size_t heads = 0;              ///< KV heads of all layers
};

/// Immutable after Make; shared by threads. The daemon and a client with local placement build the same from the same spec.
class Plan {
 public:
  /// Checks the whole spec (shape, block size, codecs, artifact) and builds the working codecs.
  static Result<std::unique_ptr<const Plan>> Make(const Registry& registry, const StoreSpec& spec);

  [[nodiscard]] const StoreSpec& spec() const noexcept { return spec_; }
  [[nodiscard]] std::size_t layers() const noexcept { return layers_.size(); }

  /// The codecs of all heads of a layer, in order.
  [[nodiscard]] std::span<const HeadCodecs> heads(std::size_t layer) const { return layers_[layer]; }
  /// The codecs of one head.
  [[nodiscard]] const HeadCodecs& codecs(std::size_t layer, std::size_t kv_head) const;
  [[nodiscard]] const BlockCodec& codec(std::size_t layer, std::size_t kv_head, Side side) const;
  /// Where its blocks lie in a slot's payload.
  [[nodiscard]] Place place(std::size_t layer, std::size_t kv_head, Side side) const;

  /// A payload has as many sections as the plan's codecs have parts at most: section p holds part p of every layer, head and
  /// side, in this order, from section_end(p - 1) to section_end(p). A block that is demoted in place loses its last sections.
  [[nodiscard]] std::size_t sections() const noexcept { return sections_; }
  [[nodiscard]] std::size_t section_end(std::size_t section) const noexcept { return section_end_[section]; }
  /// How many sections a payload of so many bytes has; 0 if it ends within one.
  [[nodiscard]] std::size_t SectionsOf(std::uint64_t payload_bytes) const noexcept;

  /// Bytes of one block's codes and side data over all layers and heads, alignment included: a slot's payload.
  [[nodiscard]] std::size_t payload_bytes() const noexcept { return section_end_[sections_ - 1]; }
  /// Bytes the same tokens take as f16: the "logical" figure.
  [[nodiscard]] std::size_t logical_bytes() const noexcept;
  /// Mean over layers and heads of the bits that one number takes, side information included.
  [[nodiscard]] double bits_per_element(Side side) const noexcept;
  /// Scratch bytes of Encode and of Decode that are enough for every codec of the plan.
  [[nodiscard]] std::size_t encode_scratch() const noexcept { return encode_scratch_; }
  [[nodiscard]] std::size_t decode_scratch() const noexcept { return decode_scratch_; }
  /// Canonical text, one line for each run of heads with the same codecs, for the identity and for operators:
  /// "artifact DIGEST" if there is one, then "layer 3 keys SPEC values SPEC", or "layer 3 heads 0..1 keys SPEC values SPEC" for
  /// some of the heads.
  [[nodiscard]] const std::string& canonical() const noexcept { return canonical_; }
  /// Every distinct codec, keys first.
  [[nodiscard]] const std::vector<UsedCodec>& used_codecs() const noexcept { return used_codecs_; }
  /// True if the keys of this layer are handed over before RoPE.
  [[nodiscard]] bool pre_rope(std::size_t layer) const { return layers_[layer].front().keys->pre_rope(); }

  /// What it takes in memory, about, without its artifact; never more than PlanBytes of its spec.
  [[nodiscard]] std::size_t memory_bytes() const noexcept;

  /// The model's rotary positions, for raw keys of pre-RoPE layers.
  [[nodiscard]] const kernels::Rope& rope() const noexcept { return rope_; }

 private:
  explicit Plan(const StoreSpec& spec) : spec_(spec), rope_(spec.rope, spec.head_dim) {}
  void LayOut();

  StoreSpec spec_;
  kernels::Rope rope_;
  std::unique_ptr<const Artifact> artifact_;
  std::vector<std::vector<HeadCodecs>> layers_;
  std::vector<UsedCodec> used_codecs_;
  std::size_t sections_ = 1;
  std::array<std::size_t, kMaxParts> section_end_{};
  std::size_t encode_scratch_ = 0;
  std::size_t decode_scratch_ = 0;
  std::string canonical_;
};

}  // namespace kvant::quantizers
