#include "tools/kvantctl/calibration/choices.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <utility>

#include "quantizers/plan.h"
#include "quantizers/registry.h"
#include "tools/kvantctl/calibration/allocation.h"
#include "tools/kvantctl/rows/attention_loss.h"
#include "tools/kvantctl/rows/rows_plan.h"

namespace kvant::tools {
namespace {

using quantizers::Plan;
using quantizers::TensorType;

/// A codec on its way to be a choice.
struct Trial {
  std::string codec;
  std::array<double, kSides> bits{};
  std::unique_ptr<const Plan> plan;
  std::array<std::vector<double>, kSides> losses;
};

template <typename T>
void Append(std::vector<std::byte>& bytes, T number) {
  const auto more = std::as_bytes(std::span(&number, 1));
  bytes.insert(bytes.end(), more.begin(), more.end());
}

/// Specs of keys and values of one unit pair.
using Pair = std::pair<std::string, std::string>;

Pair PairAt(const Choices& choices, const Chosen& chosen, std::size_t unit) {
  return {choices.codecs[chosen[0][unit]], choices.codecs[chosen[1][unit]]};
}

}  // namespace

Result<Choices> MeasureChoices(const RowsFile& file, std::vector<std::string> codecs, const std::vector<std::byte>& artifact,
                               std::size_t positions, const std::function<void()>& step) {
  const RowsShape shape = MiddleContext(file.shape());
  const quantizers::Registry registry = quantizers::Registry::Builtin();
  std::vector<Trial> trials;
  for (std::string& codec : codecs) {
    auto plan = PlanForRows(registry, shape, codec, artifact);
    if (!plan) return std::move(plan).error();
    const std::array<double, kSides> bits{(*plan)->bits_per_element(quantizers::Side::kKeys),
                                          (*plan)->bits_per_element(quantizers::Side::kValues)};
    trials.push_back({std::move(codec), bits, *std::move(plan), {}});
  }
  std::ranges::stable_sort(trials, {}, [](const Trial& trial) { return trial.bits[0] + trial.bits[1]; });
  for (std::size_t i = 1; i < trials.size(); ++i) {
    for (std::size_t side = 0; side < kSides; ++side) {
      if (trials[i].bits[side] > trials[i - 1].bits[side]) continue;
      return Error{ErrorCode::kInvalidArgument, "candidates " + trials[i - 1].codec + " and " + trials[i].codec +
                                                    ": the one that takes more bits must take more of both keys and values"};
    }
  }
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    auto rows = file.Read(layer);
    if (!rows) return std::move(rows).error();
    const LayerRows context = MiddleContext(file.shape(), *rows);
    for (Trial& trial : trials) {
      const auto loss = MeasureLayer(*trial.plan, layer, shape, context, positions);
      if (!loss)
        return Error{loss.error().code, trial.codec + ", layer " + std::to_string(layer) + ": " + loss.error().message};
      for (const HeadLoss& head : loss->heads) {
        trial.losses[0].push_back(head.keys);
        trial.losses[1].push_back(head.values);
      }
      step();
    }
  }
  Choices choices{shape.layers, shape.kv_heads, {}, {}, {}};
  for (Trial& trial : trials) {
    choices.codecs.push_back(std::move(trial.codec));
    choices.bits.push_back(trial.bits);
    choices.losses.push_back(std::move(trial.losses));
  }
  return choices;
}

std::vector<CalibratedTensor> TensorsOf(const Choices& choices) {
  const std::size_t codecs = choices.codecs.size();
  CalibratedTensor names{"allocation.codecs", TensorType::kU8, {}, {}};
  CalibratedTensor bits{"allocation.bits", TensorType::kF32, {codecs, kSides}, {}};
  CalibratedTensor losses{"allocation.losses", TensorType::kF32, {codecs, kSides, choices.layers, choices.kv_heads}, {}};
  for (std::size_t c = 0; c < codecs; ++c) {
    if (c > 0) names.bytes.push_back(std::byte{'\n'});
    for (const char letter : choices.codecs[c]) names.bytes.push_back(static_cast<std::byte>(letter));
    for (std::size_t side = 0; side < kSides; ++side) {
      Append(bits.bytes, static_cast<float>(choices.bits[c][side]));
      for (const double loss : choices.losses[c][side]) Append(losses.bytes, static_cast<float>(loss));
    }
  }
  names.shape = {names.bytes.size()};
  return {std::move(names), std::move(bits), std::move(losses)};
}

Result<Chosen> Fill(const Choices& choices, double target) {
  const std::size_t units = choices.layers * choices.kv_heads;
  const double least = (choices.bits[0][0] + choices.bits[0][1]) / 2;
  if (target < least * (1 - 1e-12)) {
    return Error{ErrorCode::kOutOfRange, "allocate " + std::to_string(target) + " bits per number: the cheapest codec, " +
                                             choices.codecs[0] + ", takes " + std::to_string(least)};
  }
  std::vector<Units> groups;
  for (std::size_t side = 0; side < kSides; ++side) {
    Units group;
    for (const auto& bits : choices.bits) group.bits.push_back(bits[side]);
    for (std::size_t unit = 0; unit < units; ++unit) {
      group.costs.emplace_back();
      for (const auto& losses : choices.losses) group.costs.back().push_back(losses[side][unit]);
    }
    groups.push_back(std::move(group));
  }
  auto chosen = Allocate(groups, target * static_cast<double>(kSides * units));
  if (!chosen) return std::move(chosen).error();
  return Chosen{std::move((*chosen)[0]), std::move((*chosen)[1])};
}

std::array<double, kSides> MeanBits(const Choices& choices, const Chosen& chosen) {
  std::array<double, kSides> mean{};
  for (std::size_t side = 0; side < kSides; ++side) {
    for (const std::size_t choice : chosen[side]) mean[side] += choices.bits[choice][side];
    mean[side] /= static_cast<double>(chosen[side].size());
  }
  return mean;
}

CodecPlan PlanOf(const Choices& choices, const Chosen& chosen) {
  std::map<Pair, std::size_t> counts;
  for (std::size_t unit = 0; unit < chosen[0].size(); ++unit) ++counts[PairAt(choices, chosen, unit)];
  // The first in the order of their texts among the commonest.
  const Pair usual = std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; })->first;
  CodecPlan plan;
  plan.keys = usual.first;
  plan.values = usual.second;
  for (std::size_t layer = 0; layer < choices.layers; ++layer) {
    for (std::size_t first = 0; first < choices.kv_heads;) {
      const Pair pair = PairAt(choices, chosen, layer * choices.kv_heads + first);
      std::size_t end = first + 1;
      while (end < choices.kv_heads && PairAt(choices, chosen, layer * choices.kv_heads + end) == pair) ++end;
      if (pair != usual) {
        const auto at = static_cast<std::uint32_t>(layer);
        plan.overrides.push_back(
            {at, at, pair.first, pair.second, static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(end - 1)});
      }
      first = end;
    }
  }
  return plan;
}

}  // namespace kvant::tools
