#include "kernels/commvq/commvq.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/raw/rows.h"
#include "kernels/ufloat16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/commvq/commvq.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#ifndef KVANT_KERNELS_COMMVQ_STAGE_
#define KVANT_KERNELS_COMMVQ_STAGE_
namespace kvant::kernels {

/// One stage's choice of codes.
struct CommVqStage {
  const float* words = nullptr;  ///< [64][2][pairs]
  std::size_t pairs = 0;
  float* turned = nullptr;    ///< [2 * pairs][64], the words again
  float* products = nullptr;  ///< [64][64]: 2 <C[a], i C[b]>
  float* squares = nullptr;   ///< [64]: |C[a]|^2
};

}  // namespace kvant::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using TileTag = hn::CappedTag<float, kCommVqTile>;
using TileVec = hn::Vec<TileTag>;

/// |C[a] + i C[b] - x|^2 = |x|^2 + |C[a]|^2 + |C[b]|^2 + 2 <C[a], i C[b]> - 2 <x, C[a]> - 2 <x, i C[b]>: what does not depend
/// on x.
void PrepareStageAll(const CommVqStage& stage) {
  const TileTag d;
  const std::size_t pairs = stage.pairs;
  for (std::size_t i = 0; i < 2 * pairs; ++i) {
    for (std::size_t a = 0; a < kCommVqWords; ++a) stage.turned[i * kCommVqWords + a] = stage.words[a * 2 * pairs + i];
  }
  const auto two = hn::Set(d, 2.0F);
  for (std::size_t b = 0; b < kCommVqWords; b += hn::Lanes(d)) {
    TileVec square = hn::Zero(d);
    for (std::size_t i = 0; i < 2 * pairs; ++i) {
      const TileVec v = hn::Load(d, stage.turned + i * kCommVqWords + b);
      square = hn::Add(square, hn::Mul(v, v));
    }
    hn::Store(square, d, stage.squares + b);
    for (std::size_t a = 0; a < kCommVqWords; ++a) {
      const float* word = stage.words + a * 2 * pairs;
      TileVec sum = hn::Zero(d);  // i C[b] = (-y_b, x_b)
      for (std::size_t p = 0; p < pairs; ++p) {
        const TileVec x = hn::Load(d, stage.turned + p * kCommVqWords + b);
        const TileVec y = hn::Load(d, stage.turned + (pairs + p) * kCommVqWords + b);
        sum = hn::Add(sum, hn::Sub(hn::Mul(hn::Set(d, word[pairs + p]), x), hn::Mul(hn::Set(d, word[p]), y)));
      }
      hn::Store(hn::Mul(two, sum), d, stage.products + a * kCommVqWords + b);
    }
  }
}

/// The best codes of as many tokens as there are lanes: x is [2 * pairs][16]. `costs`: [2][64][16].
HWY_INLINE void ChooseLanes(const CommVqStage& stage, TileTag d, const float* HWY_RESTRICT x, float* HWY_RESTRICT costs,
                            std::int32_t* HWY_RESTRICT codes) {
  const hn::RebindToSigned<TileTag> di;
  const std::size_t pairs = stage.pairs;
  float* HWY_RESTRICT of_b = costs + kCommVqWords * kCommVqTile;
  constexpr std::size_t kAtOnce = 4;
  for (std::size_t w = 0; w < kCommVqWords; w += kAtOnce) {
    TileVec along[kAtOnce], across[kAtOnce];
    for (std::size_t j = 0; j < kAtOnce; ++j) along[j] = across[j] = hn::Zero(d);
    for (std::size_t p = 0; p < pairs; ++p) {
      const TileVec re = hn::Load(d, x + p * kCommVqTile), im = hn::Load(d, x + (pairs + p) * kCommVqTile);
#pragma GCC unroll 4
      for (std::size_t j = 0; j < kAtOnce; ++j) {
        const auto wx = hn::Set(d, stage.turned[p * kCommVqWords + w + j]);
        const auto wy = hn::Set(d, stage.turned[(pairs + p) * kCommVqWords + w + j]);
        along[j] = hn::Add(along[j], hn::Add(hn::Mul(re, wx), hn::Mul(im, wy)));
        across[j] = hn::Add(across[j], hn::Sub(hn::Mul(im, wx), hn::Mul(re, wy)));
      }
    }
    for (std::size_t j = 0; j < kAtOnce; ++j) {
      const auto square = hn::Set(d, stage.squares[w + j]), two = hn::Set(d, 2.0F);
      hn::Store(hn::Sub(square, hn::Mul(two, along[j])), d, costs + (w + j) * kCommVqTile);
      hn::Store(hn::Sub(square, hn::Mul(two, across[j])), d, of_b + (w + j) * kCommVqTile);
    }
  }
  TileVec least = hn::Set(d, 3e38F);
  auto best = hn::Zero(di);
  for (std::size_t a = 0; a < kCommVqWords; ++a) {
    const TileVec of_a = hn::Load(d, costs + a * kCommVqTile);
    const float* products = stage.products + a * kCommVqWords;
    for (std::size_t b = 0; b < kCommVqWords; ++b) {
      const TileVec cost = hn::Add(hn::Add(of_a, hn::Load(d, of_b + b * kCommVqTile)), hn::Set(d, products[b]));
      const auto better = hn::Lt(cost, least);
      least = hn::IfThenElse(better, cost, least);
      best = hn::IfThenElse(hn::RebindMask(di, better), hn::Set(di, static_cast<std::int32_t>(a | b << 6)), best);
    }
  }
  hn::Store(best, di, codes);
}

