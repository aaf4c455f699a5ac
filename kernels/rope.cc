#include "kernels/rope.h"

#include <algorithm>
#include <cmath>

#include "kernels/rope_frequencies.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef KVANT_KERNELS_ROPE_RUN_
#define KVANT_KERNELS_ROPE_RUN_
namespace kvant::kernels {

/// At most Rope::kRun rows of each head. Row i turns by the angles of the run's first token and by those of i tokens.
struct RopeRun {
  float* rows = nullptr;
  std::size_t heads = 0;
  std::size_t head_stride = 0;
  std::size_t head_dim = 0;
  std::size_t count = 0;
  std::size_t pairs = 0;
  const float* first_cosines = nullptr;  ///< [pairs], times the attention factor
  const float* first_sines = nullptr;
  const float* cosines = nullptr;  ///< [count, pairs]
  const float* sines = nullptr;
};

}  // namespace kvant::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Multiplies pairs [p, p + lanes) of a row, as complex numbers, by cosine + i sine.
template <bool kAdjacent, class D, class V = hn::Vec<D>>
HWY_INLINE void TurnPairs(D d, float* row, std::size_t p, std::size_t pairs, V cosine, V sine) {
  V x, y;
  if constexpr (kAdjacent) {
    hn::LoadInterleaved2(d, row + 2 * p, x, y);
  } else {
    x = hn::LoadU(d, row + p);
    y = hn::LoadU(d, row + p + pairs);
  }
  const V turned_x = hn::NegMulAdd(y, sine, hn::Mul(x, cosine));
  const V turned_y = hn::MulAdd(y, cosine, hn::Mul(x, sine));
  if constexpr (kAdjacent) {
    hn::StoreInterleaved2(turned_x, turned_y, d, row + 2 * p);
  } else {
    hn::StoreU(turned_x, d, row + p);
    hn::StoreU(turned_y, d, row + p + pairs);
  }
}

/// Pairs [p, end) of row i of every head, a vector at a time; returns where it stopped.
template <bool kAdjacent, class D>
HWY_INLINE std::size_t TurnRow(D d, const RopeRun& run, std::size_t i, std::size_t p) {
  for (; p + hn::Lanes(d) <= run.pairs; p += hn::Lanes(d)) {
    const auto first_cosine = hn::LoadU(d, run.first_cosines + p);
    const auto first_sine = hn::LoadU(d, run.first_sines + p);
    const auto more_cosine = hn::LoadU(d, run.cosines + i * run.pairs + p);
    const auto more_sine = hn::LoadU(d, run.sines + i * run.pairs + p);
    const auto cosine = hn::NegMulAdd(first_sine, more_sine, hn::Mul(first_cosine, more_cosine));
    const auto sine = hn::MulAdd(first_sine, more_cosine, hn::Mul(first_cosine, more_sine));
    for (std::size_t h = 0; h < run.heads; ++h) {
      TurnPairs<kAdjacent>(d, run.rows + h * run.head_stride + i * run.head_dim, p, run.pairs, cosine, sine);
    }
  }
  return p;
}

template <bool kAdjacent>
void TurnRun(const RopeRun& run) {
  for (std::size_t i = 0; i < run.count; ++i) {
    const std::size_t p = TurnRow<kAdjacent>(hn::ScalableTag<float>(), run, i, 0);
    TurnRow<kAdjacent>(hn::CappedTag<float, 1>(), run, i, p);
  }
}

void TurnHalfSplitTarget(const RopeRun& run) { TurnRun<false>(run); }
void TurnAdjacentTarget(const RopeRun& run) { TurnRun<true>(run); }

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {
namespace {

HWY_EXPORT(TurnHalfSplitTarget);
HWY_EXPORT(TurnAdjacentTarget);

}  // namespace

Rope::Rope(const RopeSpec& spec, std::size_t head_dim)
    : pairing_(spec.pairing),
      head_dim_(head_dim),
      frequencies_(ComputeRopeFrequencies(spec, static_cast<std::uint32_t>(head_dim)).value()) {
  cosines_.reserve(kRun * frequencies_.radians_per_token.size());
  sines_.reserve(kRun * frequencies_.radians_per_token.size());
  for (std::size_t i = 0; i < kRun; ++i) {
    for (const double radians : frequencies_.radians_per_token) {
      cosines_.push_back(static_cast<float>(std::cos(static_cast<double>(i) * radians)));
      sines_.push_back(static_cast<float>(std::sin(static_cast<double>(i) * radians)));
    }
  }
}

void Rope::Rotate(const RopeRows& rows) const {
  if (pairing_ == RopePairing::kNone) return;
  constexpr std::size_t kMaxPairs = 512;  // ComputeRopeFrequencies allows no more
  float first_cosines[kMaxPairs];
  float first_sines[kMaxPairs];
  const std::vector<double>& radians = frequencies_.radians_per_token;
  for (std::size_t begin = 0; begin < rows.count; begin += kRun) {
    const auto position = static_cast<double>(rows.first_position + begin);
    for (std::size_t p = 0; p < radians.size(); ++p) {
      first_cosines[p] = static_cast<float>(frequencies_.attention_factor * std::cos(position * radians[p]));
      first_sines[p] = static_cast<float>(frequencies_.attention_factor * std::sin(position * radians[p]));
    }
    const RopeRun run{.rows = rows.rows + begin * head_dim_,
                      .heads = rows.heads,
                      .head_stride = rows.head_stride,
                      .head_dim = head_dim_,
                      .count = std::min(kRun, rows.count - begin),
                      .pairs = radians.size(),
                      .first_cosines = first_cosines,
                      .first_sines = first_sines,
                      .cosines = cosines_.data(),
                      .sines = sines_.data()};
    if (pairing_ == RopePairing::kAdjacent) {
      HWY_DYNAMIC_DISPATCH(TurnAdjacentTarget)(run);
    } else {
      HWY_DYNAMIC_DISPATCH(TurnHalfSplitTarget)(run);
    }
  }
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
