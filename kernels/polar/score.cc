#include "kernels/polar/score.h"

#include <kvant/tensor.h>

#include "kernels/machine/prefetch.h"
#include "kernels/polar/table.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/polar/score.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/polar/pick-inl.h"
#include "kernels/rotation/hadamard-inl.h"
#include "kernels/rotation/transpose-inl.h"
#include "kernels/ufloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using LaneVecU = hn::Vec<LaneTagU>;

/// Reads the strings of as many tokens as there are lanes.
class CodeReader {
 public:
  /// Of the tokens from `lane` on.
  HWY_INLINE CodeReader(const PolarForm& form, const std::uint8_t* tile, std::size_t lane)
      : words_(tile + lane * 4), whole_(form.words()), rest_(hn::Zero(LaneTagU())) {
    const LaneTagU du;
    const std::uint8_t* planes = tile + whole_ * 64;
    const auto token = hn::Add(hn::Iota(du, 0), hn::Set(du, static_cast<std::uint32_t>(lane)));
    for (std::size_t bit = 0; bit < form.code_bits() % 32; ++bit) {
      const auto both = static_cast<std::uint32_t>(planes[2 * bit]) | static_cast<std::uint32_t>(planes[2 * bit + 1]) << 8;
      const auto own = hn::And(hn::Shr(hn::Set(du, both), token), hn::Set(du, 1U));
      rest_ = hn::Or(rest_, hn::ShiftLeftSame(own, static_cast<int>(bit)));
    }
  }

  HWY_INLINE LaneVecI Take(std::uint32_t bits) {
    const LaneTagU du;
    const std::size_t word = position_ / 32;
    const auto shift = static_cast<std::uint32_t>(position_ % 32);
    position_ += bits;
    LaneVecU code = hn::ShiftRightSame(Word(word), static_cast<int>(shift));
    if (shift + bits > 32) code = hn::Or(code, hn::ShiftLeftSame(Word(word + 1), static_cast<int>(32 - shift)));
    return hn::BitCast(LaneTagI(), hn::And(code, hn::Set(du, (1U << bits) - 1U)));
  }

 private:
  HWY_INLINE LaneVecU Word(std::size_t i) const {
    const hn::Repartition<std::uint8_t, LaneTagU> d8;
    return i < whole_ ? hn::BitCast(LaneTagU(), hn::LoadU(d8, words_ + i * 64)) : rest_;
  }

  const std::uint8_t* words_;
  std::size_t whole_;
  LaneVecU rest_;
  std::size_t position_ = 0;
};

/// Cosines and sines of an angle.
struct Turn {
  LaneVec cosine, sine;
};

template <std::size_t kOthers>
HWY_INLINE Turn TakeTurn(LaneTag d, CodeReader& reader, const PolarAngles& table, std::uint32_t bits) {
  const LaneVecI code = reader.Take(bits);
  return {Pick<kOthers>(d, table.cosines.data(), code), Pick<kOthers>(d, table.sines.data(), code)};
}

HWY_INLINE LaneVec Fold(const Turn& turn, LaneVec a, LaneVec b) {
  return hn::Add(hn::Mul(a, turn.cosine), hn::Mul(b, turn.sine));
}

/// Products of as many tokens as there are lanes with kQueries queries, whose tables lie `row` floats apart: `kFirst` numbers
/// of a table for an angle of level 1, `kOthers` for those above. A group of 16 numbers stays in registers; the levels above
/// it fold as soon as they can.
template <std::size_t kFirst, std::size_t kOthers, std::size_t kQueries>
HWY_INLINE void ScoreLanes(const PolarScoreArgs& args, const std::uint8_t* tile, const std::uint16_t* radii, std::size_t lane,
                           const float* HWY_RESTRICT tables, std::size_t row, float* HWY_RESTRICT logits, Prefetch& prefetch) {
  const LaneTag d;
  const PolarForm& form = args.form;
  CodeReader reader(form, tile, lane);
  const std::uint32_t first = form.first, others = form.others;
  const PolarAngles &second = PolarQuarter(2, others), &third = PolarQuarter(3, others), &fourth = PolarQuarter(4, others);
  LaneVec sums[kQueries];
  for (std::size_t q = 0; q < kQueries; ++q) sums[q] = hn::Zero(d);
  LaneVec stack[kPolarMaxLevel - kPolarGroupLevels][kQueries];
  std::size_t depth = 0;
  for (std::size_t group = 0; group < form.dim / kPolarGroup; ++group, tables += kPolarGroup / 2 * kFirst) {
    prefetch.Step();
    LaneVecI pairs[8];
    Turn twos[4], fours[2];
    for (std::size_t half = 0; half < 2; ++half) {
      for (std::size_t quarter = 2 * half; quarter < 2 * half + 2; ++quarter) {
        pairs[2 * quarter] = reader.Take(first);
        pairs[2 * quarter + 1] = reader.Take(first);
        twos[quarter] = TakeTurn<kOthers>(d, reader, second, others);
      }
      fours[half] = TakeTurn<kOthers>(d, reader, third, others);
    }
    const Turn whole = TakeTurn<kOthers>(d, reader, fourth, others);
    LaneVec folded[kQueries];
    for (std::size_t q = 0; q < kQueries; ++q) {
      LaneVec quarters[4];
      for (std::size_t i = 0; i < 4; ++i) {
        const float* at = tables + q * row + 2 * i * kFirst;
        quarters[i] = Fold(twos[i], Pick<kFirst>(d, at, pairs[2 * i]), Pick<kFirst>(d, at + kFirst, pairs[2 * i + 1]));
      }
      folded[q] = Fold(whole, Fold(fours[0], quarters[0], quarters[1]), Fold(fours[1], quarters[2], quarters[3]));
    }
    if (!form.full) {
      const LaneVec radius = LoadUfloat16(d, radii + group * args.tokens + lane);
      for (std::size_t q = 0; q < kQueries; ++q) sums[q] = hn::Add(sums[q], hn::Mul(folded[q], radius));
      continue;
    }
    for (std::size_t ones = group, level = kPolarGroupLevels + 1; (ones & 1) != 0; ones >>= 1, ++level) {
      const Turn turn = TakeTurn<kOthers>(d, reader, PolarQuarter(static_cast<std::uint32_t>(level), others), others);
      --depth;
      for (std::size_t q = 0; q < kQueries; ++q) folded[q] = Fold(turn, stack[depth][q], folded[q]);
    }
    for (std::size_t q = 0; q < kQueries; ++q) stack[depth][q] = sums[q] = folded[q];
    ++depth;
  }
  const LaneVec radius = form.full ? LoadUfloat16(d, radii + lane) : hn::Set(d, 1.0F);
  for (std::size_t q = 0; q < kQueries; ++q) {
    LaneVec logit = form.full ? hn::Mul(sums[q], radius) : sums[q];
    float* to = logits + q * args.stride + lane;
    if (args.add) logit = hn::Add(hn::LoadU(d, to), logit);
    hn::StoreU(logit, d, to);
  }
}

