#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/affine/attend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/affine/score.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/affine/expander-inl.h"
#include "kernels/affine/groups-inl.h"
#include "kernels/bytes/score-inl.h"
#include "kernels/bytes/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Queries of one group, as the byte kernels meet them.
struct GroupQueries {
  const AffineGroupQuery* heads;
  const std::uint32_t* words;
  std::size_t row_words;

  [[nodiscard]] HWY_INLINE GroupQueries From(std::size_t i) const { return {heads + i, words + i * row_words, row_words}; }
  [[nodiscard]] HWY_INLINE std::int32_t Total(std::size_t q) const { return heads[q].total; }
  /// Tokens have no scales of their own.
  template <class DF>
  [[nodiscard]] HWY_INLINE hn::Vec<DF> Logits(DF df, std::size_t q, hn::Vec<hn::RebindToSigned<DF>> sums, hn::Vec<DF>) const {
    return hn::Add(hn::Mul(hn::ConvertTo(df, sums), hn::Set(df, heads[q].step)), hn::Set(df, heads[q].bias));
  }
};

/// The memory of one call.
struct GroupScratch {
  float* steps;
  float* centres;
  float* products;
  AffineGroupQuery* heads;
  std::byte* words;

  GroupScratch(const ByteScoreArgs& args, std::size_t floats) {
    steps = reinterpret_cast<float*>(args.scratch + ByteScoreScratchBytes(args.queries, args.dim));
    centres = steps + floats;
    products = centres + floats;
    words = reinterpret_cast<std::byte*>(products + floats);
    heads = reinterpret_cast<AffineGroupQuery*>(words + (args.queries + 15) / 16 * 16 * floats * sizeof(std::int16_t));
  }
};

/// The sum of a vector's lanes, its upper half to its lower one until one is left.
template <class D>
HWY_INLINE float SumOfHalves(D, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(D()) == 1) {
    return hn::GetLane(v);
  } else {
    const hn::Half<D> half;
    return SumOfHalves(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

/// The sum of kAffineLanes lanes, in one order.
template <std::size_t kVectors>
HWY_INLINE float SumOfAffineLanes(hn::Vec<AffineTag> (&lanes)[kVectors]) {
  for (std::size_t width = kVectors / 2; width > 0; width /= 2) {
    for (std::size_t v = 0; v < width; ++v) lanes[v] = hn::Add(lanes[v], lanes[v + width]);
  }
  return SumOfHalves(AffineTag(), lanes[0]);
}

/// Rounds query * steps to integers of row `to`.
template <class E>
HWY_INLINE AffineGroupQuery RoundProducts(const float* HWY_RESTRICT query, const GroupScratch& scratch, std::size_t floats,
                                          std::byte* to) {
  const AffineTag d;
  const hn::RebindToSigned<AffineTag> di;
  constexpr std::size_t kVectors = kAffineLanes / hn::MaxLanes(d);
  const std::size_t n = hn::Lanes(d);
  hn::Vec<AffineTag> bias[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) bias[v] = hn::Zero(d);
  auto most = hn::Zero(d);
  for (std::size_t i = 0; i < floats; i += kAffineLanes) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const std::size_t at = i + v * n;
      const auto q = hn::LoadU(d, query + at);
      const auto product = hn::Mul(q, hn::LoadU(d, scratch.steps + at));
      most = hn::Max(most, hn::Abs(product));
      hn::StoreU(product, d, scratch.products + at);
      bias[v] = hn::Add(bias[v], hn::Mul(q, hn::LoadU(d, scratch.centres + at)));
    }
  }
  AffineGroupQuery head;
  head.bias = SumOfAffineLanes(bias);
  const float top = hn::GetLane(hn::MaxOfLanes(d, most));
  constexpr int kLimit = E::kWords ? kAffineWordMax : kByteQueryMax;
  const bool none = !(top >= kAffineSmallest);
  head.step = none ? 0.0f : top / static_cast<float>(kLimit);
  const auto factor = hn::Set(d, none ? 0.0f : static_cast<float>(kLimit) / top);
  if constexpr (E::kWords) {
    auto total = hn::Zero(di);
    for (std::size_t i = 0; i < floats; i += n) {
      const auto integers = hn::NearestInt(hn::Mul(hn::LoadU(d, scratch.products + i), factor));
      total = hn::Add(total, integers);
      const hn::Rebind<std::int16_t, AffineTag> d16;
      hn::StoreU(hn::TableLookupBytes(hn::DemoteTo(d16, integers), OrderOfFours(d16)), d16,
                 reinterpret_cast<std::int16_t*>(to) + i);
    }
    head.total = hn::GetLane(hn::SumOfLanes(di, total));
  } else {
    // The integer is in the low bits of the sum with kRoundToBits, whose own bits are taken off in the end.
    const hn::RebindToUnsigned<AffineTag> du;
    auto total = hn::Zero(du);
    for (std::size_t i = 0; i < floats; i += n) {
      const auto scaled = hn::Mul(hn::LoadU(d, scratch.products + i), factor);
      const auto bits = hn::BitCast(du, hn::Add(scaled, hn::Set(d, kRoundToBits)));
      total = hn::Add(total, bits);
      StoreLowBytes(du, bits, reinterpret_cast<std::uint8_t*>(to) + i);
    }
    const std::uint32_t magic = std::bit_cast<std::uint32_t>(kRoundToBits) * static_cast<std::uint32_t>(floats);
    head.total = static_cast<std::int32_t>(hn::GetLane(hn::SumOfLanes(du, total)) - magic);
  }
  return head;
}

