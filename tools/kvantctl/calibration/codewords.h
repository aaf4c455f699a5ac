// Codewords that RoPE can turn: what the codec `commvq` is made from (CommVQ, arXiv 2506.18879).
#pragma once

#include <Eigen/Core>
#include <complex>
#include <cstddef>
#include <vector>

namespace kvant::tools {

/// Keys before RoPE, [tokens, pairs], a pair that RoPE turns as a complex number.
using ComplexRows = Eigen::Matrix<std::complex<double>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Stages of `commvq` at so many bits per number.
[[nodiscard]] constexpr std::size_t StagesFor(std::size_t bits, std::size_t head_dim) { return (bits * head_dim + 6) / 12; }

/// 64 codewords [64, pairs] for each stage, of rows of norm 1. A code (a, b) of a stage stands for C[a] + i C[b]. Stages are
/// trained one after the other on what those before have left, by k-means with two assignments: each row takes the best of
/// 4096 sums, then all codewords solve one least-squares problem. Paper and codec have the same greedy encoder, so rows are
/// left as they will be. The same rows give the same words.
[[nodiscard]] std::vector<ComplexRows> TrainCodewords(const ComplexRows& rows, std::size_t stages);

/// |k - k'|^2 / |k|^2 of that encoder, the mean over rows, with the scale that leaves least.
[[nodiscard]] double CodewordError(const ComplexRows& rows, const std::vector<ComplexRows>& stages);

}  // namespace kvant::tools
