#include "kernels/lloyd/planes.h"

#include <cstring>

#include "kernels/lloyd/query.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lloyd/planes.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/bytes/accumulate-inl.h"
#include "kernels/bytes/score-inl.h"
#include "kernels/lloyd/expander-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// kJoined planes joined in the lowest bits of bytes: 4, 6 or 8. Planes that are not there are read from the first one: levels
/// do not depend on their bits.
template <std::uint32_t kJoined>
struct LloydPlanesExpander : LloydWordExpander {
  static constexpr std::size_t kFields = 8;

  const std::uint8_t* plane[kJoined];
  std::size_t tile_bytes;

  LloydPlanesExpander(const LloydTable& levels, const LloydPlanes& planes, LloydLayout layout, std::size_t dim)
      : LloydWordExpander{levels}, plane{}, tile_bytes((layout == LloydLayout::kKeys ? 16 : 4) * dim) {
    for (std::uint32_t p = 0; p < kJoined; ++p) plane[p] = planes.plane[p < planes.count ? p : 0];
  }

  template <std::size_t kField, class D8>
  HWY_INLINE Pairs<D8> Expand(D8 d8, InMemory, std::size_t tile, std::size_t byte) const {
    const std::size_t at = tile * tile_bytes + byte;
    const auto pair = [&](std::size_t p) HWY_ATTR {
      return Join<1, (kField & 4) != 0>(d8, hn::LoadU(d8, plane[p] + at), hn::LoadU(d8, plane[p + 1] + at));
    };
    const auto top = Join<2, (kField & 2) != 0>(d8, pair(0), pair(2));
    constexpr int kTop = (kField & 1) != 0 ? 4 : 0;  // where this field's four bits of `top` are
    if constexpr (kJoined == 4) {
      return this->template LookUp<4>(d8, ShiftBytes<kTop>(d8, top));
    } else if constexpr (kJoined == 6) {
      constexpr int kLow = kTop + ((kField & 2) != 0 ? 2 : 0);  // and its two bits of the pair below
      const auto index = SelectBits(hn::Set(d8, 0x03u), ShiftBytes<kLow>(d8, pair(4)), ShiftBytes<kTop - 2>(d8, top));
      return this->template LookUp<6>(d8, index);
    } else {
      const auto low = Join<2, (kField & 2) != 0>(d8, pair(4), pair(6));
      return this->template LookUp<8>(d8, Join<4, (kField & 1) != 0>(d8, top, low));
    }
  }

 private:
  /// Bytes hold fields of kBits bits. Every second field of `top`, from the lowest on or (kOdd) the second lowest, and the
  /// field of `low` of the same place below it.
  template <int kBits, bool kOdd, class D8>
  static HWY_INLINE hn::Vec<D8> Join(D8 d8, hn::Vec<D8> top, hn::Vec<D8> low) {
    const auto upper = hn::Set(d8, kBits == 1 ? 0xAAu : kBits == 2 ? 0xCCu : 0xF0u);
    return SelectBits(upper, ShiftBytes < kOdd ? 0 : -kBits > (d8, top), ShiftBytes < kOdd ? kBits : 0 > (d8, low));
  }
};

/// `use(expander)` with that of as many planes as are joined.
template <class Use>
HWY_INLINE void WithPlanesExpander(const LloydTable& levels, const LloydPlanes& planes, LloydLayout layout, std::size_t dim,
                                   const Use& use) {
  switch (levels.index_bits) {
    case 4: return use(LloydPlanesExpander<4>(levels, planes, layout, dim));
    case 6: return use(LloydPlanesExpander<6>(levels, planes, layout, dim));
    default: return use(LloydPlanesExpander<8>(levels, planes, layout, dim));
  }
}

void ScorePlanesAll(const LloydTable& levels, const LloydPlanes& planes, const ByteScoreArgs& args) {
  const QueryBatches queries{args.prepared, LloydQueryWords(8, args.dim)};
  const auto* scales = reinterpret_cast<const std::uint16_t*>(args.scales);
  WithPlanesExpander(levels, planes, LloydLayout::kKeys, args.dim,
                     [&](const auto& expander) HWY_ATTR { Score(expander, queries, scales, args); });
}

void AccumulatePlanesAll(const LloydTable& levels, const LloydPlanes& planes, const ByteAccumulateArgs& args) {
  const auto* scales = reinterpret_cast<const std::uint16_t*>(args.scales);
  WithPlanesExpander(levels, planes, LloydLayout::kValues, args.dim,
                     [&](const auto& expander) HWY_ATTR { Accumulate(expander, scales, args); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(ScorePlanesAll);
HWY_EXPORT(AccumulatePlanesAll);

void LloydSplitPlanes(LloydLayout layout, std::uint32_t bits, std::size_t dim, std::size_t tokens, const std::uint8_t* codes,
                      std::uint8_t* const* planes, std::uint32_t count) noexcept {
  // Eight codes at once: the bytes of a word.
  constexpr std::uint64_t kOnes = 0x0101010101010101u;
  const std::size_t lane_tokens = layout == LloydLayout::kKeys ? 16 : 4, tile_bytes = lane_tokens * dim;
  for (std::size_t tile = 0; tile < tokens / (8 * lane_tokens); ++tile) {
    for (std::size_t byte = 0; byte < tile_bytes; byte += 8) {
      std::uint64_t out[8] = {};
      for (std::uint32_t group = 0; group < 8; ++group) {
        std::uint64_t index = 0;
        const std::uint8_t* from = codes;
        for (std::uint32_t p = 0; p < LloydPlaneCount(bits); ++p) {
          const LloydPlane plane = LloydPlaneAt(bits, p);
          const std::size_t fields = 8 / plane.bits, field = 8 * tile + group;
          std::uint64_t eight;
          std::memcpy(&eight, from + field / fields * tile_bytes + byte, sizeof(eight));
          index |= (eight >> field % fields * plane.bits & kOnes * ((1u << plane.bits) - 1u)) << plane.shift;
          from += LloydPlaneBytes(plane.bits, dim, tokens);
        }
        for (std::uint32_t p = 0; p < count; ++p) out[p] |= (index >> (bits - 1 - p) & kOnes) << PlaneBit(group);
      }
      for (std::uint32_t p = 0; p < count; ++p) {
        std::memcpy(planes[p] + tile * tile_bytes + byte, &out[p], sizeof(out[p]));
      }
    }
  }
}

void LloydPlanesScore(const LloydTable& levels, const LloydPlanes& planes, const ByteScoreArgs& args) noexcept {
  HWY_DYNAMIC_DISPATCH(ScorePlanesAll)(levels, planes, args);
}

void LloydPlanesAccumulate(const LloydTable& levels, const LloydPlanes& planes, const ByteAccumulateArgs& args) noexcept {
  HWY_DYNAMIC_DISPATCH(AccumulatePlanesAll)(levels, planes, args);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
