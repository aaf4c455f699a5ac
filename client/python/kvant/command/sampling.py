"""What calibration reads of a model: sums over all windows, and the rows of one of them."""

import torch
from transformers import DynamicCache

from kvant.calibration.bits import Layer
from kvant.calibration.statistics import BLOCK_TOKENS, LayerStatistics
from kvant.command import models
from kvant.command.recording import recording

SAMPLE_TOKENS = 1024


def statistics_of(model, windows, step, turns, progress, each=None):
    """LayerStatistics of each attention layer, by its index. turns: the model's calibration.rope.Turns, or None; each(layer, keys, first)
    gets the keys [kv_heads, tokens, head_dim] of every step."""
    layers, first = {}, 0

    def seen(module, queries, keys, values):
        if module.layer_idx not in layers:
            layers[module.layer_idx] = LayerStatistics(keys.shape[1], keys.shape[3])
        layers[module.layer_idx].add(queries[0], keys[0], values[0], first, turns)
        if each is not None:
            each(module.layer_idx, keys[0], first)

    step = max(1, step // BLOCK_TOKENS) * BLOCK_TOKENS  # blocks are gathered whole
    with recording(model, seen):
        for window in windows:
            cache, first = DynamicCache(config=model.config), 0
            for _ in models.passes(model, cache, window[None], step, progress, logits_from=len(window)):
                first += step
    return layers


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


def projection_moment(layer):
    """[kv_heads, head_dim, head_dim]: what the output projection makes of an error of the values, the sum over a group's query heads of
    W' W, W the head's columns. None without a projection."""
    if layer.projection is None:
        return None
    kv_heads, head_dim = layer.keys.shape[0], layer.keys.shape[2]
    by_head = layer.projection.to(torch.float64).unflatten(1, (kv_heads, -1, head_dim))
    return torch.einsum("ogqd,ogqe->gde", by_head, by_head)
