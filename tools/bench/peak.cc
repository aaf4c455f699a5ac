#include "tools/bench/peak.h"

#include <cstdint>
#include <iterator>
#include <numeric>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tools/bench/peak.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/machine/amx-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::tools::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Enough independent sums to cover the latency of two instructions per cycle, few enough for 16 registers. They are ten names,
// not an array: g++ 12 keeps arrays that assembly or many statements change in memory, and then measures that.
constexpr int kSums = 10;
#define KVANT_TEN(STEP) STEP(s0) STEP(s1) STEP(s2) STEP(s3) STEP(s4) STEP(s5) STEP(s6) STEP(s7) STEP(s8) STEP(s9)

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
constexpr const char* kWordInstruction = "vpdpwssd, 512 bit";
#elif HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
constexpr const char* kByteInstruction = "vpmaddubsw + vpmaddwd";
constexpr const char* kWordInstruction = "vpmaddwd + vpaddd";
#else
constexpr const char* kByteInstruction = "16-bit multiply-add pairs";
constexpr const char* kWordInstruction = "16-bit multiply-add pairs";
#endif

/// The same with integers: `kBytes` bytes per lane of 32 bits, or two 16-bit numbers.
template <bool kBytes>
HWY_INLINE double BurnIntegers(std::size_t iterations) {
  const hn::ScalableTag<std::int32_t> d;
  using V = hn::Vec<decltype(d)>;
  V s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0, s8 = s0, s9 = s0;
  V a = hn::Set(d, 0x01020301);
  V b = hn::Set(d, 0x01010102);
  for (std::size_t i = 0; i < iterations; ++i) {
#if HWY_TARGET == HWY_AVX3_DL
    if constexpr (kBytes) {
#define KVANT_STEP(s) asm volatile("vpdpbusd %2,%1,%0" : "+v"(s.raw) : "v"(a.raw), "v"(b.raw));
      KVANT_TEN(KVANT_STEP)
#undef KVANT_STEP
    } else {
#define KVANT_STEP(s) asm volatile("vpdpwssd %2,%1,%0" : "+v"(s.raw) : "v"(a.raw), "v"(b.raw));
      KVANT_TEN(KVANT_STEP)
#undef KVANT_STEP
    }
#elif HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
    V t;
    if constexpr (kBytes) {
#define KVANT_STEP(s)                                                        \
  asm volatile("vpmaddubsw %3,%2,%1\n\tvpmaddwd %3,%1,%1\n\tvpaddd %1,%0,%0" \
               : "+v"(s.raw), "=&v"(t.raw)                                   \
               : "v"(a.raw), "v"(b.raw));
      KVANT_TEN(KVANT_STEP)
#undef KVANT_STEP
    } else {
#define KVANT_STEP(s) asm volatile("vpmaddwd %3,%2,%1\n\tvpaddd %1,%0,%0" : "+v"(s.raw), "=&v"(t.raw) : "v"(a.raw), "v"(b.raw));
      KVANT_TEN(KVANT_STEP)
#undef KVANT_STEP
    }
#else
    const hn::Repartition<std::int16_t, decltype(d)> d16;
    a = hn::Add(a, b);
#define KVANT_STEP(s)                                                                                   \
  {                                                                                                     \
    V odd = hn::Zero(d);                                                                                \
    s = hn::ReorderWidenMulAccumulate(d, hn::BitCast(d16, hn::Xor(a, s)), hn::BitCast(d16, b), s, odd); \
    s = hn::Add(s, odd);                                                                                \
  }
    KVANT_TEN(KVANT_STEP)
#undef KVANT_STEP
#endif
  }
  V total = s0;
#define KVANT_STEP(s) total = hn::Add(total, s);
  KVANT_TEN(KVANT_STEP)
#undef KVANT_STEP
  const std::int32_t result = hn::GetLane(total);
  asm volatile("" : : "r"(result));
  constexpr std::size_t kPerLane = kBytes && (HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86) ? 4 : 2;
  return static_cast<double>(iterations) * kSums * static_cast<double>(hn::Lanes(d) * kPerLane);
}

/// The same with tiles of bytes; 0 where there are none.
double BurnTiles([[maybe_unused]] std::size_t iterations) {
#if HWY_TARGET == HWY_AVX3_DL
  using Tiles = kernels::HWY_NAMESPACE::Tiles;
  if (!kernels::UsesTiles()) return 0.0;
  const Tiles tiles;
  alignas(64) static constexpr std::uint8_t kOnes[kernels::HWY_NAMESPACE::kTileBytes] = {1};
  Tiles::Load<4>(kOnes, kernels::HWY_NAMESPACE::kTileRowBytes);
  Tiles::Load<6>(kOnes, kernels::HWY_NAMESPACE::kTileRowBytes);
  Tiles::Zero<0>();
  Tiles::Zero<1>();
  Tiles::Zero<2>();
  Tiles::Zero<3>();
  iterations /= 8;  // some hundred microseconds again
  for (std::size_t i = 0; i < iterations; ++i) {
    Tiles::DotUnsigned<0, 4, 6>();
    Tiles::DotUnsigned<1, 4, 6>();
    Tiles::DotUnsigned<2, 4, 6>();
    Tiles::DotUnsigned<3, 4, 6>();
  }
  return static_cast<double>(iterations) * 4 * 16 * 16 * 64;
#else
  return 0.0;
#endif
}

double BurnBytes(std::size_t iterations) { return BurnIntegers<true>(iterations); }
double BurnWords(std::size_t iterations) { return BurnIntegers<false>(iterations); }

const char* ByteInstruction() { return kByteInstruction; }
const char* WordInstruction() { return kWordInstruction; }

}  // namespace kvant::tools::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::tools {
namespace {

HWY_EXPORT(BurnFloats);
HWY_EXPORT(BurnTiles);
HWY_EXPORT(BurnBytes);
HWY_EXPORT(BurnWords);
HWY_EXPORT(ByteInstruction);
HWY_EXPORT(WordInstruction);

/// One call: what each thread's share did.
struct Burn {
  double (*run)(std::size_t iterations);
  double macs[64] = {};
};

}  // namespace

void PeakProbe::Run() {
  constexpr std::size_t kIterations = 100'000;
  Burn burn{};
  switch (arithmetic_) {
    case Arithmetic::kBytes: burn.run = [](std::size_t n) { return HWY_DYNAMIC_DISPATCH(BurnBytes)(n); }; break;
    case Arithmetic::kTiles: burn.run = [](std::size_t n) { return HWY_DYNAMIC_DISPATCH(BurnTiles)(n); }; break;
    case Arithmetic::kWords: burn.run = [](std::size_t n) { return HWY_DYNAMIC_DISPATCH(BurnWords)(n); }; break;
    case Arithmetic::kFloats: burn.run = [](std::size_t n) { return HWY_DYNAMIC_DISPATCH(BurnFloats)(n); }; break;
  }
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
  switch (arithmetic_) {
    case Arithmetic::kBytes: return HWY_DYNAMIC_DISPATCH(ByteInstruction)();
    case Arithmetic::kTiles: return "tdpbusd";
    case Arithmetic::kWords: return HWY_DYNAMIC_DISPATCH(WordInstruction)();
    case Arithmetic::kFloats: break;
  }
  return "f32 fused multiply-add";
}

}  // namespace kvant::tools
#endif
