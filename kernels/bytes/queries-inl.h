// What scoring asks of prepared queries, per target: the integers' total, and logits from sums, in one order of operations per
// code that all ways of scoring share. A code with another order writes a pair of types of its own. No include
// guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_BYTES_QUERIES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_BYTES_QUERIES_INL_H_
#undef KVANT_KERNELS_BYTES_QUERIES_INL_H_
#else
#define KVANT_KERNELS_BYTES_QUERIES_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/bytes/queries.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Queries at adjacent rows: row q at words + q * row_words.
struct QueryRows {
  const QueryHead* head;  ///< of their batch
  std::size_t first;      ///< in the batch
  const std::uint32_t* words;
  std::size_t row_words;

  [[nodiscard]] HWY_INLINE std::int32_t Total(std::size_t q) const { return head->totals[first + q]; }

  /// Of query `q` and as many tokens as sums.
  template <class DF>
  [[nodiscard]] HWY_INLINE hn::Vec<DF> Logits(DF df, std::size_t q, hn::Vec<hn::RebindToSigned<DF>> sums,
                                              hn::Vec<DF> token_scales) const {
    const auto products = hn::Mul(hn::ConvertTo(df, sums), token_scales);
    return hn::Add(hn::Mul(products, hn::Set(df, head->scale[first + q])), hn::Set(df, head->bias[first + q]));
  }
};

/// Batches as queries.h describes them.
struct QueryBatches {
  const std::byte* prepared;
  std::size_t row_words;

  /// Query `i` and those behind it in its batch.
  [[nodiscard]] HWY_INLINE QueryRows From(std::size_t i) const {
    const std::byte* batch = prepared + i / kQueryBatch * QueryBatchBytes(row_words);
    const std::size_t first = i % kQueryBatch;
    return {reinterpret_cast<const QueryHead*>(batch), first,
            reinterpret_cast<const std::uint32_t*>(batch + sizeof(QueryHead)) + first * row_words, row_words};
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
