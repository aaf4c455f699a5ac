// vecinfer: rows in a calibrated codebook of 256 words of four numbers, keys smoothed first (VecInfer, arXiv 2510.06175):
// 2 bits per number and one 16-bit scale per row.
//
//   keys:   k' = Q diag(1/f) k, f the smooth factors of the channels (the paper: f_i = sqrt(max |k_i|) over calibration
//   tokens);
//           queries become q' = Q diag(f) q, so that <q', k'> = <q, k>.
//   values: v' = Q v.
//   x' -> z = x' * sqrt(dim) / |x'| -> the nearest word of each four numbers -> reads back as scale * word / sqrt(dim), turned
//   and unsmoothed.
//
// Where it differs from the paper, and why:
//  - A scale per row (unbiased for keys, of least squared error for values), so that the codebook fixes directions and shapes
//    only and no row is beyond it. It costs 16 bits.
//  - One codebook per KV head and side, shared by all sub-vectors; the paper leaves that open, and the published package shares
//    one among all heads. It is what lets codes meet queries as bytes (kernels/vector).
//  - Q is several rounds of random signs and Hadamard mixing (quantizers/rotation.h) instead of one round without signs, which
//    leaves rows of equal numbers as a single number. Values are rotated too, because one codebook serves all their
//    sub-vectors: channels of unlike size would each get the wrong words.
//  - Words are rounded to signed bytes, the largest number to 64: below 0.5 % of the error for words of normal rows. The
//  nearest
//    word is that of the rounded ones.
// After all this rows look normal, so gaussian_vq has the same error without calibration, wherever smoothing does not help.
//
// Tensors of the plan's artifact, for each layer L: "layers.<L>.keys.smooth" [kv_heads, head_dim], positive;
// "layers.<L>.keys.codebook" and "layers.<L>.values.codebook" [kv_heads, 256, 4], words of rows whose root mean square is 1
// (after smoothing and rotation). Without them the codec refuses. Codebooks in which word w + 128 is the negative of word w are
// scored faster.
//
// Block: as gaussian_vq: 2 + 16 / head_dim bits per element.
#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "quantizers/artifact.h"
#include "quantizers/codec.h"
#include "quantizers/vector_blocks.h"
#include "quantizers/vector_error.h"

