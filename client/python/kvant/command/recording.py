"""The queries, keys and values that a model's attention multiplies, to be looked at or replaced."""

import contextlib
import sys

from kvant._core import UnsupportedError

_NAME = "kvant_recording"


@contextlib.contextmanager
def recording(model, seen):
    """While it lasts, each forward pass calls seen(attention module, queries [rows, q_heads, tokens, head_dim], keys and values
    [rows, kv_heads, tokens, head_dim]) for each layer, with the rows of the pass's own tokens. What it returns, keys and values of the same
    shapes, attention uses instead of these; None leaves them. Replacing wants passes that begin at position 0.

    Attention stays the model's own, with its soft caps and sinks. UnsupportedError for a model whose attention cannot be chosen."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = model.config._attn_implementation

    def attention(module, query, key, value, *rest, **options):
        new = query.shape[2]
        replaced = seen(module, query, key[:, :, -new:], value[:, :, -new:])
        if replaced is not None:
            key, value = replaced
        own = sys.modules[type(module).__module__].eager_attention_forward if before == "eager" else ALL_ATTENTION_FUNCTIONS[before]
        return own(module, query, key, value, *rest, **options)

    AttentionInterface.register(_NAME, attention)
    AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS[before])
    model.set_attn_implementation(_NAME)
    if model.config._attn_implementation != _NAME:
        raise UnsupportedError(f"rows: the attention of {type(model).__name__} cannot be chosen; transformers says why in its log")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
