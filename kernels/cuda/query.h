// Queries as keys' codes meet them, made by a warp: the steps and so the bits of lloyd/query.h's integer rotation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/lanes.h"
#include "kernels/cuda/query_map.h"

namespace kvant::kernels::cuda {

/// Rows that a warp works on at once.
inline constexpr int kRowsAtOnce = 4;

inline namespace KVANT_LANES {
/// A sign of a rotation, as 0 or the top bit: bit i of round r is bit i % 32 of signs[(r * dim + i) / 32].
KVANT_WARP Lanes<std::uint32_t> SignAt(const std::uint32_t* signs, Lanes<int> i) {
  return (Get(signs, i >> 5) << (31 - (i & 31))) & 0x80000000u;
}

/// Walsh-Hadamard transform, without a factor, of numbers that stand kEach to a lane, adjacent.
template <int kEach, class T>
KVANT_WARP void Sylvester(Lanes<T> (&x)[kEach]) {
  KVANT_UNROLL
  for (int h = 1; h < kEach; h *= 2) {
    KVANT_UNROLL
    for (int i = 0; i < kEach; ++i) {
      if ((i & h) != 0) continue;
      const Lanes<T> a = x[i], b = x[i + h];
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
  KVANT_UNROLL
  for (int h = 1; h < kWarpLanes; h *= 2) {
    const auto upper = (LaneIndex() & h) != 0;
    KVANT_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const Lanes<T> other = ShuffleXor(x[i], h);
      x[i] = Select(upper, other - x[i], x[i] + other);
    }
  }
}

/// Sums over the dims of four rows, in the order of kernels/reference/sixteen_sums.h: lanes 8 r.. have row r's.
/// `term(k, j)`: numbers 16 k + 2 (lane % 8) + j.
template <int kDim, class Term>
KVANT_WARP Lanes<float> SumsOfRows(const Term& term) {
  Lanes<float> sums[2] = {0.0f, 0.0f};
  KVANT_UNROLL
  for (int k = 0; k < kDim / 16; ++k) {
    sums[0] += term(k, 0);
    sums[1] += term(k, 1);
  }
  KVANT_UNROLL
  for (int mask = 4; mask > 0; mask /= 2) {
    sums[0] += ShuffleXor(sums[0], mask);
    sums[1] += ShuffleXor(sums[1], mask);
  }
  return sums[0] + sums[1];
}

/// Number `i` of a query, in the codes' coordinates. `gains`: of the dims, or null (kernels/gauge/gauge.h).
KVANT_WARP Lanes<float> GaugedNumber(const float* rows, Lanes<int> at, const std::uint8_t* gains, Lanes<int> i) {
  const Lanes<float> x = Get(rows, at);
  if (gains == nullptr) return x;
  return x * AsFloat((Convert<std::uint32_t>(Get(gains, i)) << 20) + (111u << 23));
}

/// Rows `first`, `first + stride`.. of `rows` [kRowsAtOnce, kDim] become signed bytes `numbers` [kRowsAtOnce, kDim] and scales
/// [kRowsAtOnce].
template <int kDim>
KVANT_WARP void PrepareQueries(const QueryMap& map, const std::uint32_t* signs, const float* rows, const std::uint8_t* gains,
                               std::uint8_t* numbers, float* scales, int first, int stride) {
  constexpr int kEach = kDim / kWarpLanes;
  const Lanes<int> lane = LaneIndex();
  const Lanes<int> own = (lane >> 3) * kDim + (lane & 7) * 2;  // of the sums over rows
  const auto number = [&](int k, int j) {
    return GaugedNumber(rows, own + (16 * k + j), gains, (lane & 7) * 2 + (16 * k + j));
  };
  const Lanes<float> square = SumsOfRows<kDim>([&](int k, int j) {
    const Lanes<float> x = number(k, j);
    return x * x;
  });
  Lanes<float> norm = Root(square);
  const auto plain = Select(square >= 0x1p-80f, Lanes<bool>(0x1p100f >= square), Lanes<bool>(false));
  Lanes<bool> none = false;
  if (Any(!plain)) {
    Lanes<float> most = 0.0f;
    KVANT_UNROLL
    for (int k = 0; k < kDim / 16; ++k) most = Largest(most, Largest(Magnitude(number(k, 0)), Magnitude(number(k, 1))));
    KVANT_UNROLL
    for (int mask = 4; mask > 0; mask /= 2) most = Largest(most, ShuffleXor(most, mask));
    const Lanes<std::uint32_t> exponent = AsBits(most) >> 23;
    const Lanes<float> power = AsFloat(Select(exponent < 252u, exponent, 252u) << 23);
    const Lanes<float> inverse = Lanes<float>(1.0f) / power;
    const Lanes<float> scaled = SumsOfRows<kDim>([&](int k, int j) {
      const Lanes<float> x = number(k, j) * inverse;
      return x * x;
    });
    norm = Select(plain, norm, Root(scaled) * power);
    none = Select(plain, Lanes<bool>(false), most < 1e-30f);
  }
  const Lanes<float> ratio = Select(none, Lanes<float>(0.0f), Lanes<float>(map.limit) / norm);
  KVANT_ROLLED  // code that runs once is read once, from far away
      for (int row = first; row < kRowsAtOnce; row += stride) {
    const Lanes<float> to_integers = FromLane(ratio, 8 * row);
    Lanes<std::int32_t> z[kEach];
    KVANT_UNROLL
    for (int e = 0; e < kEach; ++e) {
      const Lanes<int> i = lane * kEach + e;
      const Lanes<float> y = GaugedNumber(rows, i + row * kDim, gains, i) * to_integers;
      z[e] = ToInt(AsFloat(AsBits(y) ^ SignAt(signs, i)));
    }
    Sylvester<kEach>(z);
    for (int round = 1; round < map.rounds; ++round) {
      KVANT_UNROLL
      for (int e = 0; e < kEach; ++e) {
        const auto negative = SignAt(signs, lane * kEach + (round * kDim + e)) != 0u;
        z[e] = (z[e] * Select(negative, Lanes<std::int32_t>(-map.turn), map.turn) + 0x4000) >> 15;
      }
      Sylvester<kEach>(z);
    }
    Lanes<std::int32_t> largest = 0;
    KVANT_UNROLL
    for (int e = 0; e < kEach; ++e) largest = Largest(largest, Magnitude(z[e]));
    KVANT_UNROLL
    for (int mask = 1; mask < kWarpLanes; mask *= 2) largest = Largest(largest, ShuffleXor(largest, mask));
    const Lanes<std::int32_t> factor = Lanes<std::int32_t>(127 * 32768 + 16383) / Largest(largest, 1);
    const auto zero = FromLane(none, 8 * row);
    KVANT_UNROLL
    for (int e = 0; e < kEach; ++e) {
      const Lanes<std::int32_t> byte = Select(zero, Lanes<std::int32_t>(0), (z[e] * factor + 0x4000) >> 15);
      Put(numbers, lane * kEach + (row * kDim + e), Convert<std::uint8_t>(byte));
    }
    const Lanes<float> scale = Lanes<float>(map.to_logit) * FromLane(norm, 8 * row) / Convert<float>(factor);
    PutIf(lane == 0, scales, Lanes<int>(row), Select(zero, Lanes<float>(0.0f), scale));
  }
}

}  // namespace KVANT_LANES
}  // namespace kvant::kernels::cuda
