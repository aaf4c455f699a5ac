"""The queries, keys and values that a model's attention multiplies, to be looked at or replaced."""

import contextlib


@contextlib.contextmanager
def recording(model, seen):
    """While it lasts, each forward pass calls seen(attention module, queries [rows, q_heads, tokens, head_dim], keys and values
    [rows, kv_heads, tokens, head_dim]) for each layer, with the rows of the pass's own tokens. What it returns, keys and values of the same
    shapes, attention uses instead of these; None leaves them. Replacing wants passes that begin at position 0."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(module, query, key, value, *rest, **options):
        new = query.shape[2]
        replaced = seen(module, query, key[:, :, -new:], value[:, :, -new:])
        if replaced is not None:
            key, value = replaced
        return sdpa_attention_forward(module, query, key, value, *rest, **options)

    AttentionInterface.register("kvant_recording", attention)
    AttentionMaskInterface.register("kvant_recording", sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("kvant_recording")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