void ChooseAll(const CommVqStage& stage, const float* x, float* costs, std::int32_t* codes) {
  const TileTag d;
  for (std::size_t lane = 0; lane < kCommVqTile; lane += hn::Lanes(d))
    ChooseLanes(stage, d, x + lane, costs + lane, codes + lane);
}

void DecodeAll(const CommVqCodebook& codebook, const std::uint8_t* block, std::size_t tokens, std::size_t first,
               std::size_t count, float* HWY_RESTRICT planar) {
  const hn::CappedTag<float, 16> wide;
  const hn::CappedTag<float, 4> narrow;
  const auto* scales = block + codebook.stages * CommVqStageBytes(tokens);
  const std::size_t pairs = codebook.pairs;
  for (std::size_t t = first; t < first + count; ++t, planar += 2 * pairs) {
    std::uint16_t bits;
    std::memcpy(&bits, scales + t * sizeof(bits), sizeof(bits));
    const float scale = Ufloat16ToFloat(bits);
    const float *a[kCommVqMaxStages], *b[kCommVqMaxStages];
    for (std::size_t r = 0; r < codebook.stages; ++r) {
      const CommVqCode code = CommVqCodeAt(block, tokens, r, t);
      a[r] = codebook.word(r, code.a);
      b[r] = codebook.word(r, code.b);
    }
    // Several vectors at once: additions of one are waited for while the others' go on.
    const auto part = [&]<std::size_t kVectors>(auto d, std::size_t p) HWY_ATTR {
      const std::size_t n = hn::Lanes(d);
      hn::Vec<decltype(d)> re[kVectors], im[kVectors];
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) re[v] = im[v] = hn::Zero(d);
      for (std::size_t r = 0; r < codebook.stages; ++r) {
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) {
          const float *of_a = a[r] + p + v * n, *of_b = b[r] + p + v * n;
          re[v] = hn::Add(re[v], hn::Sub(hn::LoadU(d, of_a), hn::LoadU(d, of_b + pairs)));
          im[v] = hn::Add(im[v], hn::Add(hn::LoadU(d, of_a + pairs), hn::LoadU(d, of_b)));
        }
      }
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) {
        hn::StoreU(hn::Mul(re[v], hn::Set(d, scale)), d, planar + p + v * n);
        hn::StoreU(hn::Mul(im[v], hn::Set(d, scale)), d, planar + pairs + p + v * n);
      }
    };
    std::size_t p = 0;
    for (; p + 4 * hn::Lanes(wide) <= pairs; p += 4 * hn::Lanes(wide)) part.template operator()<4>(wide, p);
    for (; p + hn::Lanes(wide) <= pairs; p += hn::Lanes(wide)) part.template operator()<1>(wide, p);
    for (; p < pairs; p += hn::Lanes(narrow)) part.template operator()<1>(narrow, p);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(PrepareStageAll);
HWY_EXPORT(ChooseAll);
HWY_EXPORT(DecodeAll);

