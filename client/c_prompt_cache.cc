// The prompt cache of the C interface.
#include <span>

#include <kvant/prompt_cache.h>

#include "client/c_support.h"

using namespace kvant::c;  // NOLINT(google-build-using-namespace): this file implements one interface

struct kvant_prompt_cache {
  kvant::PromptCache cache;
};

kvant_code kvant_prompt_cache_open(const char* folder, uint64_t budget_bytes, kvant_prompt_cache** cache, kvant_error* error) {
  return Guarded("open prompt cache", error, [&] {
    if (folder == nullptr || cache == nullptr) return Refuse("open prompt cache: folder or cache is null", error);
    auto opened = kvant::PromptCache::Open(folder, budget_bytes);
    if (!opened) return Refuse(opened.error(), error);
    *cache = new kvant_prompt_cache{std::move(opened).value()};
    return KVANT_OK;
  });
}

void kvant_prompt_cache_close(kvant_prompt_cache* cache) { delete cache; }

kvant_code kvant_prompt_cache_load(kvant_prompt_cache* cache, kvant_store* store, const kvant_token* tokens, size_t count,
                                   uint64_t* found, kvant_error* error) {
  return Guarded("load from a prompt cache", error, [&] {
    if (cache == nullptr || store == nullptr) return Refuse("load from a prompt cache: cache or store is null", error);
    if (tokens == nullptr && count > 0) return Refuse("load from a prompt cache: tokens is null", error);
    const auto loaded = cache->cache.Load(store->store, std::span(tokens, count));
    if (!loaded) return Refuse(loaded.error(), error);
    if (found != nullptr) *found = loaded->tokens;
    return KVANT_OK;
  });
}

kvant_code kvant_prompt_cache_save(kvant_prompt_cache* cache, kvant_store* store, const kvant_sequence* sequence,
                                   const kvant_token* tokens, size_t count, uint64_t* saved_bytes, kvant_error* error) {
  return Guarded("save to a prompt cache", error, [&] {
    if (cache == nullptr || store == nullptr || sequence == nullptr) {
      return Refuse("save to a prompt cache: cache, store or sequence is null", error);
    }
    if (tokens == nullptr && count > 0) return Refuse("save to a prompt cache: tokens is null", error);
    const auto saved = cache->cache.Save(store->store, sequence->sequence.id(), std::span(tokens, count));
    if (!saved) return Refuse(saved.error(), error);
    if (saved_bytes != nullptr) *saved_bytes = saved->bytes;
    return KVANT_OK;
  });
}
