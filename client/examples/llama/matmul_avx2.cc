// Compiled for AVX2 and FMA.
#define Eigen EigenAvx2  // NOLINT: see matmul-inl.h
#define KVANT_PRODUCTS kProductsAvx2
#include "client/examples/llama/matmul-inl.h"