namespace {

/// Takes what a code stands for away from token `lane` of a tile.
void Subtract(const CommVqCodebook& codebook, std::size_t stage, std::int32_t code, std::size_t lane, float* x) {
  const float* a = codebook.word(stage, static_cast<std::size_t>(code & 63));
  const float* b = codebook.word(stage, static_cast<std::size_t>(code >> 6));
  const std::size_t pairs = codebook.pairs;
  for (std::size_t p = 0; p < pairs; ++p) {
    x[p * kCommVqTile + lane] -= a[p] - b[pairs + p];
    x[(pairs + p) * kCommVqTile + lane] -= a[pairs + p] + b[p];
  }
}

/// Codes of a tile's tokens at one stage: 16 tokens are 24 bytes.
void Pack(const std::int32_t* codes, std::uint8_t* to) {
  for (std::size_t lane = 0; lane < kCommVqTile; lane += 2, to += 3) {
    const auto both = static_cast<std::uint32_t>(codes[lane]) | static_cast<std::uint32_t>(codes[lane + 1]) << 12;
    to[0] = static_cast<std::uint8_t>(both);
    to[1] = static_cast<std::uint8_t>(both >> 8);
    to[2] = static_cast<std::uint8_t>(both >> 16);
  }
}

}  // namespace

std::size_t CommVqEncode(const CommVqCodebook& codebook, const std::uint16_t* place, const RowsView& rows, std::uint8_t* block,
                         std::byte* scratch) noexcept {
  const std::size_t dim = codebook.dim(), tokens = rows.count;
  auto* unit = reinterpret_cast<float*>(scratch);  // tiles of [dim][16]
  float* left = unit + tokens * dim;
  CommVqStage stage{nullptr, codebook.pairs, left + tokens * dim, nullptr, nullptr};
  stage.products = stage.turned + kCommVqWords * dim;
  float* costs = stage.products + kCommVqWords * kCommVqWords;
  alignas(64) float squares[kCommVqWords];
  stage.squares = squares;
  std::uint8_t* scales = block + codebook.stages * CommVqStageBytes(tokens);
  for (std::size_t t = 0; t < tokens; ++t) {
    float row[kCommVqMaxDim];
    const auto* from = static_cast<const std::byte*>(rows.data) + t * rows.stride * ElementBytes(rows.type);
    const float largest = LoadRow(from, rows.type, dim, row);
    float sums[4] = {};
    for (std::size_t i = 0; i < dim; ++i) sums[i % 4] += row[i] * row[i];
    const float square = (sums[0] + sums[1]) + (sums[2] + sums[3]), norm = std::sqrt(square);
    if (!(largest < kUfloat16Overflow && 2 * norm < kUfloat16Overflow)) return t;
    const bool tiny = square < 0x1p-82F;  // the scale would round to 0
    float* column = unit + t / kCommVqTile * (kCommVqTile * dim) + t % kCommVqTile;
    for (std::size_t i = 0; i < dim; ++i) column[i * kCommVqTile] = tiny ? 0.0F : row[place[i]] / norm;
    // Until the codes are known the norm stands where the scale will.
    const std::uint16_t bits = FloatToUfloat16(tiny ? 0.0F : norm);
    std::memcpy(scales + t * sizeof(bits), &bits, sizeof(bits));
  }
  std::copy_n(unit, tokens * dim, left);
  for (std::size_t r = 0; r < codebook.stages; ++r) {
    stage.words = codebook.word(r, 0);
    HWY_DYNAMIC_DISPATCH(PrepareStageAll)(stage);
    for (std::size_t first = 0; first < tokens; first += kCommVqTile) {
      alignas(64) std::int32_t codes[kCommVqTile];
      float* tile = left + first * dim;
      HWY_DYNAMIC_DISPATCH(ChooseAll)(stage, tile, costs, codes);
      for (std::size_t lane = 0; lane < kCommVqTile; ++lane) Subtract(codebook, r, codes[lane], lane, tile);
      Pack(codes, block + r * CommVqStageBytes(tokens) + first / 2 * 3);
    }
  }
  for (std::size_t t = 0; t < tokens; ++t) {
    const std::size_t at = t / kCommVqTile * (kCommVqTile * dim) + t % kCommVqTile;
    float sums[4] = {};  // <x, x'> of the row of norm 1
    for (std::size_t i = 0; i < dim; ++i) {
      const float x = unit[at + i * kCommVqTile];
      sums[i % 4] += x * (x - left[at + i * kCommVqTile]);
    }
    const float dot = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    std::uint16_t bits;
    std::memcpy(&bits, scales + t * sizeof(bits), sizeof(bits));
    bits = FloatToUfloat16(Ufloat16ToFloat(bits) / (dot > 0.5F ? dot : 0.5F));
    std::memcpy(scales + t * sizeof(bits), &bits, sizeof(bits));
  }
  return tokens;
}

void CommVqDecode(const CommVqCodebook& codebook, const std::uint8_t* block, std::size_t tokens, std::size_t first,
                  std::size_t count, float* planar) noexcept {
  HWY_DYNAMIC_DISPATCH(DecodeAll)(codebook, block, tokens, first, count, planar);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