template <class E>
HWY_INLINE void ScoreGroups(E expander, const AffineShape& shape, const ByteScoreArgs& args) {
  static constexpr std::uint16_t kNoScales[kWeightRun] = {};  // a group has at most as many tokens
  if (args.queries == 0) return;
  const std::size_t floats = AffineQueryFloats(shape.dim), groups = shape.groups();
  const std::size_t row_bytes = floats * (E::kWords ? sizeof(std::int16_t) : sizeof(std::int8_t));
  const GroupScratch scratch(args, floats);
  const auto* queries = reinterpret_cast<const float*>(args.prepared);
  std::fill(scratch.steps + shape.dim, scratch.steps + floats, 0.0f);
  std::fill(scratch.centres + shape.dim, scratch.centres + floats, 0.0f);
  ByteScoreArgs part = args;
  part.tokens = shape.group;
  part.next_bytes = args.next_bytes / groups / 64 * 64;
  for (std::size_t g = 0; g < groups; ++g) {
    LoadGroup(args.block + shape.steps_at(g), args.block + shape.zeros_at(g), static_cast<float>(E::kOffset), shape.dim,
              scratch.steps, scratch.centres);
    for (std::size_t i = 0; i < args.queries; ++i) {
      scratch.heads[i] = RoundProducts<E>(queries + i * floats, scratch, floats, scratch.words + i * row_bytes);
    }
    expander.first = g * shape.group / 16;
    part.logits = args.logits + g * shape.group;
    if (args.next != nullptr) part.next = args.next + g * part.next_bytes;
    if (g + 1 == groups) part.next_bytes = args.next_bytes - g * part.next_bytes;
    Score(expander, GroupQueries{scratch.heads, reinterpret_cast<const std::uint32_t*>(scratch.words), row_bytes / 4},
          kNoScales, part);
  }
}

void ScoreTarget(const AffineShape& shape, const ByteScoreArgs& args) {
  WithAffineBits(shape.bits, [&](auto bits) HWY_ATTR {
    ScoreGroups(AffineExpander<decltype(bits)::value, false>(shape, args.block), shape, args);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(ScoreTarget);

void ScoreAffine(const AffineShape& shape, const ByteScoreArgs& args) noexcept {
  HWY_DYNAMIC_DISPATCH(ScoreTarget)(shape, args);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
