// Queries rotated in 16-bit integers, four at a time: eight lanes to a query, a query's number i in lane i % 8 of column i / 8.
// The definition, number by number, is reference/query.h.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "kernels/lloyd/query.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lloyd/query_integer.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/lloyd/query_rotation-inl.h"
#include "kernels/sixteen_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Calls f(p, i) for vector i .. of a row, p the sums that it goes to. dim is a multiple of 16.
template <class F>
HWY_INLINE void ForVectors(std::size_t dim, const F& f) {
  for (std::size_t i = 0; i < dim; i += kSums) {
#pragma GCC unroll 4
    for (std::size_t p = 0; p < kSumVectors; ++p) f(p, i + p * hn::MaxLanes(SumTag16()));
  }
}

/// The sum of a query's squares, each number times `factor`.
HWY_INLINE float SquareSum(std::size_t dim, const float* HWY_RESTRICT query, float factor) {
  const SumTag16 d;
  const auto times = hn::Set(d, factor);
  hn::Vec<SumTag16> sums[kSumVectors];
  for (auto& sum : sums) sum = hn::Zero(d);
  ForVectors(dim, [&](std::size_t p, std::size_t i) HWY_ATTR {
    const auto y = hn::Mul(hn::LoadU(d, query + i), times);
    sums[p] = hn::Add(sums[p], hn::Mul(y, y));
  });
  HWY_ALIGN float each[kSums];
  StoreSums(sums, each);
  return TotalOfSums(each);
}

HWY_INLINE float Largest(std::size_t dim, const float* HWY_RESTRICT query) {
  const SumTag16 d;
  auto largest = hn::Zero(d);
  ForVectors(dim, [&](std::size_t, std::size_t i) HWY_ATTR { largest = hn::Max(largest, hn::Abs(hn::LoadU(d, query + i))); });
  return hn::GetLane(hn::MaxOfLanes(d, largest));
}

/// A query as integers: times `factor`, the first round's signs turned.
HWY_INLINE void LoadQuery(std::size_t dim, const float* HWY_RESTRICT query, const std::uint32_t* HWY_RESTRICT signs,
                          float factor, std::int16_t* HWY_RESTRICT row) {
  const SumTag16 d;
  const hn::Rebind<std::int16_t, SumTag16> d16;
  const auto times = hn::Set(d, factor);
  ForVectors(dim, [&](std::size_t, std::size_t i) HWY_ATTR {
    const auto y = hn::Mul(hn::LoadU(d, query + i), times);
    const auto turned = hn::Xor(y, hn::LoadU(d, reinterpret_cast<const float*>(signs) + i));
    hn::StoreU(hn::DemoteTo(d16, hn::NearestInt(turned)), d16, row + i);
  });
}

/// The columns as bytes: `factors` of each lane; sums of the bytes, lane by lane.
HWY_INLINE void StoreBytes(std::size_t dim, std::size_t count, const QueryColumns& q, const std::int16_t* HWY_RESTRICT factors,
                           std::size_t row_words, std::uint32_t* HWY_RESTRICT words, std::int16_t* HWY_RESTRICT sums) {
  const ColumnTag d;
  const hn::Rebind<std::int8_t, ColumnTag> d8;
  HWY_ALIGN std::int8_t bytes[kIntegerRows];
  for (std::size_t lane = 0; lane < kIntegerRows; lane += hn::Lanes(d)) hn::Store(hn::Zero(d), d, sums + lane);
  for (std::size_t c = 0; c < dim / kQueryLanes; ++c) {
    for (std::size_t lane = 0; lane < kIntegerRows; lane += hn::Lanes(d)) {
      const ColumnVec v = hn::MulFixedPoint15(hn::Load(d, q.columns + c * kIntegerRows + lane), hn::Load(d, factors + lane));
      hn::Store(hn::Add(hn::Load(d, sums + lane), v), d, sums + lane);
      hn::Store(hn::DemoteTo(d8, v), d8, bytes + lane);
    }
    for (std::size_t r = 0; r < count; ++r) std::memcpy(words + r * row_words + 2 * c, bytes + r * kQueryLanes, kQueryLanes);
  }
}

