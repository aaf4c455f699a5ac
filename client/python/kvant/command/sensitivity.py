"""How far a model's predictions move when the rows of one layer are what codes give back."""

import torch
from transformers import DynamicCache

from kvant.command import models
from kvant.command.recording import recording

TOKENS = 512  # of the context that is read once for each layer and side
_COUNTED = TOKENS // 2  # the last ones: the first see few tokens
_CHUNK = 64  # tokens whose probabilities are compared at a time


def kl_by_layer(model, window, layers, codes, progress):
    """[2 sides, layers]: mean KL divergence from exact predictions, in nats per token, with one side of one layer coded. layers: their
    indices in the model; codes: (keys, values), [layers, kv_heads, tokens, head_dim], rows of window's first tokens as codes give them back."""
    window = window[: min(TOKENS, codes[0].shape[2])][None]
    exact = _log_probabilities(model, window)
    divergences = torch.zeros(2, len(layers), dtype=torch.float64)
    for side in range(2):
        for at, layer in enumerate(layers):
            replace = _replacing(layer, side, codes[side][at, :, : window.shape[1]])
            with recording(model, replace):
                divergences[side, at] = _divergence(exact, _log_probabilities(model, window))
            progress.update(1)
    return divergences.numpy()


def _replacing(layer, side, rows):
    def replace(module, _queries, keys, values):
        if module.layer_idx != layer:
            return None
        return (rows[None], values) if side == 0 else (keys, rows[None])

    return replace


def _log_probabilities(model, window):
    counted = min(_COUNTED, window.shape[1])
    cache, tokens = DynamicCache(config=model.config), window.shape[1]
    (passed,) = models.passes(model, cache, window, tokens, _Silent, logits_from=tokens - counted)
    return passed[1][0].log_softmax(-1)


def _divergence(exact, other):
    parts = zip(exact.split(_CHUNK), other.split(_CHUNK), strict=True)
    sums = [float((p.double().exp() * (p.double() - q.double())).sum()) for p, q in parts]
    return sum(sums) / len(exact)


class _Silent:
    """Progress that is counted in layers, not in tokens."""

    @staticmethod
    def update(_):
        pass
