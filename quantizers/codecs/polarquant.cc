// polarquant: each row rotated, folded into angles and radii, and the angles rounded to fixed codebooks (Han et al.,
// PolarQuant, arXiv 2502.02617; not the method of the same name in arXiv 2502.00527). Keys only.
//
//   y = Q x; level 1: (y[2j], y[2j+1]) -> radius and angle in [0, 2 pi); level l >= 2: two radii -> radius and angle in
//   [0, pi / 2]. A row reads back as its radii times the cosines and sines of its rounded angles, rotated back by Q'.
//
// Block: the angles' codes of block_tokens rows in tiles of 16 tokens, then the radii as ufloat16 (kernels/polar/layout.h);
// codebooks: kernels/polar/table.h. Q: RotationRounds rounds of signs and Hadamard mixing, as in turboquant_mse. Bits per
// element:
//   levels=4     first / 2 + 7/16 others + 1       (head_dim a multiple of 16; the published layout: a radius for 16 numbers)
//   levels=full  (first * d / 2 + others * (d / 2 - 1) + 16) / d       (head_dim a power of two from 16 on)
// first=4,others=2 is published; first=5,others=3 gives both levels of the tree about the same share of the error.
//
// radius=unbiased stores |x|^2 / <x, u> of a group of numbers x whose angles read back as u, so that <q, x> is estimated
// without bias over rotations; radius=norm stores |x|, as published, which shrinks scores by 1.6 % at 4/2 bits. Either way 16
// bits.
//
// Weaker than turboquant_mse: levels=4 pays a bit per element for radii (3.875 bits for the error that turboquant_mse has at
// about 3.2), levels=full comes out even, and scores are sums of floats, with look-ups per angle, where turboquant_mse
// multiplies bytes.
#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "kernels/polar/decode.h"
#include "kernels/polar/encode.h"
#include "kernels/polar/score.h"
#include "kernels/polar/table.h"
#include "kernels/rotation/unrotate.h"
#include "kernels/ufloat16.h"
#include "quantizers/codec.h"
#include "quantizers/rotation.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {
namespace {

using kernels::PolarAngles;
using kernels::PolarForm;
using kernels::PolarRadius;

constexpr std::string_view kName = "polarquant";
constexpr std::uint32_t kVersion = 1;

static_assert(PolarForm{128, false, 4, 2}.block_bytes(16) == 16 * 128 * 31 / 64 && kernels::kPolarTile == 16);
static_assert(PolarForm{128, true, 4, 2}.block_bytes(16) == 16 * (4 * 64 + 2 * 63 + 16) / 8);

enum Param : std::size_t { kLevels, kFirst, kOthers, kRadius };

/// How the product of a unit vector and what its angles read back as is distributed: mean and mean square.
struct Cosine {
  double mean = 1;
  double square = 1;
};

/// Of level 1: angles off by up to half a part of the circle, evenly.
Cosine CosineOfPair(std::uint32_t bits) {
  const double part = 2 * std::numbers::pi / std::exp2(bits);
  return {2 / part * std::sin(part / 2), 0.5 + std::sin(part) / (2 * part)};
}

/// Of a fold of two independent parts whose angle has the density sin(2 psi)^(2^(level-1) - 1).
Cosine CosineOfFold(std::uint32_t level, std::uint32_t bits, const Cosine& part) {
  constexpr int kSteps = 20000;
  const PolarAngles& table = kernels::PolarQuarter(level, bits);
  const double power = std::exp2(level - 1) - 1;
  double mass = 0, mean = 0, squares = 0, cross = 0;
  std::uint32_t code = 0;
  for (int i = 0; i < kSteps; ++i) {
    const double angle = (i + 0.5) * std::numbers::pi / 2 / kSteps;
    while (code + 1 < table.count && angle > (table.angles[code] + table.angles[code + 1]) / 2) ++code;
    const double density = std::pow(std::sin(2 * angle), power);
    const double a = std::cos(angle) * std::cos(table.angles[code]), b = std::sin(angle) * std::sin(table.angles[code]);
    mass += density;
    mean += density * (a + b);
    squares += density * (a * a + b * b);
    cross += density * 2 * a * b;
  }
  return {part.mean * mean / mass, (part.square * squares + part.mean * part.mean * cross) / mass};
}

class PolarKeys final : public KeyCodec {
 public:
  PolarKeys(const CodecConfig& config, const PolarForm& form)
      : form_(form),
        radius_(static_cast<PolarRadius>(config.params.Choice(kRadius))),
        tokens_(config.block_tokens),
        rotations_(kName, kVersion, config) {}

  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return form_.block_bytes(tokens_); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept override { return rotations_.memory_bytes(); }
  /// The product with what is read back is at least the norm times the smallest cosine of every level.
  [[nodiscard]] CodecTraits traits() const noexcept override {
    double least = std::cos(std::numbers::pi / std::exp2(form_.first));
    for (std::uint32_t level = 2; level <= form_.levels(); ++level) {
      const PolarAngles& table = kernels::PolarQuarter(level, form_.others);
      double widest = table.angles[0];
      for (std::uint32_t i = 0; i + 1 < table.count; ++i)
        widest = std::max(widest, (table.angles[i + 1] - table.angles[i]) / 2);
      least *= std::cos(widest);
    }
    return {.exact_zero = true, .largest_norm = static_cast<float>(0.999 * least) * kernels::kUfloat16Max};
  }
  [[nodiscard]] CodeForm form() const noexcept override {
    return {.scale_format = ScaleFormat::kUfloat16, .scale_offset = form_.codes_bytes(tokens_), .rotated = true};
  }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override {
    Cosine cosine = CosineOfPair(form_.first);
    for (std::uint32_t level = 2; level <= form_.levels(); ++level) cosine = CosineOfFold(level, form_.others, cosine);
    if (radius_ == PolarRadius::kNorm) return 2 - 2 * cosine.mean;
    // E 1 / cos^2 - 1, to second order in the cosine's fluctuation.
    const double square = cosine.mean * cosine.mean;
    return (1 + 3 * (cosine.square - square) / square) / square - 1;
  }
  /// Decode: Unrotate's, then a row, and one more that is not simply overwritten.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const std::size_t columns = kernels::RotationScratchBytes(form_.dim), row = form_.dim * sizeof(float);
    return {.encode = columns,
            .decode = columns + 2 * row,
            .prepared = kernels::PolarPreparedBytes(form_, n),
            .scratch = kernels::PolarPrepareScratchBytes(form_)};
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    const kernels::PolarEncoding how{form_, rotations_.of(args.head).map(), radius_};
    auto* block = reinterpret_cast<std::uint8_t*>(args.block.part[0]);
    const std::size_t row = kernels::PolarEncode(how, args.rows, block, args.scratch);
    if (row == args.rows.count) return {};
    return Error{ErrorCode::kNotFinite, "encode as " + std::string(kName) + ": row " + std::to_string(row) + " of KV head " +
                                            std::to_string(args.head) + " holds NaN or infinity, or its norm exceeds 8.5e9"};
  }

