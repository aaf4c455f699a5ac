#include "quantizers/calibrated_gauge.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <utility>

#include "quantizers/artifact.h"
#include "quantizers/rope_pairs.h"

namespace kvant::quantizers {
namespace {

std::string GaugeTensor(const CodecConfig& config, const char* what) {
  return "layers." + std::to_string(config.layer) + ".keys." + what;
}

/// Whether x S is x G in the order of the other axis, and x G S is x, for a vector x and every head: cheap, and no wrong tensor
/// passes.
Result<void> CheckInverse(const CodecConfig& config, std::span<const float> gauge, std::span<const float> inverse) {
  const std::size_t dim = config.head_dim;
  for (std::size_t head = 0; head < config.kv_heads; ++head) {
    const float* g = gauge.data() + head * dim * dim;
    const float* s = inverse.data() + head * dim * dim;
    for (const float* matrix : {g, s}) {
      float largest = 0.0f;
      for (std::size_t i = 0; i < dim * dim; ++i) largest = std::max(largest, std::fabs(matrix[i]));
      for (std::size_t i = 0; i < dim; ++i) {
        for (std::size_t j = 0; j < i; ++j) {
          if (!(std::fabs(matrix[i * dim + j] - matrix[j * dim + i]) <= 1e-4f * largest)) {
            return Error{ErrorCode::kInvalidArgument, GaugeTensor(config, matrix == g ? "gauge" : "gauge_inverse") +
                                                          " of KV head " + std::to_string(head) + " is not symmetric"};
          }
        }
      }
    }
    std::vector<double> once(dim), back(dim);
    double wrong = 0;
    for (std::size_t i = 0; i < dim; ++i) {
      for (std::size_t j = 0; j < dim; ++j) once[j] += (i % 2 == 0 ? 1.0 : -1.0) * static_cast<double>(g[i * dim + j]);
    }
    for (std::size_t i = 0; i < dim; ++i) {
      for (std::size_t j = 0; j < dim; ++j) back[j] += once[i] * static_cast<double>(s[i * dim + j]);
    }
    for (std::size_t j = 0; j < dim; ++j) wrong = std::max(wrong, std::fabs(back[j] - (j % 2 == 0 ? 1.0 : -1.0)));
    if (!(wrong <= 0.01)) {
      return Error{ErrorCode::kInvalidArgument, GaugeTensor(config, "gauge_inverse") + " of KV head " + std::to_string(head) +
                                                    " is not the inverse of " + GaugeTensor(config, "gauge")};
    }
  }
  return {};
}

/// A tensor that the gauge `kind` needs.
Result<std::span<const float>> FindTensor(const CodecConfig& config, const char* kind, const char* what,
                                          std::initializer_list<std::size_t> shape) {
  const std::string name = GaugeTensor(config, what), gauge = std::string("gauge=") + kind;
  if (config.artifact == nullptr) {
    return Error{ErrorCode::kInvalidArgument, gauge + " needs tensor " + name + ", but the plan has no artifact"};
  }
  auto found = config.artifact->Find(name, shape);
  if (!found) return Error{found.error().code, gauge + ": " + found.error().message};
  return found;
}

Result<void> CheckPairGains(const CodecConfig& config, std::span<const float> gains) {
  const auto places = PlanarPlaces(config.rope, config.head_dim);
  for (std::size_t head = 0; head < config.kv_heads; ++head) {
    const float* of = gains.data() + head * config.head_dim;
    const std::string where = GaugeTensor(config, "pair_gains") + " of KV head " + std::to_string(head);
    for (std::size_t d = 0; d < config.head_dim; ++d) {
      if (!(of[d] >= 1e-6F && of[d] <= 1e6F)) {
        return Error{ErrorCode::kInvalidArgument,
                     where + ", channel " + std::to_string(d) + ": " + std::to_string(of[d]) + " is not between 1e-6 and 1e6"};
      }
    }
    if (config.rope.pairing == RopePairing::kNone) continue;
    for (std::size_t p = 0; p < TurnedPairs(config.rope, config.head_dim); ++p) {
      if (of[places[p]] != of[places[config.head_dim / 2 + p]]) {
        return Error{ErrorCode::kInvalidArgument, where + " has two gains for channels " + std::to_string(places[p]) + " and " +
                                                      std::to_string(places[config.head_dim / 2 + p]) +
                                                      ", which RoPE turns as a pair"};
      }
    }
  }
  return {};
}

}  // namespace

Result<GaugeMatrices> FindGaugeMatrices(const CodecConfig& config) {
  const std::size_t heads = config.kv_heads, dim = config.head_dim;
  auto gauge = FindTensor(config, "matrix", "gauge", {heads, dim, dim});
  if (!gauge) return std::move(gauge).error();
  auto inverse = FindTensor(config, "matrix", "gauge_inverse", {heads, dim, dim});
  if (!inverse) return std::move(inverse).error();
  if (auto ok = CheckInverse(config, *gauge, *inverse); !ok) return std::move(ok).error();
  return GaugeMatrices{*gauge, *inverse};
}

Result<std::span<const float>> FindPairGains(const CodecConfig& config) {
  auto gains = FindTensor(config, "pair", "pair_gains", {config.kv_heads, config.head_dim});
  if (!gains) return gains;
  if (auto ok = CheckPairGains(config, *gains); !ok) return std::move(ok).error();
  return gains;
}

std::vector<ExampleTensor> ExamplePairGains(const CodecConfig& config) {
  const std::size_t dim = config.head_dim;
  const auto places = PlanarPlaces(config.rope, dim);
  std::vector<float> gains(config.kv_heads * dim);
  for (std::size_t head = 0; head < config.kv_heads; ++head) {
    for (std::size_t p = 0; p < dim / 2; ++p) {
      const float gain = 0.5F * static_cast<float>(1 + (p + head) % 5);
      gains[head * dim + places[p]] = gains[head * dim + places[dim / 2 + p]] = gain;
    }
  }
  return {{GaugeTensor(config, "pair_gains"), {config.kv_heads, dim}, std::move(gains)}};
}

std::vector<ExampleTensor> ExampleGauge(const CodecConfig& config) {
  const std::size_t dim = config.head_dim;
  std::vector<float> gauge(config.kv_heads * dim * dim), inverse(gauge.size());
  for (std::size_t head = 0; head < config.kv_heads; ++head) {
    // Pairs of channels mixed: [[a, b], [b, a]] and its inverse [[a, -b], [-b, a]] / (a a - b b).
    for (std::size_t i = 0; i < dim; i += 2) {
      const float a = 1.0F + static_cast<float>((i / 2 + head) % 4), b = 0.5F;
      const float det = a * a - b * b;
      const std::size_t at = head * dim * dim + i * dim + i;
      gauge[at] = gauge[at + dim + 1] = a;
      gauge[at + 1] = gauge[at + dim] = b;
      inverse[at] = inverse[at + dim + 1] = a / det;
      inverse[at + 1] = inverse[at + dim] = -b / det;
    }
  }
  const std::vector<std::size_t> shape{config.kv_heads, dim, dim};
  return {{GaugeTensor(config, "gauge"), shape, std::move(gauge)},
          {GaugeTensor(config, "gauge_inverse"), shape, std::move(inverse)}};
}

}  // namespace kvant::quantizers