namespace kvant::quantizers {
namespace {

using kernels::kVectorDims;
using kernels::kVectorWords;

constexpr std::string_view kName = "vecinfer";
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kLeastDim = 64;  // of smaller heads the codebook would take more memory than a plan makes room for
// What no codebook of rows whose root mean square is 1 comes near: one bit per number has 0.36.
constexpr double kWorstError = 0.5, kWorstScale = 2.0;
constexpr float kLeastFactor = 1e-6F, kLargestFactor = 1e6F;

std::string TensorName(const CodecConfig& config, const char* what) {
  return "layers." + std::to_string(config.layer) + (config.side == Side::kKeys ? ".keys." : ".values.") + what;
}

Error Refused(const CodecConfig& config, ErrorCode code, const std::string& why) {
  return Error{code, std::string(kName) + " layer " + std::to_string(config.layer) + ": " + why};
}

/// A tensor that the codec cannot do without.
Result<std::span<const float>> Needed(const CodecConfig& config, const char* what, std::initializer_list<std::size_t> shape) {
  const std::string name = TensorName(config, what);
  std::string dims;
  for (const std::size_t dim : shape) dims += (dims.empty() ? "[" : ", ") + std::to_string(dim);
  if (config.artifact == nullptr) {
    return Refused(config, ErrorCode::kInvalidArgument,
                   "needs the artifact tensor " + name + " " + dims + "], but the plan has no artifact");
  }
  auto found = config.artifact->Find(name, shape);
  if (!found) return Refused(config, found.error().code, "needs " + name + " " + dims + "]: " + found.error().message);
  return found;
}

Result<VectorChoices> Choices(const CodecConfig& config) {
  if (config.head_dim < kLeastDim) {
    return Refused(config, ErrorCode::kUnsupported, "head_dim " + std::to_string(config.head_dim) + " is below 64");
  }
  VectorChoices choices{.name = kName, .version = kVersion, .codebooks = {}, .smooth = {}};
  auto words = Needed(config, "codebook", {config.kv_heads, kVectorWords, kVectorDims});
  if (!words) return std::move(words).error();
  choices.codebooks.reserve(config.head_end - config.head_begin);
  for (std::uint32_t head = config.head_begin; head < config.head_end; ++head) {
    const auto own = words->subspan(head * kVectorWords * kVectorDims, kVectorWords * kVectorDims);
    const bool zero = std::ranges::all_of(own, [](float number) { return number == 0.0F; });
    const WordsFit fit = zero ? WordsFit{} : FitToNormal(choices.codebooks.emplace_back(kernels::RoundCodebook(own.data())));
    if (!(fit.error < kWorstError && fit.scale > 1 / kWorstScale && fit.scale < kWorstScale)) {
      return Refused(config, ErrorCode::kInvalidArgument,
                     TensorName(config, "codebook") + " of KV head " + std::to_string(head) +
                         " is not one of rows whose root mean square is 1: normal ones would have the error " +
                         std::to_string(fit.error) + ", with words times " + std::to_string(fit.scale));
    }
    choices.normal_error += fit.error / (config.head_end - config.head_begin);
  }
  if (config.side == Side::kValues) return choices;
  auto factors = Needed(config, "smooth", {config.kv_heads, config.head_dim});
  if (!factors) return std::move(factors).error();
  for (std::size_t i = 0; i < factors->size(); ++i) {
    const float factor = (*factors)[i];
    if (factor >= kLeastFactor && factor <= kLargestFactor) continue;
    return Refused(config, ErrorCode::kInvalidArgument,
                   TensorName(config, "smooth") + ": factor " + std::to_string(factor) + " of channel " +
                       std::to_string(i % config.head_dim) + " of KV head " + std::to_string(i / config.head_dim) +
                       " is not in 1e-6..1e6");
  }
  choices.smooth = *factors;
  return choices;
}

template <class Base, Result<std::unique_ptr<Base>> (*kMake)(const CodecConfig&, VectorChoices)>
Result<std::unique_ptr<Base>> MakeSide(const CodecConfig& config) {
  auto choices = Choices(config);
  if (!choices) return std::move(choices).error();
  return kMake(config, *std::move(choices));
}

/// The Gaussian words in another order for each head, in which opposite words of keys stand where they are scored faster and
/// those of values do not; factors of unlike channels.
Example ExampleCalibration(const CodecConfig& config) {
  const kernels::VectorCodebook& gaussian = kernels::GaussianCodebook();
  Example example;
  ExampleTensor codebook{TensorName(config, "codebook"), {config.kv_heads, kVectorWords, kVectorDims}, {}};
  for (std::size_t head = 0; head < config.kv_heads; ++head) {
    for (std::size_t w = 0; w < kVectorWords; ++w) {
      const std::size_t turned = config.side == Side::kKeys ? w : w * (w + 1) / 2;  // both are permutations of 0 to 255
      const std::size_t from = (turned + head) % kVectorWords;
      for (std::size_t j = 0; j < kVectorDims; ++j) {
        codebook.values.push_back(static_cast<float>(gaussian.numbers[(j + head) % kVectorDims][from]) / gaussian.unit);
      }
    }
  }
  example.tensors.push_back(std::move(codebook));
  if (config.side == Side::kValues) return example;
  ExampleTensor smooth{TensorName(config, "smooth"), {config.kv_heads, config.head_dim}, {}};
  for (std::size_t i = 0; i < std::size_t{config.kv_heads} * config.head_dim; ++i) {
    smooth.values.push_back(0.75F + 0.125F * static_cast<float>((i + i / config.head_dim) % 5));
  }
  example.tensors.push_back(std::move(smooth));
  return example;
}

constexpr std::int64_t kBitChoices[] = {2};
constexpr ParamSpec kParams[] = {
    {.name = "bits", .default_value = "2", .meaning = "bits per number", .min = 2, .max = 2, .allowed = kBitChoices},
};

}  // namespace

extern const Codec kVecInfer{
    .name = kName,
    .version = kVersion,
    .summary = "smoothed and rotated rows in a calibrated codebook of four dimensions; needs an artifact",
    .params = kParams,
    .block_multiple = [](const Params&) { return static_cast<std::uint32_t>(kernels::kVectorBlockMultiple); },
    .make_keys = MakeSide<KeyCodec, MakeVectorKeys>,
    .make_values = MakeSide<ValueCodec, MakeVectorValues>,
    .example = ExampleCalibration,
};

}  // namespace kvant::quantizers