template <std::size_t kFirst, std::size_t kOthers, std::size_t kQueries>
HWY_INLINE void ScoreQueries(const PolarScoreArgs& args, std::size_t query, Prefetch& prefetch) {
  const LaneTag d;
  const std::size_t row = args.form.pairs() * kFirst;
  const float* tables = reinterpret_cast<const float*>(args.prepared) + query * row;
  const auto* radii = reinterpret_cast<const std::uint16_t*>(args.block + args.form.codes_bytes(args.tokens));
  const std::uint8_t* tile = args.block;
  for (std::size_t token = 0; token < args.tokens; token += kPolarTile, tile += args.form.tile_bytes()) {
    for (std::size_t lane = 0; lane < kPolarTile; lane += hn::Lanes(d)) {
      ScoreLanes<kFirst, kOthers, kQueries>(args, tile, radii + token, lane, tables, row,
                                            args.logits + query * args.stride + token, prefetch);
    }
  }
}

template <std::size_t kFirst, std::size_t kOthers>
void ScoreForm(const PolarScoreArgs& args) {
  // The first queries' pass over the block does the prefetching.
  const std::size_t steps = args.tokens / hn::Lanes(LaneTag()) * (args.form.dim / kPolarGroup);
  Prefetch prefetch(args.next, args.next_bytes, steps);
  std::size_t query = 0;
  for (; query + 4 <= args.queries; query += 4) ScoreQueries<kFirst, kOthers, 4>(args, query, prefetch);
  for (; query + 2 <= args.queries; query += 2) ScoreQueries<kFirst, kOthers, 2>(args, query, prefetch);
  for (; query < args.queries; ++query) ScoreQueries<kFirst, kOthers, 1>(args, query, prefetch);
}

void ScoreAll(const PolarScoreArgs& args) {
  if (args.form.first <= 4) {
    args.form.others <= 2 ? ScoreForm<16, 4>(args) : ScoreForm<16, 16>(args);
  } else {
    args.form.others <= 2 ? ScoreForm<32, 4>(args) : ScoreForm<32, 16>(args);
  }
}

void PrepareAll(const PolarForm& form, const HadamardMap& map, const float* queries, std::size_t stride, std::size_t n,
                float* HWY_RESTRICT prepared, std::byte* scratch) {
  const LaneTag d;
  const PolarAngles& circle = PolarCircle(form.first);
  const std::size_t entries = PolarTableEntries(form);
  const auto to_unit = static_cast<float>(1.0 / map.shape.gain(map.rounds));
  auto* columns = reinterpret_cast<float*>(scratch);
  float* rows = columns + form.dim * kLanes;
  const RowsView all{queries, ElementType::kF32, n, form.dim, stride};
  for (std::size_t first = 0; first < n; first += kLanes) {
    const std::size_t count = n - first < kLanes ? n - first : kLanes;
    LoadColumnsOf(all, first, count, columns);
    HadamardColumns(map.shape, map.rounds, map.signs, columns);
    StoreColumnsTo(columns, form.dim, 0, count, rows, form.dim);
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t pair = 0; pair < form.pairs(); ++pair) {
        const auto x = hn::Set(d, rows[i * form.dim + 2 * pair] * to_unit);
        const auto y = hn::Set(d, rows[i * form.dim + 2 * pair + 1] * to_unit);
        for (std::size_t k = 0; k < entries; k += hn::Lanes(d), prepared += hn::Lanes(d)) {
          const auto cosine = hn::Load(d, circle.cosines.data() + k), sine = hn::Load(d, circle.sines.data() + k);
          hn::Store(hn::Add(hn::Mul(x, cosine), hn::Mul(y, sine)), d, prepared);
        }
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(PrepareAll);
HWY_EXPORT(ScoreAll);

void PolarPrepareQueries(const PolarForm& form, const HadamardMap& map, const float* queries, std::size_t stride, std::size_t n,
                         std::byte* prepared, std::byte* scratch) noexcept {
  HWY_DYNAMIC_DISPATCH(PrepareAll)(form, map, queries, stride, n, reinterpret_cast<float*>(prepared), scratch);
}

void PolarScore(const PolarScoreArgs& args) noexcept { HWY_DYNAMIC_DISPATCH(ScoreAll)(args); }

}  // namespace kvant::kernels
#endif  // HWY_ONCE
