"""kvant caches for mlx_lm: attention on compressed codes, prefixes shared with other processes and other engines.

    model, tokenizer = mlx_lm.load(path)
    kvant.mlx_lm.patch_mlx_lm(model, kvant.KVCacheConfig(model_path=path, uri="unix:/run/kvant/kvantd.sock"))
    for response in mlx_lm.stream_generate(model, tokenizer, prompt):
        print(response.text, end="")

What mlx_lm computes, it goes on computing; a layer's scaled dot-product attention over a kvant cache is kvant's. mlx arrays are
values: keys, values and outputs are copied once each (the copies of outputs are in conversation.copied_bytes, those of keys and
values in the client's counters), queries are read in place.

Threads: caches belong to the thread that made them. A patched model may be used from several; each has a client of its own
(kvant.connect); "embedded:" is one daemon for all threads of the process.
"""

from mlx_lm import batch_generate, generate, load
from mlx_lm.models.cache import can_trim_prompt_cache, load_prompt_cache, save_prompt_cache, trim_prompt_cache

from kvant.mlx_lm.batch import BatchKvantKVCache
from kvant.mlx_lm.cache import KvantKVCache
from kvant.mlx_lm.generation import cached_tokens, install, is_patched, make_prompt_cache, release, restore, snap, stream_generate, uninstall
from kvant.mlx_lm.hooks import any_hooked, hook, replace_attention, unhook
from kvant.mlx_lm.lookup import PromptLookup
from kvant.mlx_lm.model_caches import ModelCaches


def patch_mlx_lm(model, config):
    """Makes model.make_cache() give kvant caches by `config` (a kvant.KVCacheConfig), and the model's attention understand them:
    mlx_lm.generate, stream_generate, batch_generate and the server then use kvant without another argument. Patching again replaces the
    configuration. Returns the model.

    Models that call mx.fast.scaled_dot_product_attention themselves, and models with layers that keep other state, are refused.
    """
    caches = ModelCaches(model, config)
    _attach(model, caches)
    model.make_cache = caches.open
    return model


def unpatch_mlx_lm(model):
    """Undoes patch_mlx_lm and KVCacheBuilder.build; does nothing for a model that is not patched."""
    unhook(model)
    model.__dict__.pop("kvant_caches", None)
    if not any_hooked():
        uninstall()


def build_caches(model, config, capacity=None):
    """Caches of all layers of a model, for mlx_lm's prompt_cache (or kv_cache). The model's attention understands them from now on; what
    it makes itself stays as it was. What KVCacheBuilder.build calls."""
    caches = getattr(model, "kvant_caches", None)
    if caches is None or caches.config is not config:
        caches = ModelCaches(model, config)
        if not is_patched(model):
            _attach(model, caches)
    opened = caches.open()
    if capacity is not None:
        opened[0].conversation.capacity = min(capacity, config.capacity or capacity)
    return opened


def _attach(model, caches):
    hook(model)
    install()
    model.kvant_caches = caches


def patch_mlx_lm_for_fused_sdpa(model):
    """The model's attention alone: kvant caches attend on their codes. patch_mlx_lm and KVCacheBuilder.build have done so already."""
    replace_attention(model)
    return model


__all__ = [
    "BatchKvantKVCache",
    "KvantKVCache",
    "PromptLookup",
    "batch_generate",
    "build_caches",
    "cached_tokens",
    "can_trim_prompt_cache",
    "generate",
    "is_patched",
    "load",
    "load_prompt_cache",
    "make_prompt_cache",
    "patch_mlx_lm",
    "patch_mlx_lm_for_fused_sdpa",
    "release",
    "restore",
    "save_prompt_cache",
    "snap",
    "stream_generate",
    "trim_prompt_cache",
    "unpatch_mlx_lm",
]