void PrepareIntegers(const LloydQueryConfig& config, const float* queries, std::size_t n, float to_logit, std::byte* prepared) {
  const std::size_t dim = config.map.shape.dim, rounds = config.map.rounds;
  const std::uint32_t bits = config.table->bits;
  const QueryRotation& rotation = QueryRotation::Of(dim);
  HWY_ALIGN std::int16_t rows[kRotatedQueries * kMaxIntegerDim];
  QueryColumns q;
  const std::size_t row_words = LloydQueryWords(bits, dim);
  for (std::size_t first = 0; first < n; first += kRotatedQueries) {
    std::byte* batch = prepared + first / kQueryBatch * LloydQueryBatchBytes(bits, dim);
    auto& head = *reinterpret_cast<QueryHead*>(batch);
    const std::size_t at = first % kQueryBatch, count = std::min(n - first, kRotatedQueries);
    // Step by step for all four, so that no query waits for another one's sums.
    float squares[kRotatedQueries] = {}, norms[kRotatedQueries] = {};
    for (std::size_t r = 0; r < count; ++r) squares[r] = SquareSum(dim, queries + (first + r) * dim, 1.0f);
    for (std::size_t r = 0; r < count; ++r) {
      norms[r] = std::sqrt(squares[r]);
      if (IsPlainSquare(squares[r])) continue;
      const float* query = queries + (first + r) * dim;
      const float magnitude = Largest(dim, query);
      const float power = magnitude >= kLeastQuery ? QueryPower(magnitude) : 0.0f;
      norms[r] = power > 0 ? std::sqrt(SquareSum(dim, query, 1.0f / power)) * power : 0.0f;
    }
    for (std::size_t r = 0; r < kRotatedQueries; ++r) {
      std::int16_t* row = rows + r * dim;
      if (norms[r] > 0 && norms[r] <= FLT_MAX) {
        LoadQuery(dim, queries + (first + r) * dim, config.map.signs, rotation.limit / norms[r], row);
      } else {
        std::memset(row, 0, dim * sizeof(row[0]));
      }
    }
    switch (dim) {
      case 64: RotateQueries<8>(rounds, config.map.query_turns, rows, q); break;
      case 128: RotateQueries<16>(rounds, config.map.query_turns, rows, q); break;
      default: RotateQueries<32>(rounds, config.map.query_turns, rows, q); break;
    }
    HWY_ALIGN std::int16_t factors[kIntegerRows], sums[kIntegerRows];
    for (std::size_t r = 0; r < kRotatedQueries; ++r) {
      const std::int16_t largest = *std::max_element(q.largest + r * kQueryLanes, q.largest + (r + 1) * kQueryLanes);
      const std::int16_t factor = largest >= kLeastRotated ? QueryFactor(largest) : std::int16_t{0};
      std::fill_n(factors + r * kQueryLanes, kQueryLanes, factor);
      if (r < count) head.scale[at + r] = factor == 0 ? norms[r] * 0.0f : to_logit * norms[r] / factor;
    }
    auto* words = reinterpret_cast<std::uint32_t*>(batch + sizeof(QueryHead)) + at * row_words;
    StoreBytes(dim, count, q, factors, row_words, words, sums);
    for (std::size_t r = 0; r < count; ++r) {
      std::int32_t total = 0;
      for (std::size_t k = 0; k < kQueryLanes; ++k) total += sums[r * kQueryLanes + k];
      head.totals[at + r] = total;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(PrepareIntegers);

void LloydPrepareInIntegers(const LloydQueryConfig& config, const float* queries, std::size_t n, std::byte* prepared) noexcept {
  HWY_DYNAMIC_DISPATCH(PrepareIntegers)(config, queries, n, QueryToLogit(config), prepared);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
