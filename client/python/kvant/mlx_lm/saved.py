"""What mlx_lm.save_prompt_cache keeps of a conversation, and how it comes back: in another process, against the same daemon.

Saved are the tokens and the identity of the store. Keys and values stay in the store, sealed; those that no block holds are computed
again when the cache is loaded.
"""

import json
import threading
import warnings
import weakref

import mlx.core as mx

import kvant

_FIELDS = ("model", "tokenizer", "adapter", "layers", "kv_heads", "head_dim", "dtype", "keys", "values", "block_tokens", "sink_tokens")
_STEP = 512  # tokens of one forward pass

living = weakref.WeakSet()  # the ModelCaches of this process
_loading = threading.local()


def saved_state(conversation, layer):
    """The state of one layer's cache as mlx_lm writes it: arrays, numbers and texts."""
    if layer:
        return {"layer": layer}
    spec = conversation.caches.spec
    return {
        "layer": 0,
        "tokens": mx.array(conversation.tokens, dtype=mx.int32),
        "sealed": conversation.sealed_tokens,
        "store": conversation.caches.identity,
        "spec": json.dumps({name: getattr(spec, name) for name in _FIELDS}),
    }


def loaded_conversation(state):
    """The conversation of a state's layer. mlx_lm loads the layers of a cache in order: the first brings the conversation."""
    if state["layer"] == 0:
        _loading.conversation = _reopen(state["tokens"].tolist(), state["sealed"], state["store"], json.loads(state["spec"]))
    return _loading.conversation


def _reopen(tokens, sealed, identity, spec):
    caches = _caches_of(identity, spec)
    opened = caches.open(tokens)
    conversation = opened[0].conversation
    if conversation.cached_tokens < sealed:
        warnings.warn(
            f"load_prompt_cache: the store has {conversation.cached_tokens} of {sealed} tokens that were compressed when the cache was saved;"
            " the others are computed again",
            stacklevel=4,
        )
    while (at := conversation.length) < len(tokens):
        caches.model()(mx.array([tokens[at : at + _STEP]]), cache=opened)
    return conversation


def _caches_of(identity, spec):
    """The caches of a patched model whose store has this identity. IdentityMismatchError names the field that differs."""
    patched = [caches for caches in living if getattr(caches.model(), "kvant_caches", None) is caches]
    if not patched:
        raise kvant.UnsupportedError("load_prompt_cache: no model is patched; call kvant.mlx_lm.patch_mlx_lm(model, config) first")
    differs = []
    for caches in patched:
        if caches.identity == identity:
            return caches
        mine = {name: getattr(caches.spec, name) for name in _FIELDS}
        differs += [f"{name} {mine[name]!r} instead of {spec[name]!r}" for name in _FIELDS if mine[name] != spec[name]][:1]
    what = "; ".join(differs) or "salt, rope, artifact or overrides differ"
    raise kvant.IdentityMismatchError(f"load_prompt_cache: no patched model has the store of the saved cache: {what}")
