#include "tools/kvantctl/calibration/codewords.h"

#include <Eigen/Dense>
#include <algorithm>
#include <complex>
#include <limits>

#include "tools/kvantctl/calibration/kmeans.h"

namespace kvant::tools {
namespace {

using Complex = std::complex<double>;
using Eigen::Index;

constexpr Index kWords = 64;
constexpr int kRounds = 10;
constexpr double kShrinkage = 1.0;  // rows that pull each codeword towards 0: few rows say little of one
constexpr Index kChunk = 1024;      // rows whose products are held at a time

struct Code {
  Index a = 0;
  Index b = 0;
};

ComplexRows OfNormOne(ComplexRows rows) {
  for (Index i = 0; i < rows.rows(); ++i) {
    const double size = rows.row(i).norm();
    if (size > 0) rows.row(i) /= size;
  }
  return rows;
}

/// Half of what a row is, whichever of the two codewords takes it: k-means of rows over 1 + i, which C[a] + i C[a] is C[a]
/// times.
ComplexRows FirstWords(const ComplexRows& left) {
  const Index pairs = left.cols();
  Points real(left.rows(), 2 * pairs);
  real << left.real(), left.imag();
  const Points first = FarApart(real, kWords);
  Points centres(kWords, 2 * pairs);
  for (Index i = 0; i < kWords; ++i) centres.row(i) = first.row(i % first.rows());
  centres = KMeans(real, centres, 3);
  ComplexRows words(kWords, pairs);
  words.real() = centres.leftCols(pairs);
  words.imag() = centres.rightCols(pairs);
  return words / Complex(1, 1);
}

/// The sum C[a] + i C[b] that leaves the least of each row.
std::vector<Code> Codes(const ComplexRows& left, const ComplexRows& words) {
  const Eigen::VectorXd squares = words.rowwise().squaredNorm();
  const ComplexRows products = words.conjugate() * words.transpose();  // i times it: real part of <C[a], i C[b]>
  Points constant(kWords, kWords);                                     // |C[a] + i C[b]|^2
  for (Index a = 0; a < kWords; ++a) {
    for (Index b = 0; b < kWords; ++b) constant(a, b) = squares(a) + squares(b) - 2 * products(a, b).imag();
  }
  std::vector<Code> codes;
  codes.reserve(static_cast<std::size_t>(left.rows()));
  for (Index first = 0; first < left.rows(); first += kChunk) {
    // <x, C> and, as the imaginary part, <x, i C>.
    const ComplexRows with = left.middleRows(first, std::min(kChunk, left.rows() - first)) * words.adjoint();
    for (Index i = 0; i < with.rows(); ++i) {
      double least = std::numeric_limits<double>::infinity();
      Code code;
      for (Index a = 0; a < kWords; ++a) {
        Index b = 0;
        const double sum = (constant.row(a) - 2 * with.row(i).imag()).minCoeff(&b) - 2 * with(i, a).real();
        if (sum < least) {
          least = sum;
          code = {a, b};
        }
      }
      codes.push_back(code);
    }
  }
  return codes;
}

/// The codewords that leave least of all rows together, given the codes.
ComplexRows BestWords(const ComplexRows& left, const std::vector<Code>& codes) {
  constexpr Complex kI(0, 1);
  ComplexRows normal = kShrinkage * ComplexRows::Identity(kWords, kWords);
  ComplexRows sums = ComplexRows::Zero(kWords, left.cols());
  for (Index i = 0; i < left.rows(); ++i) {
    const auto [a, b] = codes[static_cast<std::size_t>(i)];
    normal(a, a) += 1.0;
    normal(b, b) += 1.0;
    normal(a, b) += kI;
    normal(b, a) -= kI;
    sums.row(a) += left.row(i);
    sums.row(b) -= kI * left.row(i);
  }
  return normal.llt().solve(sums);
}

void TakeOff(const std::vector<Code>& codes, const ComplexRows& words, ComplexRows& left) {
  for (Index i = 0; i < left.rows(); ++i) {
    const auto [a, b] = codes[static_cast<std::size_t>(i)];
    left.row(i) -= words.row(a) + Complex(0, 1) * words.row(b);
  }
}

}  // namespace

std::vector<ComplexRows> TrainCodewords(const ComplexRows& rows, std::size_t stages) {
  ComplexRows left = OfNormOne(rows);
  std::vector<ComplexRows> trained;
  for (std::size_t stage = 0; stage < stages; ++stage) {
    ComplexRows words = FirstWords(left);
    for (int round = 0; round < kRounds; ++round) words = BestWords(left, Codes(left, words));
    TakeOff(Codes(left, words), words, left);
    trained.push_back(std::move(words));
  }
  return trained;
}

double CodewordError(const ComplexRows& rows, const std::vector<ComplexRows>& stages) {
  const ComplexRows unit = OfNormOne(rows);
  ComplexRows left = unit;
  for (const ComplexRows& words : stages) TakeOff(Codes(left, words), words, left);
  double sum = 0;
  for (Index i = 0; i < unit.rows(); ++i) {
    const auto coded = (unit.row(i) - left.row(i)).eval();
    const double product = (coded.conjugate().array() * unit.row(i).array()).sum().real();
    const double square = coded.squaredNorm();
    sum += square > 0 ? 1 - product * product / square : 1.0;
  }
  return sum / static_cast<double>(unit.rows());
}

}  // namespace kvant::tools
