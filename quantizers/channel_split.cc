#include "quantizers/channel_split.h"

#include <cmath>
#include <cstring>
#include <numbers>

namespace kvant::quantizers {
namespace {

/// The x below which a share `p` of N(0, 1) lies, by bisection.
double NormalQuantile(double p) {
  double low = -10, high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle * std::numbers::sqrt2 / 2) < p ? low : high) = middle;
  }
  return low;
}

}  // namespace

void ChannelSplit::Order(const std::array<bool, kMaxDim>& is_hot) noexcept {
  std::size_t hot = 0, rest = hot_;
  for (std::size_t c = 0; c < dim_; ++c) channels_[is_hot[c] ? hot++ : rest++] = static_cast<std::uint16_t>(c);
}

ChannelSplit ChannelSplit::Largest(const float* energies, std::size_t dim, std::size_t hot) noexcept {
  ChannelSplit split(dim, hot);
  std::array<bool, kMaxDim> is_hot{};
  for (std::size_t taken = 0; taken < hot; ++taken) {
    std::size_t best = dim;
    float most = -1.0F;
    for (std::size_t c = 0; c < dim; ++c) {
      const float energy = energies[c] > 0.0F ? energies[c] : 0.0F;
      if (is_hot[c] || energy <= most) continue;
      best = c;
      most = energy;
    }
    is_hot[best] = true;  // there is one: hot < dim
  }
  split.Order(is_hot);
  return split;
}

void ChannelSplit::Store(std::byte* to) const noexcept {
  for (std::size_t i = 0; i < hot_; ++i) {
    if (dim_ > 256) {
      std::memcpy(to + 2 * i, &channels_[i], 2);
    } else {
      to[i] = static_cast<std::byte>(channels_[i]);
    }
  }
}

ChannelSplit ChannelSplit::Load(const std::byte* from, std::size_t dim, std::size_t hot) noexcept {
  ChannelSplit split(dim, hot);
  std::array<bool, kMaxDim> is_hot{};
  std::size_t marked = 0;
  for (std::size_t i = 0; i < hot; ++i) {
    std::uint16_t channel = 0;
    if (dim > 256) {
      std::memcpy(&channel, from + 2 * i, 2);
    } else {
      channel = std::to_integer<std::uint16_t>(from[i]);
    }
    if (channel >= dim || is_hot[channel]) continue;
    is_hot[channel] = true;
    ++marked;
  }
  for (std::size_t c = 0; marked < hot; ++c) {
    if (is_hot[c]) continue;
    is_hot[c] = true;
    ++marked;
  }
  split.Order(is_hot);
  return split;
}

void ChannelSplit::Take(const float* row, float* hot_part, float* rest_part) const noexcept {
  for (std::size_t i = 0; i < hot_; ++i) hot_part[i] = row[channels_[i]];
  for (std::size_t i = hot_; i < dim_; ++i) rest_part[i - hot_] = row[channels_[i]];
}

void ChannelSplit::Put(const float* hot_part, const float* rest_part, bool add, float* row) const noexcept {
  for (std::size_t i = 0; i < dim_; ++i) {
    const float number = i < hot_ ? hot_part[i] : rest_part[i - hot_];
    float& to = row[channels_[i]];
    to = add ? to + number : number;
  }
}

double LargestEnergy(std::size_t dim, std::size_t hot, std::size_t tokens) {
  // Order statistics at Blom's places of the chi-squared law, its quantiles by Wilson and Hilferty.
  const double spread = 2.0 / (9.0 * static_cast<double>(tokens));
  double sum = 0;
  for (std::size_t i = 0; i < hot; ++i) {
    const double share = (static_cast<double>(dim - i) - 0.375) / (static_cast<double>(dim) + 0.25);
    sum += std::pow(1 - spread + NormalQuantile(share) * std::sqrt(spread), 3);
  }
  return sum / static_cast<double>(hot);
}

}  // namespace kvant::quantizers
