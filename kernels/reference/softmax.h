// Scalar twin of kernels/softmax.h in double.
#pragma once

#include <cmath>

namespace kvant::kernels::reference {

inline double ExpShifted(float logit, float max) { return std::exp(static_cast<double>(logit) - static_cast<double>(max)); }

inline double SoftCap(double logit, double cap) { return cap * std::tanh(logit / cap); }

}  // namespace kvant::kernels::reference
