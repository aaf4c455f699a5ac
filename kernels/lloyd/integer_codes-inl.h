// Rotated columns of 16-bit integers -> codes in the stored layout, and the integer sums that scales are computed from; the
// last step of lloyd/integer.h. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_LLOYD_INTEGER_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_LLOYD_INTEGER_CODES_INL_H_
#undef KVANT_KERNELS_LLOYD_INTEGER_CODES_INL_H_
#else
#define KVANT_KERNELS_LLOYD_INTEGER_CODES_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/bytes/factors-inl.h"
#include "kernels/lloyd/integer_rows-inl.h"
#include "kernels/lloyd/layout.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using ByteTag = hn::Repartition<std::uint8_t, ColumnTag>;
using ByteVec = hn::Vec<ByteTag>;
using ByteSumTag = hn::Repartition<std::int32_t, ColumnTag>;
using ByteSumVec = hn::Vec<ByteSumTag>;

struct CodeBytes {
  ByteVec index;      ///< the code
  ByteVec magnitude;  ///< of its centroid
};

/// Codes of signed grid steps.
template <std::uint32_t kBits>
class StepCodes {
 public:
  static constexpr std::size_t kHalf = 1u << (kBits - 1);

  HWY_INLINE StepCodes(const LloydTable& table, const LloydGrid& levels) {
    const ByteTag d;
    alignas(64) std::uint8_t bytes[16] = {};
#if HWY_TARGET == HWY_AVX3_DL
    // Negative numbers' codes count down to 0; a positive number's is the complement.
    alignas(64) std::uint8_t below[kGridSize];
    for (std::size_t i = 0; i < kGridSize; ++i) below[i] = static_cast<std::uint8_t>(kHalf - 1 - levels[i]);
    below_low_ = hn::Load(d, below);
    below_high_ = hn::Load(d, below + 64);
    for (std::size_t i = 0; i < kHalf; ++i) bytes[kHalf - 1 - i] = static_cast<std::uint8_t>(table.magnitudes[i]);
#else
    for (std::size_t i = 0; i + 1 < kGridSize; ++i) {
      if (levels[i] != levels[i + 1]) last_steps_[levels[i]] = static_cast<std::int8_t>(i);
    }
    for (std::size_t i = 0; i < kHalf; ++i) bytes[i] = static_cast<std::uint8_t>(table.magnitudes[i]);
#endif
    magnitudes_ = hn::LoadDup128(d, bytes);
  }

  HWY_INLINE CodeBytes operator()(ByteVec steps, ByteVec magnitude) const {
    const ByteTag d;
    const auto flip = hn::Set(d, static_cast<std::uint8_t>(2 * kHalf - 1));
#if HWY_TARGET == HWY_AVX3_DL
    const ByteVec below{_mm512_permutex2var_epi8(below_low_.raw, magnitude.raw, below_high_.raw)};
    const ByteVec positive{_mm512_shuffle_epi8(flip.raw, steps.raw)};  // 0 where the top bit is set
    return {hn::Xor(below, positive), hn::TableLookupBytes(magnitudes_, below)};
#else
    const hn::RebindToSigned<ByteTag> di;
    auto level = hn::Zero(di);
    for (std::size_t i = 0; i + 1 < kHalf; ++i) {
      level = hn::Sub(level, hn::VecFromMask(di, hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, last_steps_[i]))));
    }
    const auto negative = hn::BitCast(d, hn::VecFromMask(di, hn::Lt(hn::BitCast(di, steps), hn::Zero(di))));
    const auto above = hn::Add(hn::BitCast(d, level), hn::Set(d, static_cast<std::uint8_t>(kHalf)));
    return {hn::Xor(above, hn::And(negative, flip)), hn::TableLookupBytes(magnitudes_, hn::BitCast(d, level))};
#endif
  }

 private:
#if HWY_TARGET == HWY_AVX3_DL
  ByteVec below_low_, below_high_;
#else
  std::int8_t last_steps_[8] = {};  ///< the largest number of steps of each level
#endif
  ByteVec magnitudes_;
};

/// sum + 4 products per lane of bytes up to 127: two of them fit 16 bits.
HWY_INLINE ByteSumVec AddProducts(ByteSumVec sum, ByteVec a, ByteVec b) {
  using Bytes = std::conditional_t<kHasNeonDot, SignedBytes<ByteTag>, UnsignedBytes<ByteTag>>;
  return Dot(ByteTag(), sum, Bytes{a}, SignedBytes<ByteTag>{b});
}

/// Sums over a row's dims, z its grid steps and c its centroids; in the order of quads.
struct StepSums {
  alignas(64) std::int32_t zz[kIntegerRows];
  alignas(64) std::int32_t zc[kIntegerRows];
  alignas(64) std::int32_t cc[kIntegerRows];
};

/// Where the codes of 32 rows go within a plane.
struct PlaneTarget {
  std::uint8_t* codes = nullptr;  ///< of the first block of rows
  std::size_t block_bytes = 0;    ///< from one block to the next (keys: 16)
  int shift = 0;                  ///< of quad 0's field; quad 1's is the next. 0: the bytes are new
};

