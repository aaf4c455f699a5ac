// The search of trellis codes for 16 rows in lanes: Viterbi's algorithm over the squared errors, in floats, whose operations
// come in one order on every target. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_TRELLIS_SEARCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_TRELLIS_SEARCH_INL_H_
#undef KVANT_KERNELS_TRELLIS_SEARCH_INL_H_
#else
#define KVANT_KERNELS_TRELLIS_SEARCH_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/rotation/hadamard-inl.h"
#include "kernels/trellis/encode.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// A state is the first bits of the last three codes, the newest in bit 0; level numbers n % 4 = 2 z1 + z0 make up four
/// subsets, of which a state allows two, one for either bit that may come next (code.h).
template <std::uint32_t kBits>
struct TrellisSearch {
  static constexpr std::uint32_t kStates = kTrellisStates;
  static constexpr std::uint32_t kSubset = 1u << (kBits - 1);  ///< levels of a subset
  static constexpr std::uint32_t kPlaces = kStates;            ///< a record's bit at which the places within subsets begin
  static constexpr std::uint32_t kPlaceBits = 3;

  LloydLayout layout;
  std::size_t dim;
  float levels[4][kSubset];      ///< by subset
  float thresholds[4][kSubset];  ///< [1..]: between a level of the subset and the one before it
  /// [dim] by step of the path, as x: bit s, whether the best way into state s forgot a set bit; then the place of the nearest
  /// level within each subset.
  std::uint32_t* HWY_RESTRICT records;
  const float* HWY_RESTRICT x = nullptr;  ///< of one group of lanes: number i at x[i * kLanes]
  LaneVec to_units = hn::Zero(LaneTag());

  HWY_INLINE TrellisSearch(const TrellisTable& table, LloydLayout rows_layout, std::size_t head_dim, std::uint32_t* scratch)
      : layout(rows_layout), dim(head_dim), records(scratch) {
    for (std::uint32_t subset = 0; subset < 4; ++subset) {
      for (std::uint32_t i = 0; i < kSubset; ++i) {
        const std::uint32_t number = 4 * i + subset;
        levels[subset][i] = static_cast<float>(table.Level(number));
        thresholds[subset][i] = i == 0 ? 0.0f : static_cast<float>(table.Level(number) + table.Level(number - 4)) * 0.5f;
      }
    }
  }

  /// Errors so far of the best paths into each state.
  struct Paths {
    LaneVec error[kStates];
  };

  /// One step on from `from`.
  HWY_INLINE void Step(std::size_t step, Paths& paths) const {
    const LaneTag d;
    const LaneTagU du;
    const LaneVec z = hn::Mul(hn::Load(d, x + TrellisDimAt(layout, dim, step) * kLanes), to_units);
    hn::Vec<LaneTagU> record = hn::Zero(du);
    LaneVec errors[4];
#pragma GCC unroll 4
    for (std::uint32_t subset = 0; subset < 4; ++subset) {
      LaneVec level = hn::Set(d, levels[subset][0]);
      hn::Vec<LaneTagU> place = hn::Zero(du);
#pragma GCC unroll 8
      for (std::uint32_t i = 1; i < kSubset; ++i) {
        const auto above = hn::Ge(z, hn::Set(d, thresholds[subset][i]));
        level = hn::IfThenElse(above, hn::Set(d, levels[subset][i]), level);
        place = hn::Sub(place, hn::VecFromMask(du, hn::RebindMask(du, above)));
      }
      const LaneVec error = hn::Sub(z, level);
      errors[subset] = hn::Mul(error, error);
      record = hn::Or(record, hn::ShiftLeftSame(place, static_cast<int>(kPlaces + kPlaceBits * subset)));
    }
    Paths next;
#pragma GCC unroll 8
    for (std::uint32_t s = 0; s < kStates; ++s) {
      const std::uint32_t z0 = s >> 2, z1 = (s ^ s >> 1) & 1u;
      const LaneVec clear = hn::Add(paths.error[s >> 1], errors[2 * z1 + z0]);
      const LaneVec set = hn::Add(paths.error[s >> 1 | kStates / 2], errors[2 * (z1 ^ 1u) + z0]);
      const auto is_set = hn::RebindMask(du, hn::Lt(set, clear));
      next.error[s] = hn::Min(set, clear);
      record = hn::Or(record, hn::IfThenElseZero(is_set, hn::Set(du, 1u << s)));
    }
    paths = next;
    hn::Store(record, du, records + step * kLanes);
  }

