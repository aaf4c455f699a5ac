#include "client/examples/llama/rope.h"

#include <algorithm>
#include <cmath>

namespace kvant::examples {

RopeTable::RopeTable(std::size_t first_position, std::size_t tokens, const RopeFrequencies& frequencies)
    : cosines(tokens, frequencies.radians_per_token.size()), sines(tokens, frequencies.radians_per_token.size()) {
  for (std::size_t pair = 0; pair < frequencies.radians_per_token.size(); ++pair) {
    for (std::size_t token = 0; token < tokens; ++token) {
      const double angle = static_cast<double>(first_position + token) * frequencies.radians_per_token[pair];
      const auto row = static_cast<Eigen::Index>(token);
      const auto column = static_cast<Eigen::Index>(pair);
      cosines(row, column) = static_cast<float>(frequencies.attention_factor * std::cos(angle));
      sines(row, column) = static_cast<float>(frequencies.attention_factor * std::sin(angle));
    }
  }
}

void RopeTable::Rotate(std::size_t token, const float* from, std::size_t dim, float* to) const {
  const auto pairs = static_cast<std::size_t>(cosines.cols());
  const float* cosine = cosines.data() + token * pairs;
  const float* sine = sines.data() + token * pairs;
  for (std::size_t i = 0; i < pairs; ++i) {
    const float a = from[i];
    const float b = from[i + pairs];
    to[i] = a * cosine[i] - b * sine[i];
    to[i + pairs] = b * cosine[i] + a * sine[i];
  }
  if (to != from) std::copy(from + 2 * pairs, from + dim, to + 2 * pairs);
}

}  // namespace kvant::examples
