#include "tools/bench/peak.h"

#include <cstdint>
#include <iterator>
#include <numeric>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tools/bench/peak.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace kvant::tools::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Enough independent sums to cover the latency of two instructions per cycle, few enough for 16 registers.
constexpr int kSums = 10;

/// Runs `iterations` times kSums multiply-accumulates of vectors; returns how many single ones that were.
double BurnFloats(std::size_t iterations) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const V factor = hn::Set(d, 0.999f);
  const V term = hn::Set(d, 0.001f);
  V sums[kSums];
  for (V& sum : sums) sum = hn::Set(d, 1.0f);
  for (std::size_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int s = 0; s < kSums; ++s) sums[s] = hn::MulAdd(sums[s], factor, term);
  }
  V total = hn::Zero(d);
  for (const V& sum : sums) total = hn::Add(total, sum);
  const float result = hn::GetLane(hn::SumOfLanes(d, total));
  asm volatile("" : : "r"(&result) : "memory");
  return static_cast<double>(iterations) * kSums * static_cast<double>(hn::Lanes(d));
}

#if HWY_TARGET == HWY_AVX3_DL
constexpr const char* kByteInstruction = "vpdpbusd, 512 bit";
#elif HWY_TARGET == HWY_AVX3
constexpr const char* kByteInstruction = "vpmaddubsw + vpmaddwd, 512 bit";
#elif HWY_TARGET == HWY_AVX2
constexpr const char* kByteInstruction = "vpmaddubsw + vpmaddwd, 256 bit";
#else
constexpr const char* kByteInstruction = "16-bit multiply-add pairs, 128 bit";
#endif

double BurnBytes(std::size_t iterations) {
  const hn::ScalableTag<std::int32_t> d;
  using V = hn::Vec<decltype(d)>;
  V sums[kSums];
  for (V& sum : sums) sum = hn::Zero(d);
  V a = hn::Set(d, 0x01020301);
  V b = hn::Set(d, 0x01010102);
#if HWY_TARGET == HWY_AVX3_DL
  constexpr std::size_t kBytesPerLane = 4;
  for (std::size_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int s = 0; s < kSums; ++s) asm volatile("vpdpbusd %2,%1,%0" : "+v"(sums[s].raw) : "v"(a.raw), "v"(b.raw));
  }
#elif HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  constexpr std::size_t kBytesPerLane = 4;
  V ones = hn::Set(d, 0x00010001);
  for (std::size_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int s = 0; s < kSums; ++s) {
      asm volatile("" : "+v"(a.raw));  // or the product would be computed once
#if HWY_TARGET == HWY_AVX3
      sums[s].raw = _mm512_add_epi32(sums[s].raw, _mm512_madd_epi16(_mm512_maddubs_epi16(a.raw, b.raw), ones.raw));
#else
      sums[s].raw = _mm256_add_epi32(sums[s].raw, _mm256_madd_epi16(_mm256_maddubs_epi16(a.raw, b.raw), ones.raw));
#endif
    }
  }
#else
  constexpr std::size_t kBytesPerLane = 2;
  const hn::Repartition<std::int16_t, decltype(d)> d16;
  for (std::size_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int s = 0; s < kSums; ++s) {
      asm volatile("" : "+r"(i));
      V odd = hn::Zero(d);
      sums[s] =
          hn::Add(hn::ReorderWidenMulAccumulate(d, hn::BitCast(d16, hn::Add(a, hn::Set(d, static_cast<std::int32_t>(i & 7)))),
                                                hn::BitCast(d16, b), sums[s], odd),
                  odd);
    }
  }
#endif
  V total = hn::Zero(d);
  for (const V& sum : sums) total = hn::Add(total, sum);
  const std::int32_t result = hn::GetLane(total);
  asm volatile("" : : "r"(result));
  return static_cast<double>(iterations) * kSums * static_cast<double>(hn::Lanes(d) * kBytesPerLane);
}

const char* ByteInstruction() { return kByteInstruction; }

}  // namespace kvant::tools::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::tools {
namespace {

HWY_EXPORT(BurnFloats);
HWY_EXPORT(BurnBytes);
HWY_EXPORT(ByteInstruction);

/// One call: what each thread's share did.
struct Burn {
  double (*run)(std::size_t iterations);
  double macs[64] = {};
};

}  // namespace

void PeakProbe::Run() {
  constexpr std::size_t kIterations = 100'000;
  Burn burn{arithmetic_ == Arithmetic::kBytes ? [](std::size_t n) { return HWY_DYNAMIC_DISPATCH(BurnBytes)(n); }
                                              : [](std::size_t n) { return HWY_DYNAMIC_DISPATCH(BurnFloats)(n); }};
  executor_.ForEach(
      executor_.threads(),
      [](void* context, std::size_t i, std::size_t) {
        auto& b = *static_cast<Burn*>(context);
        b.macs[i] = b.run(kIterations);
      },
      &burn);
  macs_ = std::accumulate(std::begin(burn.macs), std::end(burn.macs), 0.0);
}

std::string PeakProbe::instruction() const {
  return arithmetic_ == Arithmetic::kBytes ? HWY_DYNAMIC_DISPATCH(ByteInstruction)() : "f32 fused multiply-add";
}

}  // namespace kvant::tools
#endif
