#include "kernels/trellis/encode.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/trellis/encode.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/lloyd/encode-inl.h"
#include "kernels/trellis/search-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Levels by number: up to 32 of them in two tables.
class LevelTable {
 public:
  HWY_INLINE explicit LevelTable(const TrellisTable& table) {
    for (std::uint32_t i = 0; i < 32; ++i) levels_[i] = static_cast<std::int8_t>(i >> (table.bits() + 1) ? 0 : table.Level(i));
  }

  /// Of four numbers in the bytes of each lane.
  HWY_INLINE hn::Vec<LaneTagU> operator()(hn::Vec<LaneTagU> numbers) const {
    const hn::Repartition<std::uint8_t, LaneTag> d8;
    const auto bytes = hn::BitCast(d8, numbers);
    const auto low = hn::And(bytes, hn::Set(d8, 0x0Fu));
    const auto* from = reinterpret_cast<const std::uint8_t*>(levels_);
    const auto first = hn::TableLookupBytes(hn::LoadDup128(d8, from), low);
    const auto second = hn::TableLookupBytes(hn::LoadDup128(d8, from + 16), low);
    return hn::BitCast(LaneTagU(), hn::IfThenElse(hn::TestBit(bytes, hn::Set(d8, 0x10u)), second, first));
  }

 private:
  alignas(16) std::int8_t levels_[32];
};

/// <z, c> and |c|^2 of columns and their levels' numbers.
HWY_INLINE RowSums SumsOf(const LevelTable& table, std::size_t dim, const float* HWY_RESTRICT x, LaneVec to_units,
                          const std::uint32_t* HWY_RESTRICT numbers) {
  const LaneTag d;
  const LaneTagI di;
  FourSums dot(d), square(d);
  for (std::size_t i = 0; i < dim; i += 4) {
    const auto four = hn::BitCast(di, table(hn::Load(LaneTagU(), numbers + i / 4 * kLanes)));
    const auto add = [&](std::size_t j, LaneVecI in_top_byte) HWY_ATTR {
      const LaneVec level = hn::ConvertTo(d, hn::ShiftRight<24>(in_top_byte));
      dot.Add(j, hn::Mul(hn::Mul(hn::Load(d, x + (i + j) * kLanes), to_units), level));
      square.Add(j, hn::Mul(level, level));
    };
    add(0, hn::ShiftLeft<24>(four));
    add(1, hn::ShiftLeft<16>(four));
    add(2, hn::ShiftLeft<8>(four));
    add(3, four);
  }
  return {dot.Total(), square.Total()};
}

template <std::uint32_t kBits>
HWY_INLINE std::size_t EncodeBits(const TrellisTable& table, const LloydEncoding& how, const RowsView& rows,
                                  std::uint8_t* block, std::byte* scratch) {
  const std::size_t dim = how.shape.dim;
  const LevelTable levels(table);
  auto* numbers = reinterpret_cast<std::uint32_t*>(scratch + dim * kLanes * (sizeof(float) + 1));
  TrellisSearch<kBits> search(table, how.layout, dim, numbers + dim / 4 * kLanes);
  return EncodeRows(how, rows, block, scratch, [&](LaneTag, const float* x, LaneVec to_units, std::uint32_t* codes) HWY_ATTR {
    search.x = x;
    search.to_units = to_units;
    search.Run(codes, numbers);
    return SumsOf(levels, dim, x, to_units, numbers);
  });
}

std::size_t EncodeAll(const TrellisTable& table, const LloydEncoding& how, const RowsView& rows, std::uint8_t* block,
                      std::byte* scratch) {
  switch (table.bits()) {
    case 1: return EncodeBits<1>(table, how, rows, block, scratch);
    case 2: return EncodeBits<2>(table, how, rows, block, scratch);
    case 3: return EncodeBits<3>(table, how, rows, block, scratch);
    default: return EncodeBits<4>(table, how, rows, block, scratch);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(EncodeAll);

std::size_t TrellisEncode(const TrellisTable& table, const LloydEncoding& how, const RowsView& rows, std::uint8_t* block,
                          std::byte* scratch) noexcept {
  return HWY_DYNAMIC_DISPATCH(EncodeAll)(table, how, rows, block, scratch);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
