// The products for one instruction set. Each matmul_*.cc is compiled for its own and gives Eigen a namespace of its own first:
// Eigen's inline functions of two instruction sets must not meet under one name at link time.
// To be included once per such file, after the macro KVANT_PRODUCTS names the table.
#include <Eigen/Core>

#include "client/examples/llama/matmul.h"

namespace kvant::examples {
namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Stride = Eigen::OuterStride<Eigen::Dynamic>;
using ConstMap = Eigen::Map<const RowMajor, 0, Stride>;
using Map = Eigen::Map<RowMajor, 0, Stride>;

ConstMap View(const ConstMatrixRef& m) {
  return {m.data, static_cast<Eigen::Index>(m.rows), static_cast<Eigen::Index>(m.cols),
          Stride(static_cast<Eigen::Index>(m.stride))};
}
Map View(const MatrixRef& m) {
  return {m.data, static_cast<Eigen::Index>(m.rows), static_cast<Eigen::Index>(m.cols),
          Stride(static_cast<Eigen::Index>(m.stride))};
}

void Multiply(const ConstMatrixRef& a, const ConstMatrixRef& b, const MatrixRef& out) {
  View(out).noalias() = View(a) * View(b);
}
void MultiplyTransposed(const ConstMatrixRef& a, const ConstMatrixRef& b, const MatrixRef& out) {
  View(out).noalias() = View(a) * View(b).transpose();
}
void AddMultiplyTransposed(const ConstMatrixRef& a, const ConstMatrixRef& b, const MatrixRef& out) {
  View(out).noalias() += View(a) * View(b).transpose();
}

}  // namespace

extern const MatrixProducts KVANT_PRODUCTS;
const MatrixProducts KVANT_PRODUCTS = {Multiply, MultiplyTransposed, AddMultiplyTransposed};

}  // namespace kvant::examples
