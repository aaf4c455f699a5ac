// Scalar twin of trellis/encode.h: one row at a time, the same float operations in the same order, so its bytes are the stored
// ones. The search is written from the definition of the code (code.h), with tables of states instead of bit tricks.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <kvant/tensor.h>

#include "kernels/lloyd/reference/encode.h"
#include "kernels/trellis/encode.h"

namespace kvant::kernels::reference {

/// Paths through numbers z in the order of the path.
class TrellisPaths {
 public:
  TrellisPaths(const TrellisTable& table, const std::vector<float>& z) : table_(table), z_(z) {}

  /// The codes of the best ring.
  [[nodiscard]] std::vector<std::uint32_t> Ring() const {
    const std::size_t n = z_.size();
    std::vector<std::size_t> around;
    for (std::size_t i = 0; i < 2 * kTrellisCut; ++i) around.push_back((n - kTrellisCut + i) % n);
    const Found cut = Best(around, {});
    const std::uint32_t state = cut.states[kTrellisCut];
    std::vector<std::size_t> all;
    for (std::size_t i = 0; i < n; ++i) all.push_back(i);
    return Best(all, std::vector{state}).codes;
  }

 private:
  struct Found {
    std::vector<std::uint32_t> codes, states;  ///< states[i]: before code i
  };

  /// Along `steps`; begins and ends in any state, or in `fixed`. Of equal errors the way from the state without its oldest bit
  /// wins, and the lowest last state.
  [[nodiscard]] Found Best(const std::vector<std::size_t>& steps, const std::vector<std::uint32_t>& fixed) const {
    struct Way {
      float error;
      std::uint32_t from, code;
    };
    std::vector<std::array<Way, kTrellisStates>> ways;
    std::array<float, kTrellisStates> errors{};
    if (!fixed.empty()) {
      errors.fill(1e30f);
      errors[fixed[0]] = 0;
    }
    for (const std::size_t step : steps) {
      std::array<Way, kTrellisStates> best{};
      for (Way& way : best) way.error = std::numeric_limits<float>::infinity();
      for (std::uint32_t from = 0; from < kTrellisStates; ++from) {
        for (std::uint32_t u = 0; u < 2; ++u) {
          const std::uint32_t to = (from << 1 | u) & (kTrellisStates - 1);
          const auto [code, error] = Nearest(z_[step], from, u);
          if (errors[from] + error < best[to].error) best[to] = {errors[from] + error, from, code};
        }
      }
      for (std::uint32_t s = 0; s < kTrellisStates; ++s) errors[s] = best[s].error;
      ways.push_back(best);
    }
    std::uint32_t state = 0;
    for (std::uint32_t s = 1; s < kTrellisStates; ++s) {
      if (errors[s] < errors[state]) state = s;
    }
    if (!fixed.empty()) state = fixed[0];
    Found found{std::vector<std::uint32_t>(steps.size()), std::vector<std::uint32_t>(steps.size() + 1)};
    found.states[steps.size()] = state;
    for (std::size_t i = steps.size(); i-- > 0;) {
      const Way& way = ways[i][found.states[i + 1]];
      found.codes[i] = way.code;
      found.states[i] = way.from;
    }
    return found;
  }

  struct Choice {
    std::uint32_t code;
    float error;
  };

  /// The best code with first bit u in that state, and its squared error; half way the higher level.
  [[nodiscard]] Choice Nearest(float z, std::uint32_t state, std::uint32_t u) const {
    const std::uint32_t before[] = {state & 1u, state >> 1 & 1u, state >> 2 & 1u};
    std::uint32_t code = u;
    for (std::uint32_t next = u + 2; next < 1u << table_.bits(); next += 2) {
      const int low = table_.Level(TrellisLevel(code, before)), high = table_.Level(TrellisLevel(next, before));
      if (z >= static_cast<float>(low + high) * 0.5f) code = next;
    }
    const float error = z - static_cast<float>(table_.Level(TrellisLevel(code, before)));
    return {code, error * error};
  }

  const TrellisTable& table_;
  const std::vector<float>& z_;
};

/// One row's codes ([dim], by dim) and scale; false if it cannot be stored.
inline bool TrellisEncodeRow(const TrellisTable& table, const LloydEncoding& how, std::vector<float> x, std::uint32_t* codes,
                             std::uint16_t* stored) {
  const std::size_t dim = x.size();
  const LloydEncodeConstants constants = LloydConstants(how);
  FourSums squares, dots, levels;
  for (std::size_t i = 0; i < dim; ++i) {
    if (how.mean != nullptr) x[i] -= how.mean[i];
    squares.Add(i, x[i] * x[i]);
  }
  const float square = squares.Total(), norm = std::sqrt(square);
  const float to_units = square < kLloydTinySquare ? 0.0f : constants.to_units / norm;
  reference::Hadamard(how.shape, how.rounds, how.signs, x.data());
  std::vector<float> z(dim);
  for (std::size_t step = 0; step < dim; ++step) z[step] = x[TrellisDimAt(how.layout, dim, step)] * to_units;
  const std::vector<std::uint32_t> ring = TrellisPaths(table, z).Ring();
  for (std::size_t i = 0; i < dim; ++i) {
    const std::size_t step = TrellisStepOf(how.layout, dim, i);
    const auto back = [&](std::size_t b) { return ring[(step + dim - b) % dim]; };
    const auto level = static_cast<float>(table.Level(TrellisLevel(ring[step], {back(1), back(2), back(3)})));
    dots.Add(i, z[step] * level);
    levels.Add(i, level * level);
    codes[i] = ring[step];
  }
  float scale = norm;
  if (how.scale == LloydScale::kNormCorrected) scale = norm * constants.corrected / std::sqrt(levels.Total());
  if (how.scale == LloydScale::kLeastSquares) scale = norm * dots.Total() / levels.Total();
  if (how.scale == LloydScale::kUnbiased) scale = norm * constants.unbiased / dots.Total();
  return StoreScale(scale, square, stored);
}

}  // namespace kvant::kernels::reference
