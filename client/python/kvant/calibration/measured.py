"""What codes do to a layer's attention, measured on rows of a model with the product's own codecs."""

import contextlib

import xxhash

import kvant

_STEP = 128  # tokens handed over at a time


def decoded(spec, keys, values):
    """(keys, values), [layers, kv_heads, tokens, head_dim] each, as a store of that kvant.StoreSpec gives them back, and what one number
    takes in bits on either side. Rows of the last block, which stays raw, are left out."""
    import torch

    layers, _, tokens, _ = keys.shape
    store = kvant.connect("embedded:").open_store(spec)
    options = {"recent_tokens": 0, "max_step_tokens": _STEP, "tail": "f32", "label": "calibrate"}
    # Blocks are shared by the ids of their tokens: other rows must not have the same.
    ids = [xxhash.xxh32_intdigest(keys.numpy().tobytes()) >> 1] * tokens
    with contextlib.closing(store.open([], **options)) as sequence:
        for first in range(0, tokens, _STEP):
            count = min(_STEP, tokens - first)
            sequence.reserve(count)
            for layer in range(layers):
                rows = (side[layer, :, first : first + count].transpose(0, 1).contiguous() for side in (keys, values))
                sequence.append(layer, *rows)
            sequence.advance(ids[first : first + count])
        coded = max(0, tokens - spec.block_tokens // 4) // spec.block_tokens * spec.block_tokens
        sides = []
        for layer in range(layers):
            pair = [torch.empty((coded, spec.kv_heads, spec.head_dim)) for _ in range(2)]
            sequence.copy_rows(layer, 0, coded, *pair)
            sides.append([rows.transpose(0, 1) for rows in pair])
        info = store.info
    store.close()
    return (
        *(torch.stack([pair[side] for pair in sides]) for side in range(2)),
        (info["key_bits_per_element"], info["value_bits_per_element"]),
    )


def relative_error(rows, back):
    """|x - x'|^2 / |x|^2 of each KV head, rows [kv_heads, tokens, head_dim]."""
    return ((rows - back) ** 2).sum((1, 2)) / (rows**2).sum((1, 2)).clamp_min(1e-30)


def cosine(rows, back):
    """Mean cosine of rows and what codes give back."""
    import torch

    return float(torch.nn.functional.cosine_similarity(rows, back, dim=-1).mean())


class LayerAttention:
    """Causal attention of one layer's queries [q_heads, tokens, head_dim] over its keys and values [kv_heads, tokens, head_dim], and what
    its output [tokens, hidden] loses when a KV head's rows are replaced. projection: [hidden, q_heads * head_dim], None for the identity."""

    def __init__(self, queries, keys, values, scale, projection=None):
        self._heads = keys.shape[0]
        self._scale = scale
        self._queries = queries.unflatten(0, (self._heads, -1))
        self._values = values
        self._projection = None if projection is None else projection.unflatten(1, (self._heads, -1, keys.shape[2]))
        self._weights = [self._softmax(head, keys[head]) for head in range(self._heads)]

    def _softmax(self, head, keys):
        import torch

        logits = self._queries[head] @ keys.mT * self._scale  # [group, tokens, tokens]
        future = torch.ones(logits.shape[1:], dtype=torch.bool).triu(1)
        return logits.masked_fill_(future, float("-inf")).softmax(-1)

    def _projected_square(self, head, outputs):
        """Squared length of outputs [group, tokens, head_dim] behind the projection, of each token."""
        if self._projection is None:
            return (outputs**2).sum((0, 2))
        import torch

        return (torch.einsum("gtd,ogd->to", outputs, self._projection[:, head]) ** 2).sum(1)

    def key_loss(self, head, keys):
        """Squared change of the layer's output [tokens] with these keys [tokens, head_dim] of a KV head."""
        return self._projected_square(head, (self._softmax(head, keys) - self._weights[head]) @ self._values[head])

    def relative_error(self, keys, values):
        """|o - o'|^2 / |o|^2 of the attention's output with these keys and values [kv_heads, tokens, head_dim] instead."""
        wrong = whole = 0.0
        for head, weights in enumerate(self._weights):
            exact = weights @ self._values[head]
            wrong += float(((self._softmax(head, keys[head]) @ values[head] - exact) ** 2).sum())
            whole += float((exact**2).sum())
        return wrong / whole

    def value_loss(self, head, values):
        """The same with these values."""
        return self._projected_square(head, self._weights[head] @ (values - self._values[head]))
