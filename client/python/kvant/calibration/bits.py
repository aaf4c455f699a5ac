"""Bits for each layer, KV head and side: RateQuant's greedy (arXiv 2605.06675) on measured errors.

A unit is one side of one KV head of one layer. What it loses with a codec is measured with the product's codec on the model's rows: how
far the layer's output moves, relative to the residual stream that it is added to, token by token: the stream of a first token is often
a thousand times as large as that of others.
"""

import dataclasses
import json

import numpy

import kvant
from kvant.calibration.allocation import Units, allocate
from kvant.calibration.measured import LayerAttention, decoded, relative_error
from kvant.calibration.statistics import SINK_TOKENS


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
class Choice:
    """A codec spec that all units were tried with: bits of either side, and by side [layers, kv_heads] what they lose and their error."""

    spec: str
    bits: tuple
    losses: list
    errors: list


def try_spec(spec, codec, layers, progress):
    """A Choice: `spec` is a kvant.StoreSpec of the model with codec `codec` for keys and values."""
    import torch

    keys, values = (torch.stack([getattr(layer, side) for layer in layers]) for side in ("keys", "values"))
    key_codes, value_codes, bits = decoded(spec, keys, values)
    coded = key_codes.shape[2]
    losses, errors = (numpy.zeros((2, len(layers), keys.shape[1])) for _ in range(2))
    for index, layer in enumerate(layers):
        attention = LayerAttention(
            layer.queries[:, :coded], layer.keys[:, :coded], layer.values[:, :coded], layer.scale, layer.projection
        )
        for head in range(keys.shape[1]):
            for side, loss in enumerate((attention.key_loss(head, key_codes[index, head]), attention.value_loss(head, value_codes[index, head]))):
                losses[side, index, head] = float((loss / layer.stream_square[:coded])[SINK_TOKENS:].mean())
        errors[0, index] = relative_error(layer.keys[:, :coded], key_codes[index])
        errors[1, index] = relative_error(layer.values[:, :coded], value_codes[index])
        progress.update(1)
    return Choice(codec, bits, list(losses), list(errors))


def fill(choices, target):
    """Index into choices of each unit, [2 sides, layers, kv_heads], for `target` bits per number on average, side information included."""
    groups = []
    for side in range(2):
        costs = numpy.stack([choice.losses[side].ravel() for choice in choices], 1)
        groups.append(Units(costs, numpy.array([choice.bits[side] for choice in choices])))
    shape = choices[0].losses[0].shape
    chosen = allocate(groups, target * 2 * shape[0] * shape[1])
    return numpy.stack([part.reshape(shape) for part in chosen])


def plan_of(choices, chosen):
    """The allocation as a plan: default codecs of keys and values, and a list of overrides in the fields of kvant.spec.LayerPlan."""
    _, layers, heads = chosen.shape
    pairs = [[tuple(choices[chosen[side, layer, head]].spec for side in range(2)) for head in range(heads)] for layer in range(layers)]
    counted = sorted({pair for row in pairs for pair in row})
    default = max(counted, key=lambda pair: sum(row.count(pair) for row in pairs))
    overrides = []
    for layer, row in enumerate(pairs):
        first = 0
        while first < heads:
            last = first
            while last + 1 < heads and row[last + 1] == row[first]:
                last += 1
            if row[first] != default:
                entry = {"first_layer": layer, "last_layer": layer, "first_head": first, "last_head": last}
                overrides.append({**entry, "keys": row[first][0], "values": row[first][1]})
            first = last + 1
    return {"keys": default[0], "values": default[1], "overrides": overrides}


def mean_bits(choices, chosen):
    """(keys, values): bits per number on average."""
    return tuple(float(numpy.array([choice.bits[side] for choice in choices])[chosen[side]].mean()) for side in range(2))


def table(names, chosen):
    """The allocation for people: a line per layer, keys and values of each KV head; `names` are short ones of the choices."""
    width = max(map(len, names))
    lines = ["layer  keys of each KV head" + " " * max(0, chosen.shape[2] * (width + 1) - 19) + "  values of each KV head"]
    for layer in range(chosen.shape[1]):
        sides = [" ".join(names[choice].rjust(width) for choice in chosen[side, layer]) for side in range(2)]
        lines.append(f"{layer:5}  {sides[0].ljust(20)}  {sides[1]}")
    return "\n".join(lines)


def save_plan(plan, path):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(plan, file, indent=1)
        file.write("\n")


def load_plan(path):
    """Fields of kvant.KVCacheConfig: keys, values and overrides, as save_plan wrote them."""
    with open(path, encoding="utf-8") as file:
        plan = json.load(file)
    try:
        return {"keys": plan["keys"], "values": plan["values"], "overrides": [kvant.LayerPlan(**entry) for entry in plan["overrides"]]}
    except (KeyError, TypeError) as error:
        raise kvant.InvalidArgumentError(f"plan {path}: {error}; keys, values and overrides as kvant calibrate --plan-out writes them") from None
