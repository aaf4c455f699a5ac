// Affine codes to numbers: code - 2^(bits-1), as bytes up to 4 bits and as 16-bit numbers (wide) above. No include guard by
// design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_AFFINE_EXPANDER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_AFFINE_EXPANDER_INL_H_
#undef KVANT_KERNELS_AFFINE_EXPANDER_INL_H_
#else
#define KVANT_KERNELS_AFFINE_EXPANDER_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "hwy/highway.h"
#include "kernels/affine/attend.h"
#include "kernels/affine/layout.h"
#include "kernels/bytes/factors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// kWhole: fields of a tile are known to the compiler, all those of a byte of the narrowest plane. Otherwise a tile is two
/// fields (8 bits: one) from field `first` of the block on, so that any 32 tokens can be read alone.
template <std::uint32_t kBits, bool kWhole, bool kWide = AffineWordQueries(kBits)>
struct AffineExpander {
  static constexpr bool kWords = kWide;
  static constexpr std::size_t kFields = kWhole ? AffineFields(kBits) : kBits == 8 ? 1 : 2;
  static constexpr int kLargest = 1 << (kBits - 1);  // of bytes
  static constexpr int kOffset = 1 << (kBits - 1);   // of words
  static constexpr int kWeightMax = kAffineWordMax;
  static constexpr std::size_t kWeightRun = kernels::kWeightRun;
  static constexpr bool kPlainBytes = false;

  std::array<const std::uint8_t*, 3> planes;
  std::size_t tile_bytes;  ///< of a plane
  std::size_t first = 0;

  AffineExpander(const AffineShape& shape, const std::byte* block) : tile_bytes((kKeys(shape) ? 16 : 4) * shape.dim) {
    const auto* codes = reinterpret_cast<const std::uint8_t*>(block);
    for (std::size_t p = 0; p < 3; ++p) {
      planes[p] = codes;
      codes += LloydPlaneBytes(AffinePlanes(kBits)[p], shape.dim, shape.tokens);
    }
  }

  template <class D8>
  HWY_INLINE hn::Vec<D8> Tables(D8 d8, std::uint8_t offset) const {
    return hn::Set(d8, static_cast<std::uint8_t>(kWords ? 0 : offset - kLargest));
  }

  template <std::size_t kField, class D8>
  HWY_INLINE auto Expand(D8 d8, hn::Vec<D8> shift, std::size_t tile, std::size_t byte) const {
    auto code = Plane<0, 0, kField>(d8, tile, byte);
    constexpr auto kPlanes = AffinePlanes(kBits);
    if constexpr (kPlanes[1] != 0) code = hn::Or(code, Plane<1, kPlanes[0], kField>(d8, tile, byte));
    if constexpr (kPlanes[2] != 0) code = hn::Or(code, Plane<2, kPlanes[0] + kPlanes[1], kField>(d8, tile, byte));
    if constexpr (kWords) {
      return WidenUnsigned(d8, code);
    } else {
      return hn::Add(code, shift);
    }
  }

 private:
  static constexpr bool kKeys(const AffineShape& shape) { return shape.layout == LloydLayout::kKeys; }

  /// The bits of plane kPlane of one field, at their place in the code.
  template <std::size_t kPlane, std::uint32_t kTo, std::size_t kField, class D8>
  HWY_INLINE hn::Vec<D8> Plane(D8 d8, std::size_t tile, std::size_t byte) const {
    constexpr std::uint32_t kWidth = AffinePlanes(kBits)[kPlane];
    constexpr std::size_t kOfByte = 8 / kWidth;
    const hn::Repartition<std::uint16_t, D8> d16;
    if constexpr (kWhole || kOfByte == 1) {
      constexpr std::size_t kPlace = kField % kOfByte;
      const std::size_t at = kWhole ? tile * (kFields / kOfByte) + kField / kOfByte : first + tile;
      const auto v = hn::LoadU(d8, planes[kPlane] + at * tile_bytes + byte);
      if constexpr (kWidth == 8) return v;
      constexpr int kRight = static_cast<int>(kPlace * kWidth) - static_cast<int>(kTo);
      const auto words = hn::BitCast(d16, v);
      auto moved = words;
      if constexpr (kRight > 0) moved = hn::ShiftRight<kRight>(words);
      if constexpr (kRight < 0) moved = hn::ShiftLeft<-kRight>(words);
      return hn::And(hn::BitCast(d8, moved), hn::Set(d8, static_cast<std::uint8_t>(((1u << kWidth) - 1u) << kTo)));
    } else {
      const std::size_t field = first + tile * kFields + kField;
      const auto v = hn::LoadU(d8, planes[kPlane] + field / kOfByte * tile_bytes + byte);
      const auto low = hn::BitCast(d8, hn::ShiftRightSame(hn::BitCast(d16, v), static_cast<int>(field % kOfByte * kWidth)));
      const auto bits = hn::And(low, hn::Set(d8, static_cast<std::uint8_t>((1u << kWidth) - 1u)));
      return kTo == 0 ? bits : hn::BitCast(d8, hn::ShiftLeft<static_cast<int>(kTo)>(hn::BitCast(d16, bits)));
    }
  }
};

/// `use(std::integral_constant<std::uint32_t, bits>)`.
template <class Use>
HWY_INLINE void WithAffineBits(std::uint32_t bits, const Use& use) {
  switch (bits) {
    case 1: return use(std::integral_constant<std::uint32_t, 1>());
    case 2: return use(std::integral_constant<std::uint32_t, 2>());
    case 3: return use(std::integral_constant<std::uint32_t, 3>());
    case 4: return use(std::integral_constant<std::uint32_t, 4>());
    case 5: return use(std::integral_constant<std::uint32_t, 5>());
    case 6: return use(std::integral_constant<std::uint32_t, 6>());
    case 7: return use(std::integral_constant<std::uint32_t, 7>());
    default: return use(std::integral_constant<std::uint32_t, 8>());
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
