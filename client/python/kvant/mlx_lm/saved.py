"""What mlx_lm.save_prompt_cache keeps of a conversation, and how it comes back: in another process, against the same daemon.

Saved are the tokens, the identity of the store, and the rows that no block holds yet. What is sealed stays in the store; where the store
has lost it, it is computed again when the cache is loaded.
"""

import json
import threading
import warnings
import weakref

import mlx.core as mx
import numpy as np

import kvant

_FIELDS = ("model", "tokenizer", "adapter", "layers", "kv_heads", "head_dim", "dtype", "keys", "values", "block_tokens", "sink_tokens")
_STEP = 512  # tokens of one forward pass

living = weakref.WeakSet()  # the ModelCaches of this process
_loading = threading.local()


def saved_state(conversation, layer):
    """The state of one layer's cache as mlx_lm writes it: arrays, numbers and texts."""
    spec, first = conversation.caches.spec, conversation.sealed_tokens
    rows = np.empty((2, conversation.length - first, spec.kv_heads, spec.head_dim), np.float32)
    if rows.size:
        conversation.sequence.copy_rows(layer, first, rows.shape[1], rows[0], rows[1])
    state = {"layer": layer, "rows": mx.array(rows)}
    if layer == 0:
        state["tokens"] = mx.array(conversation.tokens, dtype=mx.int32)
        state["store"] = conversation.caches.identity
        state["spec"] = json.dumps({name: getattr(spec, name) for name in _FIELDS})
    return state


def loaded_conversation(state):
    """The conversation of a state's layer. mlx_lm loads the layers of a cache in order: the first brings the conversation, and each the
    rows that are missing behind what the store holds."""
    layer, rows = state["layer"], np.array(state["rows"])
    if layer == 0:
        _loading.tokens = state["tokens"].tolist()
        caches = _caches_of(state["store"], json.loads(state["spec"]))
        _loading.conversation = _reopened(caches, _loading.tokens, len(_loading.tokens) - rows.shape[1])
        if missing := _loading.tokens[_loading.conversation.length :]:
            _loading.conversation.begin(missing)
    conversation = _loading.conversation
    if conversation.begun:
        first = conversation.length - len(_loading.tokens)
        conversation.append(layer, rows[0, first:], rows[1, first:])
    return conversation


def _reopened(caches, tokens, sealed):
    """A conversation that holds at least the `sealed` first of the tokens."""
    opened = caches.open(tokens)
    conversation = opened[0].conversation
    if conversation.length < sealed:
        warnings.warn(
            f"load_prompt_cache: the store has {conversation.length} of {sealed} tokens that were compressed when the cache was saved;"
            " the others are computed again",
            stacklevel=5,
        )
    while (at := conversation.length) < sealed:
        caches.model()(mx.array([tokens[at : min(at + _STEP, sealed)]]), cache=opened)
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