  void Decode(const DecodeArgs& args) const override {
    const auto* block = reinterpret_cast<const std::uint8_t*>(args.block.part[0]);
    const kernels::HadamardMap map = rotations_.of(args.head).map();
    const auto factor = static_cast<float>(1.0 / map.shape.gain(map.rounds));
    auto* row = reinterpret_cast<float*>(args.scratch + kernels::RotationScratchBytes(form_.dim));
    for (std::size_t token = args.begin; token < args.end; ++token) {
      kernels::PolarDecodeRow(form_, block, tokens_, token, row);
      float* to = args.rows + (token - args.begin) * args.row_stride;
      float* target = RowsTarget(to, args.row_stride, 1, form_.dim, args.add, row + form_.dim);
      kernels::Unrotate({map, factor, nullptr, nullptr, row, form_.dim, 1, target, args.scratch});
      PutRows(target, 1, form_.dim, to, args.row_stride, args.add);
    }
  }

  void Prepare(const PrepareArgs& args) const override {
    kernels::PolarPrepareQueries(form_, rotations_.of(args.head).map(), args.queries, args.query_stride, args.n, args.prepared,
                                 args.scratch);
  }
  void Score(const ScoreArgs& args) const override {
    kernels::PolarScore({.form = form_,
                         .tokens = tokens_,
                         .block = reinterpret_cast<const std::uint8_t*>(args.block.part[0]),
                         .prepared = args.prepared,
                         .queries = args.n,
                         .logits = args.logits,
                         .stride = args.stride,
                         .add = args.add,
                         .next = args.next.data,
                         .next_bytes = args.next.bytes});
  }

