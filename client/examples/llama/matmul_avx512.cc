// Compiled for AVX-512 F and DQ.
#define Eigen EigenAvx512  // NOLINT: see matmul-inl.h
#define KVANT_PRODUCTS kProductsAvx512
#include "client/examples/llama/matmul-inl.h"
