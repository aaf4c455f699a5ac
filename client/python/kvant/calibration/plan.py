"""Codecs for each layer, KV head and side from what each of some codecs was measured to lose there. Wants numpy alone.

A unit is one side of one KV head of one layer. An artifact holds the measurements as three tensors:

    allocation.codecs   U8 [bytes]: codec specs, one a line, cheapest first
    allocation.bits     [codecs, 2]: bits per number of keys and of values, side information included
    allocation.losses   [codecs, 2, layers, kv_heads]: what a unit of keys, of values loses with the codec; losses of all units add up
"""

import dataclasses
import json

import numpy

from kvant._core import InvalidArgumentError
from kvant.calibration.allocation import Units, allocate
from kvant.spec import LayerPlan

_NAMES = ("allocation.codecs", "allocation.bits", "allocation.losses")


@dataclasses.dataclass
class Choices:
    """What units may be coded with, cheapest first: codec specs, bits [codecs, 2], losses [codecs, 2, layers, kv_heads]."""

    codecs: list
    bits: numpy.ndarray
    losses: numpy.ndarray

    def tensors(self):
        """By name, numpy arrays of an artifact."""
        text = numpy.frombuffer("\n".join(self.codecs).encode(), numpy.uint8)
        return dict(zip(_NAMES, (text, self.bits.astype(numpy.float32), self.losses.astype(numpy.float32)), strict=True))

    @staticmethod
    def of(tensors):
        """From an artifact's tensors by name, None if it holds none of these."""
        if _NAMES[0] not in tensors:
            return None
        try:
            text, bits, losses = (tensors[name] for name in _NAMES)
        except KeyError as error:
            raise InvalidArgumentError(f"artifact: tensor {error} is missing beside {_NAMES[0]}") from None
        codecs = bytes(text.astype(numpy.uint8)).decode("utf-8", "replace").split("\n")
        for name, tensor, shape in ((_NAMES[1], bits, [len(codecs), 2]), (_NAMES[2], losses, [len(codecs), 2, *losses.shape[2:4]])):
            if list(tensor.shape) != shape or not numpy.isfinite(tensor).all():
                raise InvalidArgumentError(f"artifact: tensor {name} {list(tensor.shape)} of {len(codecs)} codecs must be finite numbers {shape}")
        if losses.ndim != 4 or not losses.size:
            raise InvalidArgumentError(f"artifact: tensor {_NAMES[2]} {list(losses.shape)} has no layers and heads")
        return Choices(codecs, bits.astype(numpy.float64), losses.astype(numpy.float64))


def fill(choices, target, sides=(0, 1)):
    """Index into choices of each unit, [sides, layers, kv_heads], for at most `target` bits per number of these sides on average.
    Raises InvalidArgumentError below what the cheapest choices take."""
    shape = choices.losses.shape[2:]
    groups = [Units(choices.losses[:, side].reshape(len(choices.codecs), -1).T, choices.bits[:, side]) for side in sides]
    least = float(choices.bits[0, list(sides)].mean())
    if target < least * (1 - 1e-12):
        raise InvalidArgumentError(f"allocation: target_bits={target:g}: the cheapest codec, {choices.codecs[0]}, takes {least:g}")
    chosen = allocate(groups, target * len(sides) * shape[0] * shape[1])
    return numpy.stack([part.reshape(shape) for part in chosen])


def mean_bits(choices, chosen):
    """(keys, values): bits per number on average."""
    return tuple(float(choices.bits[:, side][chosen[side]].mean()) for side in range(2))


def specs_of(choices, chosen, values=None):
    """(keys, values, overrides): default codecs and kvant.LayerPlan of the units with others, from `chosen` [2, layers, kv_heads]; with
    `values`, the codec of all values, from [1, layers, kv_heads]."""
    _, layers, heads = chosen.shape

    def pair(layer, head):
        keys = choices.codecs[chosen[0, layer, head]]
        return keys, choices.codecs[chosen[1, layer, head]] if values is None else values

    pairs = [[pair(layer, head) for head in range(heads)] for layer in range(layers)]
    default = max(sorted({each for row in pairs for each in row}), key=lambda each: sum(row.count(each) for row in pairs))
    overrides = []
    for layer, row in enumerate(pairs):
        first = 0
        while first < heads:
            last = first
            while last + 1 < heads and row[last + 1] == row[first]:
                last += 1
            if row[first] != default:
                overrides.append(LayerPlan(layer, layer, *row[first], first_head=first, last_head=last))
            first = last + 1
    return (*default, overrides)


def table(names, chosen):
    """The allocation for people: a line per layer, keys and values of each KV head; `names` are short ones of the choices."""
    width = max(map(len, names))
    lines = ["layer  keys of each KV head" + " " * max(0, chosen.shape[2] * (width + 1) - 19) + "  values of each KV head"]
    for layer in range(chosen.shape[1]):
        sides = [" ".join(names[choice].rjust(width) for choice in chosen[side, layer]) for side in range(2)]
        lines.append(f"{layer:5}  {sides[0].ljust(20)}  {sides[1]}")
    return "\n".join(lines)


def save_plan(specs, path):
    """Writes what specs_of gave as json."""
    keys, values, overrides = specs
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"keys": keys, "values": values, "overrides": [dataclasses.asdict(each) for each in overrides]}, file, indent=1)
        file.write("\n")


def load_plan(path):
    """Fields of kvant.KVCacheConfig: keys, values and overrides, as save_plan wrote them."""
    with open(path, encoding="utf-8") as file:
        plan = json.load(file)
    try:
        return {"keys": plan["keys"], "values": plan["values"], "overrides": [LayerPlan(**entry) for entry in plan["overrides"]]}
    except (KeyError, TypeError) as error:
        raise InvalidArgumentError(f"plan {path}: {error}; keys, values and overrides as kvant calibrate --plan-out writes them") from None
