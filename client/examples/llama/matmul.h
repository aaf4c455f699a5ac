// Matrix products, by Eigen, in the widest vectors of those compiled that the processor has.
#pragma once

#include <cstddef>

namespace kvant::examples {

/// Rows of `cols` adjacent numbers; row i starts i * stride after `data`. Non-owning.
struct ConstMatrixRef {
  const float* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;
};
struct MatrixRef {
  float* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;
};

/// out = a * b, out = a * transpose(b), out += a * transpose(b). `out` overlaps neither; the caller's shapes agree.
struct MatrixProducts {
  void (*multiply)(const ConstMatrixRef& a, const ConstMatrixRef& b, const MatrixRef& out);
  void (*multiply_transposed)(const ConstMatrixRef& a, const ConstMatrixRef& b, const MatrixRef& out);
  void (*add_multiply_transposed)(const ConstMatrixRef& a, const ConstMatrixRef& b, const MatrixRef& out);
};

/// Those for this processor.
const MatrixProducts& Products();

}  // namespace kvant::examples
