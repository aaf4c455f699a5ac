#include "kernels/lloyd/query.h"

#include <cmath>

#include <kvant/tensor.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lloyd/query.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/rotation/hadamard-inl.h"
#include "kernels/rotation/hadamard_quad-inl.h"
#include "kernels/rotation/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

HWY_INLINE void Bias(LaneTag d, std::size_t dim, const float* HWY_RESTRICT mean, const float* HWY_RESTRICT x,
                     float* HWY_RESTRICT bias) {
  LaneVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  for (std::size_t i = 0; i < dim; i += 4) {
    for (std::size_t j = 0; j < 4; ++j) {
      sums[j] = hn::Add(sums[j], hn::Mul(hn::Load(d, x + (i + j) * kLanes), hn::Set(d, mean[i + j])));
    }
  }
  hn::Store(hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])), d, bias);
}

/// Word `to` of each lane's row.
HWY_INLINE void StoreWords(LaneTagI d, LaneVecI v, std::size_t row_words, std::uint32_t* HWY_RESTRICT to) {
  HWY_ALIGN std::int32_t lanes[kLanes];
  hn::Store(v, d, lanes);
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) to[i * row_words] = static_cast<std::uint32_t>(lanes[i]);
}

/// One register of columns: rows and head of queries lane.. of the batch.
HWY_INLINE void Round(LaneTag d, std::uint32_t bits, std::size_t dim, float to_logit, const float* HWY_RESTRICT x,
                      std::size_t lane, QueryHead& head, std::uint32_t* HWY_RESTRICT words) {
  const LaneTagI di;
  LaneVec largest = hn::Zero(d);
  for (std::size_t i = 0; i < dim; ++i) largest = hn::Max(largest, hn::Abs(hn::Load(d, x + i * kLanes)));
  const std::int32_t limit = LloydQueryMax(bits, dim);
  const auto none = hn::Lt(largest, hn::Set(d, 1e-30f));
  const LaneVec factor = hn::IfThenZeroElse(none, hn::Div(hn::Set(d, static_cast<float>(limit)), largest));
  hn::Store(hn::IfThenZeroElse(none, hn::Mul(largest, hn::Set(d, to_logit))), d, head.scale + lane);
  const LaneVecI top = hn::Set(di, limit), bottom = hn::Set(di, -limit);
  LaneVecI sum = hn::Zero(di);
  const std::size_t row_words = LloydQueryWords(bits, dim);
  std::uint32_t* to = words + lane * row_words;
  for (std::size_t g = 0; g < dim / 4; ++g, to += LloydQueryWordsPerGroup(bits)) {
    LaneVecI q[4];
    for (std::size_t j = 0; j < 4; ++j) {
      const LaneVecI nearest = hn::NearestInt(hn::Mul(hn::Load(d, x + (4 * g + j) * kLanes), factor));
      q[j] = hn::Min(hn::Max(nearest, bottom), top);
      sum = hn::Add(sum, q[j]);
    }
    if (LloydHasWords(bits)) {
      const LaneVecI low = hn::Set(di, 0xFFFF);
      StoreWords(di, hn::Or(hn::And(q[0], low), hn::ShiftLeft<16>(q[2])), row_words, to);
      StoreWords(di, hn::Or(hn::And(q[1], low), hn::ShiftLeft<16>(q[3])), row_words, to + 1);
    } else {
      const LaneVecI low = hn::Set(di, 0xFF);
      const LaneVecI a = hn::Or(hn::And(q[0], low), hn::ShiftLeft<8>(hn::And(q[1], low)));
      const LaneVecI b = hn::Or(hn::ShiftLeft<16>(hn::And(q[2], low)), hn::ShiftLeft<24>(q[3]));
      StoreWords(di, hn::Or(a, b), row_words, to);
    }
  }
  hn::Store(sum, di, head.totals + lane);
}

/// <query, mean>, with the four running sums of Bias.
HWY_INLINE float BiasOfRow(std::size_t dim, const float* HWY_RESTRICT mean, const float* HWY_RESTRICT row) {
  const QuadTag d;
  QuadVec sums = hn::Zero(d);
  for (std::size_t i = 0; i < dim; i += 4) sums = hn::Add(sums, hn::Mul(hn::LoadU(d, row + i), hn::LoadU(d, mean + i)));
  HWY_ALIGN float four[4];
  hn::Store(sums, d, four);
  return (four[0] + four[1]) + (four[2] + four[3]);
}