 private:
  PolarForm form_;
  PolarRadius radius_;
  std::size_t tokens_;
  HeadRotations rotations_;
};

Result<std::unique_ptr<KeyCodec>> MakePolarKeys(const CodecConfig& config) {
  const PolarForm form{.dim = config.head_dim,
                       .full = config.params.Choice(kLevels) == 1,
                       .first = static_cast<std::uint32_t>(config.params.Integer(kFirst)),
                       .others = static_cast<std::uint32_t>(config.params.Integer(kOthers))};
  const std::string where = std::string(kName) + " layer " + std::to_string(config.layer) + ": ";
  const std::string size = where + "head_dim " + std::to_string(config.head_dim);
  if (config.head_dim < 16 || config.head_dim > kernels::kMaxHeadDim || config.head_dim % 16 != 0) {
    return Error{ErrorCode::kUnsupported, size + " is not a multiple of 16 in 16..1024"};
  }
  if (form.full && !std::has_single_bit(config.head_dim)) {
    return Error{ErrorCode::kUnsupported, size + " is not a power of two, which levels=full needs; levels=4 takes it"};
  }
  if (config.block_tokens == 0 || config.block_tokens % kernels::kPolarTile != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 where + "block_tokens " + std::to_string(config.block_tokens) + " is not a multiple of 16"};
  }
  return std::unique_ptr<KeyCodec>(std::make_unique<PolarKeys>(config, form));
}

constexpr std::string_view kLevelNames[] = {"4", "full"};
constexpr std::string_view kRadiusNames[] = {"unbiased", "norm"};
static_assert(static_cast<int>(PolarRadius::kNorm) == 1, "kRadiusNames lists the radii in this order");

constexpr std::int64_t kFirstBits[] = {2, 3, 4, 5};
constexpr std::int64_t kOtherBits[] = {1, 2, 3, 4};
constexpr ParamSpec kParams[] = {
    {.name = "levels",
     .kind = ParamKind::kChoice,
     .default_value = "4",
     .meaning = "4: a radius for every 16 numbers; full: one for the row, whose size must be a power of two",
     .choices = kLevelNames},
    {.name = "first", .default_value = "4", .meaning = "bits of an angle of a pair", .min = 2, .max = 5, .allowed = kFirstBits},
    {.name = "others", .default_value = "2", .meaning = "bits of an angle above", .min = 1, .max = 4, .allowed = kOtherBits},
    {.name = "radius",
     .kind = ParamKind::kChoice,
     .default_value = "unbiased",
     .meaning = "meaning of a radius; norm as published",
     .choices = kRadiusNames},
};

std::uint32_t WholeTiles(const Params&) { return kernels::kPolarTile; }

}  // namespace

extern const Codec kPolarQuant{.name = kName,
                               .version = kVersion,
                               .summary = "keys as angles of rotated pairs, folded up level by level; scored from tables",
                               .params = kParams,
                               .block_multiple = WholeTiles,
                               .make_keys = MakePolarKeys};

}  // namespace kvant::quantizers
