#include "client/examples/llama/rope.h"

#include <cmath>

namespace kvant::examples {

RopeTable::RopeTable(std::size_t first_position, std::size_t tokens, std::size_t dim, double theta)
    : cosines(tokens, dim / 2), sines(tokens, dim / 2) {
  for (std::size_t pair = 0; pair < dim / 2; ++pair) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(pair) / static_cast<double>(dim));
    for (std::size_t token = 0; token < tokens; ++token) {
      const double angle = static_cast<double>(first_position + token) * frequency;
      cosines(static_cast<Eigen::Index>(token), static_cast<Eigen::Index>(pair)) = static_cast<float>(std::cos(angle));
      sines(static_cast<Eigen::Index>(token), static_cast<Eigen::Index>(pair)) = static_cast<float>(std::sin(angle));
    }
  }
}

void RopeTable::Rotate(std::size_t token, const float* from, float* to) const {
  const auto half = static_cast<std::size_t>(cosines.cols());
  const float* cosine = cosines.data() + token * half;
  const float* sine = sines.data() + token * half;
  for (std::size_t i = 0; i < half; ++i) {
    const float a = from[i];
    const float b = from[i + half];
    to[i] = a * cosine[i] - b * sine[i];
    to[i + half] = b * cosine[i] + a * sine[i];
  }
}

}  // namespace kvant::examples