/// One register of quarters (four lanes a query): rows and heads of queries query.. of the batch. Round with other lanes.
HWY_INLINE void RoundQuarters(LaneTag d, std::uint32_t bits, std::size_t dim, float to_logit, const float* HWY_RESTRICT x,
                              std::size_t query, QueryHead& head, std::uint32_t* HWY_RESTRICT words) {
  const LaneTagI di;
  const LaneTagU du;
  const std::size_t queries = hn::Lanes(d) / 4, quarter = dim / 4;
  LaneVec four[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  for (std::size_t c = 0; c < quarter; c += 4) {
    for (std::size_t j = 0; j < 4; ++j) four[j] = hn::Max(four[j], hn::Abs(hn::Load(d, x + (c + j) * kLanes)));
  }
  LaneVec largest = hn::Max(hn::Max(four[0], four[1]), hn::Max(four[2], four[3]));
  largest = hn::Max(largest, hn::Shuffle2301(largest));
  largest = hn::Max(largest, hn::Shuffle1032(largest));
  const std::int32_t limit = LloydQueryMax(bits, dim);
  const auto none = hn::Lt(largest, hn::Set(d, 1e-30f));
  const LaneVec factor = hn::IfThenZeroElse(none, hn::Div(hn::Set(d, static_cast<float>(limit)), largest));
  const LaneVec scale = hn::IfThenZeroElse(none, hn::Mul(largest, hn::Set(d, to_logit)));
  const LaneVecI top = hn::Set(di, limit), bottom = hn::Set(di, -limit);
  LaneVecI sum = hn::Zero(di);
  const std::size_t per_group = LloydQueryWordsPerGroup(bits), row_words = LloydQueryWords(bits, dim);
  HWY_ALIGN std::uint32_t lanes[2 * kLanes];
  for (std::size_t k = 0; k < quarter / 4; ++k) {
    LaneVecI q[4];
    for (std::size_t j = 0; j < 4; ++j) {
      const LaneVecI nearest = hn::NearestInt(hn::Mul(hn::Load(d, x + (4 * k + j) * kLanes), factor));
      q[j] = hn::Min(hn::Max(nearest, bottom), top);
      sum = hn::Add(sum, q[j]);
    }
    const LaneVecI low = hn::Set(di, LloydHasWords(bits) ? 0xFFFF : 0xFF);
    if (LloydHasWords(bits)) {
      hn::Store(hn::BitCast(du, hn::Or(hn::And(q[0], low), hn::ShiftLeft<16>(q[2]))), du, lanes);
      hn::Store(hn::BitCast(du, hn::Or(hn::And(q[1], low), hn::ShiftLeft<16>(q[3]))), du, lanes + kLanes);
    } else {
      const LaneVecI a = hn::Or(hn::And(q[0], low), hn::ShiftLeft<8>(hn::And(q[1], low)));
      const LaneVecI b = hn::Or(hn::ShiftLeft<16>(hn::And(q[2], low)), hn::ShiftLeft<24>(q[3]));
      hn::Store(hn::BitCast(du, hn::Or(a, b)), du, lanes);
    }
    for (std::size_t i = 0; i < queries; ++i) {
      for (std::size_t s = 0; s < 4; ++s) {
        std::uint32_t* to = words + (query + i) * row_words + (s * quarter / 4 + k) * per_group;
        for (std::size_t w = 0; w < per_group; ++w) to[w] = lanes[w * kLanes + 4 * i + s];
      }
    }
  }
  sum = hn::Add(sum, hn::Shuffle2301(sum));
  sum = hn::Add(sum, hn::Shuffle1032(sum));
  HWY_ALIGN std::int32_t sums[kLanes];
  HWY_ALIGN float scales[kLanes];
  hn::Store(sum, di, sums);
  hn::Store(scale, d, scales);
  for (std::size_t i = 0; i < queries; ++i) {
    head.totals[query + i] = sums[4 * i];
    head.scale[query + i] = scales[4 * i];
  }
}

/// Up to 8 queries of a batch.
HWY_INLINE void PrepareFew(const LloydQueryConfig& config, const float* HWY_RESTRICT queries, std::size_t n, float to_logit,
                           QueryHead& head, std::uint32_t* HWY_RESTRICT words, float* HWY_RESTRICT columns) {
  const LaneTag d;
  const HadamardMap& map = config.map;
  const std::size_t dim = map.shape.dim;
  for (std::size_t first = 0; first < n; first += kQuadRows) {
    const float* rows = queries + first * dim;
    const std::size_t count = n - first < kQuadRows ? n - first : kQuadRows;
    LoadQuarters(rows, dim, dim, count, map.signs, columns);
    for (std::size_t lane = 0; lane < 4 * count; lane += hn::Lanes(d)) {
      HadamardQuarters(d, dim, map.rounds, map.quarter_signs, columns + lane);
      RoundQuarters(d, config.table->bits, dim, to_logit, columns + lane, first + lane / 4, head, words);
    }
    for (std::size_t i = 0; i < count; ++i) {
      head.bias[first + i] = config.mean == nullptr ? 0.0f : BiasOfRow(dim, config.mean, rows + i * dim);
    }
  }
}

/// Biases alone.
void BiasAll(const LloydQueryConfig& config, const float* queries, std::size_t n, std::byte* prepared) {
  const std::size_t dim = config.map.shape.dim;
  for (std::size_t i = 0; i < n; ++i) {
    std::byte* batch = prepared + i / kQueryBatch * LloydQueryBatchBytes(config.table->bits, dim);
    reinterpret_cast<QueryHead*>(batch)->bias[i % kQueryBatch] =
        config.mean == nullptr ? 0.0f : BiasOfRow(dim, config.mean, queries + i * dim);
  }
}

void PrepareAll(const LloydQueryConfig& config, const float* queries, std::size_t n, float to_logit, std::byte* prepared,
                std::byte* scratch) {
  const LaneTag d;
  const HadamardMap& map = config.map;
  const std::size_t dim = map.shape.dim;
  const std::uint32_t bits = config.table->bits;
  auto* columns = reinterpret_cast<float*>(scratch);
  const RowsView rows{queries, ElementType::kF32, n, dim, dim};
  for (std::size_t first = 0; first < n; first += kLanes, prepared += LloydQueryBatchBytes(bits, dim)) {
    auto& head = *reinterpret_cast<QueryHead*>(prepared);
    auto* words = reinterpret_cast<std::uint32_t*>(prepared + sizeof(QueryHead));
    const std::size_t count = n - first < kLanes ? n - first : kLanes;
    if (map.quarter_signs != nullptr && count <= 2 * kQuadRows) {
      PrepareFew(config, queries + first * dim, count, to_logit, head, words, columns);
      continue;
    }
    LoadColumnsOf(rows, first, count, columns);
    for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
      if (config.mean != nullptr) {
        Bias(d, dim, config.mean, columns + lane, head.bias + lane);
      } else {
        hn::Store(hn::Zero(d), d, head.bias + lane);
      }
    }
    HadamardColumns(map.shape, map.rounds, map.signs, columns);
    for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(d))
      Round(d, bits, dim, to_logit, columns + lane, lane, head, words);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

namespace {

QueryRotation MakeRotation(std::size_t dim) noexcept {
  const double root = std::sqrt(static_cast<double>(dim));
  const double most = 32767.0 / root * (127.0 / 128.0) - root / 2;
  QueryRotation made;
  made.limit = static_cast<float>(most);
  made.turn = static_cast<std::int16_t>(32768.0 / root * (most / (most + root / 2)));
  double shrunk = double{made.limit} * root * root;  // the first round's transform, and the root that stored scales hold
  for (double& restore : made.restore) {
    const auto rounds = static_cast<double>(&restore - made.restore);
    restore = rounds == 0 ? 0 : 32768.0 / shrunk;
    if (rounds > 0) shrunk *= made.turn / 32768.0 * root;
  }
  return made;
}

}  // namespace

const QueryRotation& QueryRotation::Of(std::size_t dim) noexcept {
  static const QueryRotation kRotations[] = {MakeRotation(64), MakeRotation(128), MakeRotation(256)};
  return kRotations[dim / 128];
}

void QueryTurns(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, std::int16_t* turns) noexcept {
  const std::int16_t turn = QueryRotation::Of(shape.dim).turn;
  for (std::size_t round = 1; round < rounds; ++round, turns += shape.dim) {
    for (std::size_t at = 0; at < shape.dim; ++at) {
      const std::size_t lane = at % 8, column = at / 8;
      const std::size_t number = round % 2 == 0 ? at : 8 * (column / 8 * 8 + lane) + column % 8;
      turns[at] = static_cast<std::int16_t>(signs[round * shape.dim + number] != 0 ? -turn : turn);
    }
  }
}

HWY_EXPORT(PrepareAll);
HWY_EXPORT(BiasAll);

void LloydPrepareQueries(const LloydQueryConfig& config, const float* queries, std::size_t n, std::byte* prepared,
                         std::byte* scratch) noexcept {
  if (PreparesInIntegers(config)) {
    LloydPrepareInIntegers(config, queries, n, prepared);
    HWY_DYNAMIC_DISPATCH(BiasAll)(config, queries, n, prepared);
    return;
  }
  // A row reads back as scale * code / (unit * sqrt(dim)); the integer query is (limit / largest) * gain times the rotated one.
  const HadamardShape& shape = config.map.shape;
  const double to_logit = 1.0 / (LloydQueryMax(config.table->bits, shape.dim) * shape.gain(config.map.rounds) *
                                 config.table->unit * std::sqrt(static_cast<double>(shape.dim)));
  HWY_DYNAMIC_DISPATCH(PrepareAll)(config, queries, n, static_cast<float>(to_logit), prepared, scratch);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