  struct Code {
    hn::Vec<LaneTagU> code, level;
  };

  /// Takes the step back into `state` and leaves there the state before it.
  static HWY_INLINE Code StepBack(hn::Vec<LaneTagU> record, hn::Vec<LaneTagU>& state) {
    const LaneTagU du;
    const auto one = hn::Set(du, 1u);
    const auto forgotten = hn::And(hn::Shr(record, state), one);
    const auto z0 = hn::ShiftRight<2>(state);
    const auto z1 = hn::And(hn::Xor(hn::Xor(state, hn::ShiftRight<1>(state)), forgotten), one);
    const auto subset = hn::Or(hn::ShiftLeft<1>(z1), z0);
    const auto at = hn::Add(hn::Add(subset, hn::ShiftLeft<1>(subset)), hn::Set(du, kPlaces));
    const auto place = hn::And(hn::Shr(record, at), hn::Set(du, (1u << kPlaceBits) - 1u));
    const Code code{hn::Or(hn::ShiftLeft<1>(place), hn::And(state, one)), hn::Or(hn::ShiftLeft<2>(place), subset)};
    state = hn::Or(hn::ShiftRight<1>(state), hn::ShiftLeft<2>(forgotten));
    return code;
  }

  /// The state in which the ring begins and ends: that of the best path through the steps around it.
  HWY_INLINE hn::Vec<LaneTagU> CutState() const {
    const LaneTag d;
    const LaneTagU du;
    Paths paths;
    for (LaneVec& error : paths.error) error = hn::Zero(d);
    for (std::size_t step = dim - kTrellisCut; step < dim; ++step) Step(step, paths);
    for (std::size_t step = 0; step < kTrellisCut; ++step) Step(step, paths);
    LaneVec least = paths.error[0];
    auto state = hn::Zero(du);
    for (std::uint32_t s = 1; s < kStates; ++s) {
      const auto less = hn::Lt(paths.error[s], least);
      least = hn::Min(paths.error[s], least);
      state = hn::IfThenElse(hn::RebindMask(du, less), hn::Set(du, s), state);
    }
    for (std::size_t step = kTrellisCut; step-- > 0;) StepBack(hn::Load(du, records + step * kLanes), state);
    return state;
  }

  /// Codes and level numbers of the best ring: number 4 g + j in byte j of codes[g * kLanes] and numbers[g * kLanes].
  HWY_INLINE void Run(std::uint32_t* HWY_RESTRICT codes, std::uint32_t* HWY_RESTRICT numbers) const {
    const LaneTag d;
    const LaneTagU du;
    auto state = CutState();
    Paths paths;
    for (std::uint32_t s = 0; s < kStates; ++s) {
      const auto begins = hn::RebindMask(d, hn::Eq(state, hn::Set(du, s)));
      paths.error[s] = hn::IfThenElse(begins, hn::Zero(d), hn::Set(d, 1e30f));
    }
    for (std::size_t step = 0; step < dim; ++step) Step(step, paths);
    for (std::size_t g = 0; g < dim / 4; ++g) {
      hn::Store(hn::Zero(du), du, codes + g * kLanes);
      hn::Store(hn::Zero(du), du, numbers + g * kLanes);
    }
    for (std::size_t step = dim; step-- > 0;) {
      const Code code = StepBack(hn::Load(du, records + step * kLanes), state);
      const std::size_t at = TrellisDimAt(layout, dim, step), word = at / 4 * kLanes;
      const int shift = static_cast<int>(at % 4 * 8);
      hn::Store(hn::Or(hn::Load(du, codes + word), hn::ShiftLeftSame(code.code, shift)), du, codes + word);
      hn::Store(hn::Or(hn::Load(du, numbers + word), hn::ShiftLeftSame(code.level, shift)), du, numbers + word);
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
