#include "kernels/softmax.h"

#include <limits>

#include "kernels/machine/prefetch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/softmax.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// exp(x) for x <= 0: 2^n * e^r with |r| <= ln(2)/2 and e^r = 1 + r + r^2 q(r), q of degree 3 with the least largest relative
/// error (1.1e-7).
template <class D>
HWY_INLINE hn::Vec<D> ExpNonPositive(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> di;
  const auto beyond = hn::Lt(x, hn::Set(d, -87.3f));  // there, whatever comes out is dropped
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const auto magic = hn::Set(d, 12582912.0f);
  const auto shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), magic);
  const auto n = hn::Sub(shifted, magic);
  // ln(2) in two parts; the first has 9 significant bits, so n * part is exact.
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  auto p = hn::Set(d, 0.00831243023f);
  p = hn::MulAdd(p, r, hn::Set(d, 0.0418909863f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.166671187f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.499992251f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const auto scaled = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
  return hn::IfThenZeroElse(beyond, scaled);  // a NaN is not beyond: the shift leaves it one
}

template <class D>
HWY_INLINE std::size_t MaxVectors(D d, const float* x, std::size_t i, std::size_t n, float* result) {
  const std::size_t step = hn::Lanes(d);
  if (i + step > n) return i;
  // Four maxima: one would wait for itself.
  hn::Vec<D> four[4];
  for (auto& max : four) max = hn::LoadU(d, x + i);
  for (; i + 4 * step <= n; i += 4 * step) {
    for (std::size_t k = 0; k < 4; ++k) four[k] = hn::Max(hn::LoadU(d, x + i + k * step), four[k]);
  }
  for (; i + step <= n; i += step) four[0] = hn::Max(hn::LoadU(d, x + i), four[0]);
  const auto max = hn::Max(hn::Max(four[0], four[1]), hn::Max(four[2], four[3]));
  const float m = hn::GetLane(hn::MaxOfLanes(d, max));
  *result = m > *result ? m : *result;
  return i;
}

float MaxOfTarget(const float* x, std::size_t n) {
  float result = -std::numeric_limits<float>::infinity();
  const std::size_t i = MaxVectors(hn::ScalableTag<float>(), x, 0, n, &result);
  MaxVectors(hn::CappedTag<float, 1>(), x, i, n, &result);
  return result;
}

template <class D>
HWY_INLINE std::size_t ExpVectors(D d, float* x, std::size_t i, std::size_t n, float max, Prefetch& prefetch, float* total) {
  const std::size_t step = hn::Lanes(d);
  if (i + step > n) return i;
  const auto m = hn::Set(d, max);
  auto sum = hn::Zero(d);
  for (; i + step <= n; i += step) {
    prefetch.Step();
    const auto e = ExpNonPositive(d, hn::Sub(hn::LoadU(d, x + i), m));
    hn::StoreU(e, d, x + i);
    sum = hn::Add(sum, e);
  }
  *total += hn::GetLane(hn::SumOfLanes(d, sum));
  return i;
}

void ExpShiftedTarget(float* x, std::size_t blocks, std::size_t n, float max, float* sums, const std::byte* next,
                      std::size_t next_bytes) {
  const hn::ScalableTag<float> d;
  Prefetch prefetch(next, next_bytes, blocks * (n / hn::Lanes(d)));
  for (std::size_t b = 0; b < blocks; ++b, x += n) {
    sums[b] = 0.0f;
    const std::size_t i = ExpVectors(d, x, 0, n, max, prefetch, &sums[b]);
    ExpVectors(hn::CappedTag<float, 1>(), x, i, n, max, prefetch, &sums[b]);
  }
}

template <class D>
HWY_INLINE std::size_t CapVectors(D d, float* x, std::size_t i, std::size_t n, float cap) {
  const std::size_t step = hn::Lanes(d);
  const auto c = hn::Set(d, cap);
  const auto inverse = hn::Set(d, 1.0f / cap);
  // Beyond 10, tanh is 1 in f32; the bound keeps Highway's polynomial in its range.
  const auto limit = hn::Set(d, 10.0f);
  for (; i + step <= n; i += step) {
    const auto z = hn::Max(hn::Min(hn::Mul(hn::LoadU(d, x + i), inverse), limit), hn::Neg(limit));
    hn::StoreU(hn::Mul(c, hn::Tanh(d, z)), d, x + i);
  }
  return i;
}

void SoftCapTarget(float* x, std::size_t n, float cap) {
  const std::size_t i = CapVectors(hn::ScalableTag<float>(), x, 0, n, cap);
  CapVectors(hn::CappedTag<float, 1>(), x, i, n, cap);
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(MaxOfTarget);
HWY_EXPORT(ExpShiftedTarget);
HWY_EXPORT(SoftCapTarget);

float MaxOf(const float* logits, std::size_t n) noexcept { return HWY_DYNAMIC_DISPATCH(MaxOfTarget)(logits, n); }

void ExpShifted(float* logits, std::size_t blocks, std::size_t n, float max, float* sums, const std::byte* next,
                std::size_t next_bytes) noexcept {
  HWY_DYNAMIC_DISPATCH(ExpShiftedTarget)(logits, blocks, n, max, sums, next, next_bytes);
}

void SoftCap(float* logits, std::size_t n, float cap) noexcept { HWY_DYNAMIC_DISPATCH(SoftCapTarget)(logits, n, cap); }

}  // namespace kvant::kernels
#endif
