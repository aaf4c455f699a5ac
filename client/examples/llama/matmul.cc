// Compiled for the baseline, as everything else; chooses.
#define KVANT_PRODUCTS kProductsBaseline
#include "client/examples/llama/matmul-inl.h"

namespace kvant::examples {

#if defined(__x86_64__)
extern const MatrixProducts kProductsAvx2;
#endif

const MatrixProducts& Products() {
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) return kProductsAvx2;
#endif
  return kProductsBaseline;
}

}  // namespace kvant::examples
