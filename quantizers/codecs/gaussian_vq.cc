// gaussian_vq: each row rotated, divided by its norm and cut into sub-vectors of four numbers, each of which becomes the
// nearest of 256 fixed words: vector quantisation of the normal law in four dimensions (Linde, Buzo, Gray 1980), 2 bits per
// number. The rotation, and scales that leave keys unbiased and values with the least squared error, are those of
// turboquant_mse.
//
//   x -> z = Q x * unit * sqrt(dim) / |x| -> word w of each four numbers -> reads back as scale * Q' w / (unit * sqrt(dim))
//
// Its relative squared error is 0.0967 where scalar Lloyd-Max codes of 2 bits have 0.1175 and no code of 2 bits could have less
// than 0.0625. Encoding searches all words: several times the work of scalar codes.
//
// Block: a byte per sub-vector as kernels/vector/layout.h lays them out, then block_tokens ufloat16 scales, adjacent,
// little-endian: 2 + 16 / head_dim bits per element. The words (kernels/vector/codebook.cc), the rotation (RotationRounds,
// RotationSeed) and the search (kernels/vector/encode.h) are part of the format.
#include "quantizers/codec.h"
#include "quantizers/vector_blocks.h"

namespace kvant::quantizers {
namespace {

constexpr std::string_view kName = "gaussian_vq";
constexpr std::uint32_t kVersion = 1;
constexpr double kNormalError = 0.0967;  // of the codebook, by simulation

static_assert(kernels::VectorBlockBytes(128, 128) == 4352 && kernels::VectorBlockBytes(80, 64) == 64 * 20 + 128);

VectorChoices Choices() {
  return {.name = kName, .version = kVersion, .codebooks = {}, .smooth = {}, .normal_error = kNormalError};
}

constexpr std::int64_t kBitChoices[] = {2};
constexpr ParamSpec kParams[] = {
    {.name = "bits", .default_value = "2", .meaning = "bits per number", .min = 2, .max = 2, .allowed = kBitChoices},
};

}  // namespace

extern const Codec kGaussianVq{
    .name = kName,
    .version = kVersion,
    .summary =
        "rotated rows in a fixed codebook of four dimensions with one 16-bit scale per row: less error than 2-bit scalar codes",
    .params = kParams,
    .block_multiple = [](const Params&) { return static_cast<std::uint32_t>(kernels::kVectorBlockMultiple); },
    .make_keys = [](const CodecConfig& config) { return MakeVectorKeys(config, Choices()); },
    .make_values = [](const CodecConfig& config) { return MakeVectorValues(config, Choices()); },
};

}  // namespace kvant::quantizers
