"""What the measurement of losses reads of a model: the rows of one window, and what an output projection makes of them."""

import torch

from kvant.calibration.bits import Layer
from kvant.command.recording import recording

SAMPLE_TOKENS = 1024


def sample_of(model, window, progress):
    """Layer of each attention layer, by its index: rows of a window's first SAMPLE_TOKENS tokens."""
    window = window[:SAMPLE_TOKENS]
    rows = {}

    def seen(module, queries, keys, values):
        scale = getattr(module, "scaling", None) or queries.shape[3] ** -0.5
        projection = _projection(module, queries.shape[1] * queries.shape[3])
        rows[module.layer_idx] = (queries[0].clone(), keys[0].clone(), values[0].clone(), scale, projection)

    with recording(model, seen), torch.inference_mode():
        output = model(input_ids=window[None], use_cache=False, output_hidden_states=True)
    progress.update(len(window))
    return {index: Layer(*of, (output.hidden_states[index][0] ** 2).sum(-1)) for index, of in sorted(rows.items())}


def _projection(module, inputs):
    """The weight of a layer's output projection [hidden, q_heads * head_dim]; None where it is not where Llama's descendants have it."""
    projection = getattr(module, "o_proj", None)
    if not isinstance(projection, torch.nn.Linear) or projection.in_features != inputs:
        return None
    return projection.weight.detach()


def projection_of(module, q_heads, kv_heads, head_dim):
    """[kv_heads, head_dim, head_dim]: what the output projection makes of an error of the values, the sum over a group's query heads of
    W' W, W the head's columns. None without a projection that is known."""
    projection = _projection(module, q_heads * head_dim)
    if projection is None:
        return None
    by_head = projection.to(torch.float64).unflatten(1, (kv_heads, q_heads // kv_heads, head_dim))
    return torch.einsum("ogqd,ogqe->gde", by_head, by_head).float()
