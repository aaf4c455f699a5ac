// Scalar twin of the polar kernels: one row at a time, level by level, the same float operations in the same order, so its
// codes and scores are the kernels'.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/polar/encode.h"
#include "kernels/polar/layout.h"
#include "kernels/polar/table.h"
#include "kernels/rotation/reference/hadamard.h"
#include "kernels/ufloat16.h"

namespace kvant::kernels::reference {

/// A row as angles by level, from level 1 on, and radii.
struct PolarRow {
  std::vector<std::vector<std::uint32_t>> codes;
  std::vector<std::uint16_t> radii;
};

inline std::uint32_t Beyond(const PolarAngles& table, float x, float y) {
  std::uint32_t count = 0;
  for (std::size_t i = 0; i < table.boundaries; ++i) {
    if (y * table.boundary_cosines[i] > x * table.boundary_sines[i]) ++count;
  }
  return count;
}

inline std::uint32_t PartOfCircle(const PolarAngles& circle, float x, float y) {
  const std::uint32_t part = Beyond(circle, std::fabs(x), std::fabs(y)), half = circle.count / 2;
  if (y < 0) return x < 0 ? half + part : circle.count - 1 - part;
  return x < 0 ? half - 1 - part : part;
}

/// The codes of a row; false if it has no finite norm that ufloat16 holds.
inline bool PolarEncodeRow(const PolarEncoding& how, std::vector<float> x, PolarRow& row) {
  const PolarForm& form = how.form;
  float sums[4] = {};
  for (std::size_t i = 0; i < form.dim; ++i) sums[i % 4] += x[i] * x[i];
  const float square = (sums[0] + sums[1]) + (sums[2] + sums[3]), norm = std::sqrt(square);
  const bool tiny = square < kPolarTinySquare;
  reference::Hadamard(how.map.shape, how.map.rounds, how.map.signs, x.data());
  const float to_unit = tiny ? 0.0F : (1.0F / static_cast<float>(how.map.shape.gain(how.map.rounds))) / norm;
  row = {};
  std::vector<float> norms(form.pairs()), dots(form.pairs());
  row.codes.emplace_back();
  const PolarAngles& circle = PolarCircle(form.first);
  for (std::size_t j = 0; j < form.pairs(); ++j) {
    const float a = x[2 * j] * to_unit, b = x[2 * j + 1] * to_unit;
    const std::uint32_t part = PartOfCircle(circle, a, b);
    row.codes[0].push_back(part);
    norms[j] = std::sqrt(a * a + b * b);
    dots[j] = a * circle.cosines[part] + b * circle.sines[part];
  }
  for (std::uint32_t level = 2; level <= form.levels(); ++level) {
    const PolarAngles& table = PolarQuarter(level, form.others);
    row.codes.emplace_back();
    for (std::size_t j = 0; j < norms.size() / 2; ++j) {
      const float a = norms[2 * j], b = norms[2 * j + 1];
      const std::uint32_t code = Beyond(table, a, b);
      row.codes.back().push_back(code);
      dots[j] = dots[2 * j] * table.cosines[code] + dots[2 * j + 1] * table.sines[code];
      norms[j] = std::sqrt(a * a + b * b);
    }
    norms.resize(norms.size() / 2);
  }
  if (!(norm < kUfloat16Overflow)) return false;
  for (std::size_t g = 0; g < form.radii(); ++g) {
    float radius = norm * norms[g];
    if (how.radius == PolarRadius::kUnbiased) radius = radius * (norms[g] / dots[g]);
    if (tiny || norms[g] == 0.0F) radius = 0.0F;
    if (!(radius < kUfloat16Overflow)) return false;
    row.radii.push_back(FloatToUfloat16(radius));
  }
  return true;
}

/// The row that a block holds for a token.
inline PolarRow PolarRowAt(const PolarForm& form, const std::uint8_t* block, std::size_t tokens, std::size_t token) {
  PolarRow row;
  row.codes.resize(form.levels());
  const std::uint8_t* tile = block + token / kPolarTile * form.tile_bytes();
  std::size_t position = 0;
  for (std::size_t pair = 0; pair < form.pairs(); ++pair) {
    row.codes[0].push_back(PolarCodeAt(form, tile, token % kPolarTile, position, form.first));
    position += form.first;
    for (std::size_t folded = pair + 1, level = 2; level <= form.levels() && folded % 2 == 0; folded /= 2, ++level) {
      row.codes[level - 1].push_back(PolarCodeAt(form, tile, token % kPolarTile, position, form.others));
      position += form.others;
    }
  }
  for (std::size_t g = 0; g < form.radii(); ++g) {
    std::uint16_t radius;
    std::memcpy(&radius, block + form.codes_bytes(tokens) + (g * tokens + token) * sizeof(radius), sizeof(radius));
    row.radii.push_back(radius);
  }
  return row;
}

/// Numbers under angles and radii, unfolded from the top: 2 numbers for each angle of the first of `angles`.
inline std::vector<double> PolarUnfold(const std::vector<std::vector<double>>& angles, std::vector<double> numbers) {
  for (std::size_t level = angles.size(); level-- > 0;) {
    std::vector<double> below;
    for (std::size_t j = 0; j < numbers.size(); ++j) {
      below.push_back(numbers[j] * std::cos(angles[level][j]));
      below.push_back(numbers[j] * std::sin(angles[level][j]));
    }
    numbers = std::move(below);
  }
  return numbers;
}

/// A row as it reads back, rotated.
inline std::vector<double> PolarDecode(const PolarForm& form, const PolarRow& row) {
  std::vector<std::vector<double>> angles;
  for (std::uint32_t level = 1; level <= form.levels(); ++level) {
    const PolarAngles& table = level == 1 ? PolarCircle(form.first) : PolarQuarter(level, form.others);
    angles.emplace_back();
    for (const std::uint32_t code : row.codes[level - 1]) angles.back().push_back(table.angles[code]);
  }
  return PolarUnfold(angles, {[&] {
                       std::vector<double> radii;
                       for (const std::uint16_t radius : row.radii)
                         radii.push_back(static_cast<double>(Ufloat16ToFloat(radius)));
                       return radii;
                     }()});
}

/// The score of a rotated query that `gain` has grown, in floats, as the kernels compute it.
inline float PolarScoreRow(const PolarForm& form, const PolarRow& row, const std::vector<float>& query, double gain) {
  const auto to_unit = static_cast<float>(1.0 / gain);
  const PolarAngles& circle = PolarCircle(form.first);
  std::vector<float> folded(form.pairs());
  for (std::size_t j = 0; j < form.pairs(); ++j) {
    const std::uint32_t code = row.codes[0][j];
    folded[j] = query[2 * j] * to_unit * circle.cosines[code] + query[2 * j + 1] * to_unit * circle.sines[code];
  }
  for (std::uint32_t level = 2; level <= form.levels(); ++level) {
    const PolarAngles& table = PolarQuarter(level, form.others);
    for (std::size_t j = 0; j < folded.size() / 2; ++j) {
      const std::uint32_t code = row.codes[level - 1][j];
      folded[j] = folded[2 * j] * table.cosines[code] + folded[2 * j + 1] * table.sines[code];
    }
    folded.resize(folded.size() / 2);
  }
  if (form.full) return folded[0] * Ufloat16ToFloat(row.radii[0]);
  float sum = 0.0F;
  for (std::size_t g = 0; g < form.radii(); ++g) sum += folded[g] * Ufloat16ToFloat(row.radii[g]);
  return sum;
}

}  // namespace kvant::kernels::reference
