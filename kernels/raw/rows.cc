#include "kernels/raw/rows.h"

#include <cfloat>
#include <cstdint>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/raw/rows.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/raw/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {

/// Converts whole vectors from element `i` on; returns the first element not converted.
template <class D, typename T>
HWY_INLINE std::size_t LoadVectors(D d, const T* HWY_RESTRICT src, std::size_t i, std::size_t n, float* HWY_RESTRICT out,
                                   std::int32_t* largest) {
  const hn::RebindToSigned<D> di;
  const std::size_t step = hn::Lanes(d);
  if (i + step > n) return i;
  auto max = hn::Zero(di);
  for (; i + step <= n; i += step) {
    const auto v = LoadFloats(d, src + i);
    hn::StoreU(v, d, out + i);
    max = hn::Max(max, hn::BitCast(di, hn::Abs(v)));  // magnitudes order as their bits do, NaN above infinity
  }
  const std::int32_t m = hn::GetLane(hn::MaxOfLanes(di, max));
  *largest = m > *largest ? m : *largest;
  return i;
}

template <typename T>
float LoadTyped(const T* src, std::size_t n, float* out) {
  std::int32_t largest = 0;
  std::size_t i = LoadVectors(hn::ScalableTag<float>(), src, 0, n, out, &largest);
  i = LoadVectors(hn::CappedTag<float, 4>(), src, i, n, out, &largest);
  LoadVectors(hn::CappedTag<float, 1>(), src, i, n, out, &largest);
  float result;
  std::memcpy(&result, &largest, sizeof(result));
  return result;
}

float LoadRowTarget(const void* src, ElementType type, std::size_t n, float* out) {
  switch (type) {
    case ElementType::kF32: return LoadTyped(static_cast<const float*>(src), n, out);
    case ElementType::kF16: return LoadTyped(static_cast<const hwy::float16_t*>(src), n, out);
    case ElementType::kBF16: return LoadTyped(static_cast<const hwy::bfloat16_t*>(src), n, out);
  }
  return 0.0f;
}

template <class D>
using HalfVec = hn::Vec<hn::Rebind<std::uint16_t, D>>;

/// Bits of the nearest f16; NaN becomes the quiet one without a payload.
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
template <class D>
HWY_INLINE HalfVec<D> HalfBits(D d, hn::Vec<D> v) {
  const hn::Rebind<hwy::float16_t, D> d16;
  const auto quiet = hn::CopySign(hn::BitCast(d, hn::Set(hn::RebindToSigned<D>(), 0x7fc00000)), v);
  return hn::BitCast(hn::Rebind<std::uint16_t, D>(), hn::DemoteTo(d16, hn::IfThenElse(hn::IsNaN(v), quiet, v)));
}
#else
// By hand, because Highway 1.0.3 truncates where there is no instruction.
template <class D>
HWY_INLINE HalfVec<D> HalfBits(D d, hn::Vec<D> v) {
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(di, v);
  const auto magnitude = hn::And(bits, hn::Set(di, 0x7fffffff));
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(di, 0x8000));
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(di, 1));
  const auto rounded = hn::Add(hn::Add(magnitude, hn::Set(di, 0xfff)), odd);
  const auto normal = hn::ShiftRight<13>(hn::Sub(rounded, hn::Set(di, (127 - 15) << 23)));
  // An f16 subnormal is a multiple of 2^-24, which is the last place of numbers in [0.5, 1): the adder rounds.
  const auto half = hn::Set(d, 0.5f);
  const auto small = hn::Sub(hn::BitCast(di, hn::Add(hn::BitCast(d, magnitude), half)), hn::BitCast(di, half));
  auto result = hn::IfThenElse(hn::Lt(magnitude, hn::Set(di, 0x38800000)), small, normal);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, 0x477fefff)), hn::Set(di, 0x7c00), result);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, 0x7f800000)), hn::Set(di, 0x7e00), result);
  return hn::DemoteTo(hn::Rebind<std::uint16_t, D>(), hn::Or(result, sign));
}
#endif

template <class D>
HWY_INLINE HalfVec<D> BrainBits(D /*d*/, hn::Vec<D> v) {
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd));
  const auto nan = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x40u));
  const auto magnitude = hn::And(hn::BitCast(di, bits), hn::Set(di, 0x7fffffff));
  const auto is_nan = hn::Gt(magnitude, hn::Set(di, 0x7f800000));
  return hn::DemoteTo(hn::Rebind<std::uint16_t, D>(), hn::IfThenElse(is_nan, hn::BitCast(di, nan), hn::BitCast(di, rounded)));
}

