"""What codecs lose in each layer, KV head and side: the measurements behind RateQuant's allocation (arXiv 2605.06675).

Two measurements make a unit's loss. Predictions: how far they move (KL divergence) when one side of one layer alone is coded; that weighs
layers and sides against each other. And the layer's own output: how far it moves, relative to the residual stream that it is added to,
token by token, with each codec and each KV head alone; that divides a layer's loss among its heads and extends it to other codecs.
"""

import dataclasses

import numpy

from kvant.calibration.measured import LayerAttention, decoded, relative_error
from kvant.calibration.plan import Choices

SINK_TOKENS = 4  # first tokens, which stay raw and are unlike the others


@dataclasses.dataclass
class Layer:
    """Rows of some tokens of one context: queries [q_heads, tokens, head_dim], keys and values [kv_heads, tokens, head_dim]."""

    queries: object
    keys: object
    values: object
    scale: float
    projection: object  # of the output, [hidden, q_heads * head_dim]; None if it is not known
    stream_square: object  # of the residual stream that the output is added to, [tokens]


@dataclasses.dataclass
class Trial:
    """A codec spec that all units were tried with: bits of either side; moves of the layers' outputs and errors of rows,
    [2 sides, layers, kv_heads]; codes: (keys, values) as they come back, [layers, kv_heads, tokens, head_dim]."""

    codec: str
    bits: tuple
    moves: numpy.ndarray
    errors: numpy.ndarray
    codes: tuple


def try_spec(spec, codec, layers, progress):
    """A Trial: `spec` is a kvant.StoreSpec of the model with codec `codec` for keys and values."""
    import torch

    keys, values = (torch.stack([getattr(layer, side) for layer in layers]) for side in ("keys", "values"))
    key_codes, value_codes, bits = decoded(spec, keys, values)
    coded = key_codes.shape[2]
    moves, errors = (numpy.zeros((2, len(layers), keys.shape[1])) for _ in range(2))
    for index, layer in enumerate(layers):
        attention = LayerAttention(
            layer.queries[:, :coded], layer.keys[:, :coded], layer.values[:, :coded], layer.scale, layer.projection
        )
        for head in range(keys.shape[1]):
            for side, moved in enumerate((attention.key_loss(head, key_codes[index, head]), attention.value_loss(head, value_codes[index, head]))):
                moves[side, index, head] = float((moved / layer.stream_square[:coded])[SINK_TOKENS:].mean())
        errors[0, index] = relative_error(layer.keys[:, :coded], key_codes[index])
        errors[1, index] = relative_error(layer.values[:, :coded], value_codes[index])
        progress.update(1)
    return Trial(codec, bits, moves, errors, (key_codes, value_codes))


def probe_of(trials):
    """The trial whose codes predictions are measured with: that of the middle bits, whose errors are neither gross nor lost in rounding."""
    return sorted(trials, key=lambda trial: sum(trial.bits))[(len(trials) - 1) // 2]


def choices_of(trials, divergences):
    """Choices from trials and the divergences [2 sides, layers] that the probe's codes cause."""
    trials = sorted(trials, key=lambda trial: sum(trial.bits))
    moves = numpy.stack([trial.moves for trial in trials])
    of_layer = probe_of(trials).moves.sum(-1)
    weights = numpy.divide(divergences, of_layer, out=numpy.zeros_like(of_layer), where=of_layer > 0)
    return Choices([trial.codec for trial in trials], numpy.array([trial.bits for trial in trials]), moves * weights[..., None])
