#include "tools/kvantctl/calibration/layer_tensors.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <span>
#include <utility>

#include "tools/kvantctl/calibration/codebook.h"
#include "tools/kvantctl/calibration/codewords.h"
#include "tools/kvantctl/calibration/gauge.h"
#include "tools/kvantctl/calibration/head_rows.h"
#include "tools/kvantctl/calibration/moments.h"
#include "tools/kvantctl/calibration/spectral.h"
#include "tools/kvantctl/calibration/turns.h"

namespace kvant::tools {
namespace {

using Eigen::Index;
using quantizers::TensorType;

constexpr std::size_t kSampleTokens = 1024;  // that codebooks are made of, of one context

/// Tensors [kv_heads, ...], head by head.
class Tensors {
 public:
  /// `shape` of one head. Every head adds the same names.
  void Add(const std::string& name, std::vector<std::size_t> shape, const Matrix& numbers) {
    CalibratedTensor& tensor = Of(name, TensorType::kF32, std::move(shape));
    for (Index row = 0; row < numbers.rows(); ++row) {
      for (Index column = 0; column < numbers.cols(); ++column) Append(tensor, static_cast<float>(numbers(row, column)));
    }
  }
  void Add(const std::string& name, const std::vector<std::uint8_t>& numbers) {
    CalibratedTensor& tensor = Of(name, TensorType::kU8, {numbers.size()});
    for (const std::uint8_t number : numbers) Append(tensor, number);
  }

  [[nodiscard]] std::vector<CalibratedTensor> Take(const std::string& prefix, std::size_t heads) {
    for (CalibratedTensor& tensor : tensors_) {
      tensor.name = prefix + tensor.name;
      tensor.shape.insert(tensor.shape.begin(), heads);
    }
    return std::move(tensors_);
  }

 private:
  template <typename T>
  static void Append(CalibratedTensor& tensor, T number) {
    const auto bytes = std::as_bytes(std::span(&number, 1));
    tensor.bytes.insert(tensor.bytes.end(), bytes.begin(), bytes.end());
  }
  CalibratedTensor& Of(const std::string& name, TensorType type, std::vector<std::size_t> shape) {
    const auto found = std::ranges::find(tensors_, name, &CalibratedTensor::name);
    if (found != tensors_.end()) return *found;
    return tensors_.emplace_back(CalibratedTensor{name, type, std::move(shape), {}});
  }

