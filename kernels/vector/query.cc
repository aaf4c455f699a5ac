#include "kernels/vector/query.h"

#include <algorithm>
#include <cstdint>

#include "kernels/lloyd/query.h"
#include "kernels/lloyd/table.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/vector/query.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// n rows of dim / 4 words: the bytes of each four words as a 4x4 matrix, transposed.
void TurnRows(std::uint32_t* words, std::size_t n, std::size_t dim) {
  const hn::FixedTag<std::uint8_t, 16> d8;
  HWY_ALIGN static constexpr std::uint8_t kTurn[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const auto turn = hn::Load(d8, kTurn);
  auto* bytes = reinterpret_cast<std::uint8_t*>(words);
  for (std::size_t at = 0; at < n * dim; at += 16) {
    hn::StoreU(hn::TableLookupBytes(hn::LoadU(d8, bytes + at), turn), d8, bytes + at);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(TurnRows);

void VectorPrepareQueries(const VectorCodebook& codebook, const HadamardMap& map, const float* queries, std::size_t n,
                          std::byte* prepared, std::byte* scratch) noexcept {
  // Rotated and rounded as for Lloyd codes, whose logits differ by the units of their codebook only.
  const LloydTable& table = *FindLloydTable(2);
  LloydPrepareQueries({&table, map, nullptr}, queries, n, prepared, scratch);
  const std::size_t dim = map.shape.dim;
  const float units = table.unit / codebook.unit;
  for (std::size_t first = 0; first < n; first += kQueryBatch, prepared += QueryBatchBytes(dim / 4)) {
    auto& head = *reinterpret_cast<QueryHead*>(prepared);
    const std::size_t count = std::min(n - first, kQueryBatch);
    for (std::size_t i = 0; i < count; ++i) head.scale[i] *= units;
    HWY_DYNAMIC_DISPATCH(TurnRows)(reinterpret_cast<std::uint32_t*>(prepared + sizeof(QueryHead)), count, dim);
  }
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
