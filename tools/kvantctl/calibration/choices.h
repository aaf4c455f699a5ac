// Codecs for each layer, KV head and side, from what each of some codecs was measured to lose there (RateQuant, arXiv
// 2605.06675: D(b) is measured, not assumed).
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "tools/kvantctl/calibration/layer_tensors.h"
#include "tools/kvantctl/rows/rows_file.h"

namespace kvant::tools {

inline constexpr std::size_t kSides = 2;  // keys, values

/// What units may be coded with, cheapest first. A unit is one side of one KV head of one layer.
struct Choices {
  std::size_t layers = 0;
  std::size_t kv_heads = 0;
  std::vector<std::string> codecs;
  std::vector<std::array<double, kSides>> bits;                 ///< [codec]: per number, side information included
  std::vector<std::array<std::vector<double>, kSides>> losses;  ///< [codec][side][layer * kv_heads + head]
};

/// Tries `codecs` on the middle context of the rows: a unit loses |o - o'|^2 / |o|^2 of its layer's attention output, with it
/// alone coded. That weighs layers alike; `kvant calibrate` has a model at hand and weighs them by what its predictions lose.
/// Calls `step` after each layer of each codec. Errors name the codec.
[[nodiscard]] Result<Choices> MeasureChoices(const RowsFile& file, std::vector<std::string> codecs,
                                             const std::vector<std::byte>& artifact, std::size_t positions,
                                             const std::function<void()>& step);

/// As an artifact holds them, for target_bits of any size: "allocation.codecs" U8 [bytes], specs one a line,
/// "allocation.bits" [codecs, 2], "allocation.losses" [codecs, 2, layers, kv_heads].
[[nodiscard]] std::vector<CalibratedTensor> TensorsOf(const Choices& choices);

/// Index into `codecs` of each unit, [side][layer * kv_heads + head].
using Chosen = std::array<std::vector<std::size_t>, kSides>;

/// The least loss at `target` bits per number on average, or less. kOutOfRange below what the cheapest codec takes.
[[nodiscard]] Result<Chosen> Fill(const Choices& choices, double target);

/// Bits per number of keys, of values, on average.
[[nodiscard]] std::array<double, kSides> MeanBits(const Choices& choices, const Chosen& chosen);

/// The commonest pair of codecs as default, and overrides for the rest.
[[nodiscard]] CodecPlan PlanOf(const Choices& choices, const Chosen& chosen);

}  // namespace kvant::tools
