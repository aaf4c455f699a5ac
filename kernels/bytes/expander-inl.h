// What a fast code writes, and how the multiplying side uses it. An *expander* turns bytes of codes into numbers, on every
// target, for keys and values alike (README.md, "A fast path for a new code", has an example):
//
//   struct SomeExpander {
//     static constexpr bool kWords = false;       // numbers are signed bytes; true: 16-bit, as Pairs
//     static constexpr std::size_t kFields = 2;   // fields of a tile, whose codes share bytes: 1, 2, 4 or 8
//     static constexpr int kLargest = 8;          // bytes only: no number's magnitude exceeds it; at most 127
//
//     /// What Expand keeps in registers. `offset` is to be added to every number (words: 0).
//     template <class D8>
//     auto Tables(D8 d8, std::uint8_t offset) const;
//
//     /// The numbers of field kField of tile `tile` of the block, from byte `byte` of the tile on, plus the offset.
//     template <std::size_t kField, class D8, class T>
//     hn::Vec<D8> Expand(D8 d8, const T& tables, std::size_t tile, std::size_t byte) const;  // words: Pairs<D8>
//   };
//
// A field is 16 tokens of keys or 4 tokens of values. Byte 64 g + 4 t + j of a tile of keys holds dim 4 g + j of token t of
// each field, byte 4 d + j of a tile of values dim d of token j. Words also say
//
//     static constexpr int kOffset = 128;             // what Expand's numbers are too large by
//     static constexpr int kWeightMax = 127 * 128;    // weights are rounded to integers up to this
//     static constexpr std::size_t kWeightRun = 0;    // tokens whose weights share a step; 0: the block's
//     static constexpr bool kPlainBytes = true;       // each stored byte is a number plus kOffset: tiles take it as it is
//
// with ranges such that 32 bits hold every sum. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_BYTES_EXPANDER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_BYTES_EXPANDER_INL_H_
#undef KVANT_KERNELS_BYTES_EXPANDER_INL_H_
#else
#define KVANT_KERNELS_BYTES_EXPANDER_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/bytes/attend.h"
#include "kernels/bytes/factors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Numbers that two products of unsigned with signed bytes fit 16 bits with: vpmaddubsw adds them there. For scores the number
/// plus kLargest meets up to 127, for weighted sums the number itself up to 255.
inline constexpr int kLargestOfPairs = 64;
static_assert(2 * 2 * kLargestOfPairs * kByteQueryMax <= INT16_MAX && 2 * kLargestOfPairs * kByteWeightMax <= INT16_MAX);

/// Whether numbers stay bytes, for scores and weighted sums alike.
template <class E>
constexpr bool MultipliesBytes() {
  if constexpr (E::kWords) {
    return false;
  } else {
    return kHasVnni || kHasNeonDot || E::kLargest <= kLargestOfPairs;
  }
}

/// What is added to numbers while scoring: x86 takes unsigned bytes. Sums start at minus its share.
template <class E>
constexpr int ScoreOffset() {
  if constexpr (E::kWords) {
    return E::kOffset;
  } else {
    return MultipliesBytes<E>() && !kHasNeonDot ? E::kLargest : 0;
  }
}

/// What is added to numbers while summing values: NEON takes factors of one kind, and weights have no sign.
template <class E>
constexpr int AccumulateOffset() {
  if constexpr (E::kWords) {
    return E::kOffset;
  } else {
    return kHasNeonDot ? E::kLargest : 0;
  }
}

/// Words of 32 bits that four numbers of a query, or four weights, take.
template <class E>
inline constexpr std::size_t kWordsPerFour = E::kWords ? 2 : 1;

/// Numbers of codes as they meet those of queries.
template <class E, class D8, class Numbers>
HWY_INLINE auto ScoreFactors(D8 d8, Numbers numbers) {
  if constexpr (E::kWords) {
    return numbers;
  } else if constexpr (MultipliesBytes<E>() && !kHasNeonDot) {
    return UnsignedBytes<D8>{numbers};
  } else if constexpr (kHasNeonDot || kHasByteSigns) {
    return SignedBytes<D8>{numbers};
  } else {
    return WidenSigned(d8, numbers);
  }
}

/// Four numbers of a query, for every lane.
template <class E, class D8>
HWY_INLINE auto QueryFactors(D8 d8, const std::uint32_t* HWY_RESTRICT words) {
  if constexpr (E::kWords) {
    return BroadcastPairs(d8, words);
  } else if constexpr (kHasVnni) {
    return SignedBytesInMemory{*words};
  } else if constexpr (MultipliesBytes<E>() || kHasByteSigns) {
    return SignedBytes<D8>{BroadcastBytes(d8, *words)};
  } else {
    return WidenSigned(d8, BroadcastBytes(d8, *words));
  }
}

/// Numbers of codes as they meet weights.
template <class E, class D8, class Numbers>
HWY_INLINE auto ValueFactors(D8 d8, Numbers numbers) {
  if constexpr (E::kWords) {
    return numbers;
  } else if constexpr (!MultipliesBytes<E>()) {
    return WidenSigned(d8, numbers);
  } else if constexpr (kHasNeonDot) {
    return UnsignedBytes<D8>{numbers};
  } else {
    return SignedBytes<D8>{numbers};
  }
}

/// Four weights, for every lane.
template <class E, class D8>
HWY_INLINE auto WeightFactors(D8 d8, const std::uint32_t* HWY_RESTRICT words) {
  if constexpr (E::kWords) {
    return BroadcastPairs(d8, words);
  } else if constexpr (MultipliesBytes<E>()) {
    return UnsignedBytes<D8>{BroadcastBytes(d8, *words)};
  } else {
    return WidenUnsigned(d8, BroadcastBytes(d8, *words));
  }
}

/// Queries whose sums stay in registers together; more where bytes are multiplied, so that numbers serve more queries.
template <class E>
inline constexpr std::size_t kQueriesAtOnce = E::kWords || HWY_CAP_GE512 ? 4 : 2;
inline constexpr std::size_t kManyQueries = 8;

/// Field kPlace of tiles from `tile` on: kPlace may lie beyond the first.
template <std::size_t kPlace, class E, class D8, class T>
HWY_INLINE auto ExpandField(D8 d8, const E& expander, const T& tables, std::size_t tile, std::size_t byte) {
  return expander.template Expand<kPlace % E::kFields>(d8, tables, tile + kPlace / E::kFields, byte);
}

/// `use(i, numbers)` of kCount fields (1, 2 or 4) from field kPlace of tiles from `tile` on.
template <std::size_t kPlace, std::size_t kCount, class E, class D8, class T, class Use>
HWY_INLINE void ForEachField(D8 d8, const E& expander, const T& tables, std::size_t tile, std::size_t byte, const Use& use) {
  use(0, ExpandField<kPlace>(d8, expander, tables, tile, byte));
  if constexpr (kCount > 1) use(1, ExpandField<kPlace + 1>(d8, expander, tables, tile, byte));
  if constexpr (kCount > 2) {
    use(2, ExpandField<kPlace + 2>(d8, expander, tables, tile, byte));
    use(3, ExpandField<kPlace + 3>(d8, expander, tables, tile, byte));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