  std::vector<CalibratedTensor> tensors_;
};

/// The first tokens of a context in the middle.
Rows Sample(const Rows& rows, std::size_t window) {
  const auto tokens = static_cast<std::size_t>(rows.rows());
  const std::size_t context = std::min(window, tokens), first = tokens / context / 2 * context;
  const std::size_t count = std::min(kSampleTokens, context);
  return {rows.data() + static_cast<Index>(first) * rows.cols(), static_cast<Index>(count), rows.cols()};
}

/// Without the sinks of each context.
ComplexRows BodyOf(const Matrix& plain, const Turns& turns, std::size_t window) {
  const auto tokens = static_cast<std::size_t>(plain.rows());
  ComplexRows body(plain.rows(), static_cast<Index>(turns.real().size()));
  Index count = 0;
  for (std::size_t token = 0; token < tokens; ++token) {
    if (token % window < kSinkTokens) continue;
    const auto row = static_cast<Index>(token);
    for (std::size_t p = 0; p < turns.real().size(); ++p) {
      body(count, static_cast<Index>(p)) = {plain(row, turns.real()[p]), plain(row, turns.imaginary()[p])};
    }
    ++count;
  }
  return body.topRows(count);
}

/// Keys before RoPE: what they have in common, gains of pairs, codewords.
void AddTurned(Tensors& tensors, const HeadRows& rows, const HeadMoments& moments, const Turns& turns, std::size_t window,
               std::size_t stages) {
  const auto dim = static_cast<std::size_t>(rows.keys.cols());
  const Matrix plain = turns.Undone(rows.keys, window);
  const ComplexRows body = BodyOf(plain, turns, window);
  Eigen::RowVectorXd bias(rows.keys.cols());
  for (std::size_t p = 0; p < turns.real().size(); ++p) {
    const std::complex<double> mean = body.col(static_cast<Index>(p)).mean();
    bias(turns.real()[p]) = mean.real();
    bias(turns.imaginary()[p]) = mean.imag();
  }
  tensors.Add("keys.bias", {dim}, bias);
  tensors.Add("keys.pair_gains", {dim},
              PairGains(moments.key_spread.diagonal().transpose(), moments.query_moment.diagonal().transpose(), turns));
  if (stages == 0) return;
  Matrix words(0, static_cast<Index>(dim / 2));
  for (const ComplexRows& stage : TrainCodewords(body, stages)) {
    for (Index word = 0; word < stage.rows(); ++word) {
      words.conservativeResize(words.rows() + 2, Eigen::NoChange);
      words.row(words.rows() - 2) = stage.row(word).real();
      words.row(words.rows() - 1) = stage.row(word).imag();
    }
  }
  tensors.Add("keys.commvq", {stages, static_cast<std::size_t>(words.rows()) / stages / 2, 2, dim / 2}, words);
}

}  // namespace

std::vector<CalibratedTensor> CalibrateLayer(std::size_t layer, const RowsShape& shape, const LayerRows& rows,
                                             const RowsRope* rope, const std::optional<std::vector<float>>& projection,
                                             const CalibrationOptions& options) {
  const std::size_t dim = shape.head_dim;
  const std::optional<Turns> turns = rope == nullptr ? std::nullopt : std::optional<Turns>(std::in_place, *rope, dim);
  const std::size_t stages = options.commvq_bits == 0 ? 0 : StagesFor(options.commvq_bits, dim);
  Tensors tensors;
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    const HeadRows of = RowsOfHead(shape, rows, head);
    const HeadMoments moments = MomentsOf(of, shape.window);
    tensors.Add("keys.mean", {dim}, moments.key_mean);
    tensors.Add("values.mean", {dim}, moments.value_mean);
    tensors.Add("keys.outliers", {dim}, moments.key_square);
    tensors.Add("values.outliers", {dim}, moments.value_square);
    // A channel that is always 0 keeps its size.
    const Eigen::RowVectorXd smooth =
        moments.largest_key.unaryExpr([](double most) { return most > 0 ? std::sqrt(most) : 1.0; });
    tensors.Add("keys.smooth", {dim}, smooth);
    const Gauge gauge = GaugeOf(moments.key_spread, moments.query_moment);
    tensors.Add("keys.gauge", {dim, dim}, gauge.transform);
    tensors.Add("keys.gauge_inverse", {dim, dim}, gauge.inverse);
    if (turns) AddTurned(tensors, of, moments, *turns, shape.window, stages);
    for (const bool keys : {true, false}) {
      const std::string side = keys ? "keys." : "values.";
      const Rows sample = Sample(keys ? of.keys : of.values, shape.window);
      const Eigen::RowVectorXd even = Eigen::RowVectorXd::Ones(static_cast<Index>(dim));
      tensors.Add(side + "codebook", {256, 4}, CodebookOf(PartsOf(sample, keys ? smooth : even, layer)));
      const Directions directions = DirectionsOf(keys ? moments.key_covariance : moments.value_covariance);
      // A direction's error counts as much as what it is multiplied with is large there.
      Matrix weighing = Matrix::Identity(static_cast<Index>(dim), static_cast<Index>(dim));
      if (keys) {
        weighing = moments.query_moment;
      } else if (projection) {
        weighing = Eigen::Map<const Eigen::MatrixXf>(projection->data() + head * dim * dim, static_cast<Index>(dim),
                                                     static_cast<Index>(dim))
                       .cast<double>();
      }
      const Eigen::VectorXd weights =
          ((directions.basis * weighing).cwiseProduct(directions.basis)).rowwise().sum().cwiseMax(0.0);
      tensors.Add(side + "basis", {dim, dim}, directions.basis);
      tensors.Add(side + "deviation", {dim}, directions.deviations.transpose());
      tensors.Add(side + "bits", WaterFill(directions.deviations.cwiseAbs2().cwiseProduct(weights), options.map_bits));
    }
  }
  return tensors.Take("layers." + std::to_string(layer) + ".", shape.kv_heads);
}

}  // namespace kvant::tools