/// Writes one plane's fields of 4 dims of the blocks from `block` on.
template <LloydLayout kLayout, std::uint32_t kPlaneBits>
HWY_INLINE void StoreFields(const PlaneTarget& to, std::size_t dim, std::size_t block, ByteVec quad0, ByteVec quad1) {
  const ByteTag d;
  const hn::Repartition<std::uint16_t, ByteTag> d16;
  const hn::FixedTag<std::uint8_t, 16> block_tag;
  HWY_ALIGN static constexpr std::uint8_t kTurn[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  ByteVec bytes = hn::Or(quad0, hn::BitCast(d, hn::ShiftLeft<kPlaneBits>(hn::BitCast(d16, quad1))));
  if constexpr (kPlaneBits != 4) bytes = hn::BitCast(d, hn::ShiftLeftSame(hn::BitCast(d16, bytes), to.shift));
  if constexpr (kLayout == LloydLayout::kKeys) {
    std::uint8_t* at = to.codes + dim * 16 + block * 16;
    if (kPlaneBits != 4 && to.shift != 0) bytes = hn::Or(bytes, hn::Load(d, at));
    hn::Store(bytes, d, at);
  } else {
    std::uint8_t* at = to.codes + dim * 4 + block * to.block_bytes;
    bytes = hn::TableLookupBytes(bytes, hn::LoadDup128(d, kTurn));
    ForEachBlock(d, bytes, [&](std::size_t b, auto one) HWY_ATTR {
      std::uint8_t* here = at + b * to.block_bytes;
      if (kPlaneBits != 4 && to.shift != 0) one = hn::Or(one, hn::Load(block_tag, here));
      hn::Store(one, block_tag, here);
    });
  }
}

template <std::uint32_t kBits, LloydLayout kLayout>
HWY_INLINE void StoreCodes(const PlaneTarget (&to)[2], std::size_t dim, std::size_t block, ByteVec quad0, ByteVec quad1) {
  if constexpr (kBits == 3) {
    const ByteTag d;
    const hn::Repartition<std::uint16_t, ByteTag> d16;
    const auto low = hn::Set(d, std::uint8_t{3});
    const auto high = [&](ByteVec v)
                          HWY_ATTR { return hn::BitCast(d, hn::ShiftRight<2>(hn::BitCast(d16, hn::AndNot(low, v)))); };
    StoreFields<kLayout, 2>(to[0], dim, block, hn::And(quad0, low), hn::And(quad1, low));
    StoreFields<kLayout, 1>(to[1], dim, block, high(quad0), high(quad1));
  } else {
    StoreFields<kLayout, kBits>(to[0], dim, block, quad0, quad1);
  }
}

/// One quad of rows per block and 4 dims: bytes of steps -> codes, added to the sums.
struct QuadSums {
  ByteSumVec zz, zc, cc;
};
template <std::uint32_t kBits>
HWY_INLINE ByteVec CodeSteps(const StepCodes<kBits>& code_of, ByteVec steps, QuadSums& sums) {
  const ByteTag d;
  const hn::RebindToSigned<ByteTag> di;
  const auto magnitude = hn::Min(hn::BitCast(d, hn::Abs(hn::BitCast(di, steps))), hn::Set(d, std::uint8_t{127}));
  const CodeBytes codes = code_of(steps, magnitude);
  sums.zz = AddProducts(sums.zz, magnitude, magnitude);
  sums.zc = AddProducts(sums.zc, magnitude, codes.magnitude);
  sums.cc = AddProducts(sums.cc, codes.magnitude, codes.magnitude);
  return codes.index;
}

template <std::uint32_t kBits, LloydLayout kLayout>
HWY_INLINE void CodeColumns(const StepCodes<kBits>& code_of, std::size_t dim, const std::int16_t* HWY_RESTRICT columns,
                            const PlaneTarget (&to)[2], StepSums& sums) {
  const ColumnTag d16;
  const ByteTag d8;
  const ByteSumTag d32;
  for (std::size_t lane = 0; lane < kIntegerRows; lane += hn::Lanes(d16)) {
    QuadSums sum0{hn::Zero(d32), hn::Zero(d32), hn::Zero(d32)}, sum1 = sum0;
    for (std::size_t i = 0; i < dim; i += 4) {
      // Top bytes of two dims side by side, then of four.
      const auto pair = [&](std::size_t at) HWY_ATTR {
        const auto first = hn::BitCast(hn::RebindToUnsigned<ColumnTag>(), hn::Load(d16, columns + at * kIntegerRows + lane));
        const auto second = hn::Load(d16, columns + (at + 1) * kIntegerRows + lane);
        return hn::BitCast(d16, hn::OddEven(hn::BitCast(d8, second), hn::BitCast(d8, hn::ShiftRight<8>(first))));
      };
      const auto a = pair(i), b = pair(i + 2);
      const auto quad0 = CodeSteps(code_of, hn::BitCast(d8, hn::InterleaveLower(d16, a, b)), sum0);
      const auto quad1 = CodeSteps(code_of, hn::BitCast(d8, hn::InterleaveUpper(d16, a, b)), sum1);
      StoreCodes<kBits, kLayout>(to, i, lane / 8, quad0, quad1);
    }
    const std::size_t low = lane / 2, high = kIntegerRows / 2 + lane / 2;
    hn::Store(sum0.zz, d32, sums.zz + low), hn::Store(sum1.zz, d32, sums.zz + high);
    hn::Store(sum0.zc, d32, sums.zc + low), hn::Store(sum1.zc, d32, sums.zc + high);
    hn::Store(sum0.cc, d32, sums.cc + low), hn::Store(sum1.cc, d32, sums.cc + high);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