template <class D>
HWY_INLINE std::size_t StoreVectors(D d, const float* src, std::size_t i, std::size_t n, ElementType type, std::uint16_t* dst) {
  const hn::Rebind<std::uint16_t, D> du16;
  const std::size_t step = hn::Lanes(d);
  for (; i + step <= n; i += step) {
    const auto v = hn::LoadU(d, src + i);
    hn::StoreU(type == ElementType::kF16 ? HalfBits(d, v) : BrainBits(d, v), du16, dst + i);
  }
  return i;
}

void StoreRowTarget(const float* src, std::size_t n, ElementType type, void* dst) {
  if (type == ElementType::kF32) {
    if (n > 0) std::memcpy(dst, src, n * sizeof(float));
    return;
  }
  auto* out = static_cast<std::uint16_t*>(dst);
  std::size_t i = StoreVectors(hn::ScalableTag<float>(), src, 0, n, type, out);
  i = StoreVectors(hn::CappedTag<float, 4>(), src, i, n, type, out);
  StoreVectors(hn::CappedTag<float, 1>(), src, i, n, type, out);
}

/// Whole vectors of 16-bit floats as they are; the largest magnitude's bits order as it does.
template <class D16>
HWY_INLINE std::size_t CopyVectors(D16 d, const std::int16_t* src, std::size_t i, std::size_t n, std::int16_t* dst,
                                   std::int16_t* largest) {
  const std::size_t step = hn::Lanes(d);
  if (i + step > n) return i;
  auto max = hn::Zero(d);
  for (; i + step <= n; i += step) {
    const auto bits = hn::LoadU(d, src + i);
    hn::StoreU(bits, d, dst + i);
    max = hn::Max(max, hn::And(bits, hn::Set(d, std::int16_t{0x7fff})));
  }
  const std::int16_t m = hn::GetLane(hn::MaxOfLanes(d, max));
  *largest = m > *largest ? m : *largest;
  return i;
}

float CopySameTarget(const std::int16_t* src, ElementType type, std::size_t n, std::int16_t* dst) {
  std::int16_t largest = 0;
  const std::size_t i = CopyVectors(hn::ScalableTag<std::int16_t>(), src, 0, n, dst, &largest);
  CopyVectors(hn::CappedTag<std::int16_t, 1>(), src, i, n, dst, &largest);
  float result = 0.0f;
  if (type == ElementType::kF16) {
    LoadTyped(reinterpret_cast<const hwy::float16_t*>(&largest), 1, &result);
  } else {
    LoadTyped(reinterpret_cast<const hwy::bfloat16_t*>(&largest), 1, &result);
  }
  return result;
}

/// Numbers converted at a time.
constexpr std::size_t kCopyChunk = 512;

float CopyRowTarget(const void* src, ElementType from, std::size_t n, ElementType to, void* dst) {
  if (from == to && from != ElementType::kF32) {
    return CopySameTarget(static_cast<const std::int16_t*>(src), from, n, static_cast<std::int16_t*>(dst));
  }
  if (to == ElementType::kF32) return LoadRowTarget(src, from, n, static_cast<float*>(dst));
  HWY_ALIGN float chunk[kCopyChunk];
  float result = 0.0f;
  for (std::size_t i = 0; i < n; i += kCopyChunk) {
    const std::size_t count = n - i < kCopyChunk ? n - i : kCopyChunk;
    const float largest = LoadRowTarget(static_cast<const unsigned char*>(src) + i * ElementBytes(from), from, count, chunk);
    if (!(largest <= result)) result = largest;
    StoreRowTarget(chunk, count, to, static_cast<unsigned char*>(dst) + i * ElementBytes(to));
    if (result != result) break;  // NaN stays the answer
  }
  return result;
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(LoadRowTarget);
HWY_EXPORT(StoreRowTarget);
HWY_EXPORT(CopyRowTarget);

float LoadRow(const void* src, ElementType type, std::size_t n, float* out) noexcept {
  return HWY_DYNAMIC_DISPATCH(LoadRowTarget)(src, type, n, out);
}

void StoreRow(const float* src, std::size_t n, ElementType type, void* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(StoreRowTarget)(src, n, type, dst);
}

float CopyRow(const void* src, ElementType from, std::size_t n, ElementType to, void* dst) noexcept {
  return HWY_DYNAMIC_DISPATCH(CopyRowTarget)(src, from, n, to, dst);
}

float LargestStorable(ElementType type) noexcept {
  // f16: 65520 is halfway between 65504 and 65536 and rounds up; bf16: halfway above 0x7f7f rounds up likewise.
  switch (type) {
    case ElementType::kF32: return FLT_MAX;
    case ElementType::kF16: return 65519.99609375f;
    case ElementType::kBF16: return 0x1.fefffep127f;
  }
  return 0.0f;
}

}  // namespace kvant::kernels
#endif
