// Scalar twin of sixteen_sums-inl.h.
#pragma once

#include <cstddef>

namespace kvant::kernels::reference {

/// The sum of term(0) to term(count - 1).
template <class Term>
float SixteenSums(std::size_t count, const Term& term) {
  float sums[16] = {};
  for (std::size_t i = 0; i < count; ++i) sums[i % 16] += term(i);
  for (std::size_t half = 8; half > 0; half /= 2) {
    for (std::size_t k = 0; k < half; ++k) sums[k] += sums[k + half];
  }
  return sums[0];
}

}  // namespace kvant::kernels::reference
