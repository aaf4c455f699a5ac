// Token policies of the C interface.
#include <algorithm>
#include <span>

#include "client/c_support.h"

using namespace kvant::c;  // NOLINT(google-build-using-namespace): this file implements one interface

kvant_code kvant_sequence_apply_policy(kvant_sequence* sequence, kvant_error* error) {
  return Guarded("apply policy", error, [&] {
    if (sequence == nullptr) return Refuse("apply policy: sequence is null", error);
    const auto applied = sequence->sequence.ApplyPolicy();
    return applied ? KVANT_OK : Refuse(applied.error(), error);
  });
}

kvant_code kvant_sequence_kept_tokens(const kvant_sequence* sequence, size_t layer, size_t kv_head, uint64_t* positions,
                                      size_t room, size_t* count, kvant_error* error) {
  return Guarded("kept tokens", error, [&] {
    if (sequence == nullptr || count == nullptr) return Refuse("kept tokens: sequence or count is null", error);
    if (positions == nullptr && room > 0) return Refuse("kept tokens: positions is null", error);
    const auto kept = sequence->sequence.KeptTokens(layer, kv_head);
    if (!kept) return Refuse(kept.error(), error);
    std::copy_n(kept->begin(), std::min(room, kept->size()), positions);
    *count = kept->size();
    return KVANT_OK;
  });
}

kvant_code kvant_sequence_keep(kvant_sequence* sequence, size_t layer, size_t kv_head, const uint64_t* positions, size_t count,
                               kvant_error* error) {
  return Guarded("keep", error, [&] {
    if (sequence == nullptr) return Refuse("keep: sequence is null", error);
    if (positions == nullptr && count > 0) return Refuse("keep: positions is null", error);
    const auto kept = sequence->sequence.Keep(layer, kv_head, std::span(positions, count));
    return kept ? KVANT_OK : Refuse(kept.error(), error);
  });
}
