"""The tensors of one layer, from its statistics and a sample of its rows."""

import torch

from kvant.calibration.codebook import as_codes_see_them, codebook
from kvant.calibration.gauge import KEYS_SHARE, gauges
from kvant.calibration.pairs import pair_gains
from kvant.calibration.spectral import directions, water_fill


def tensors_of(statistics, sample, projection_moment, turns, map_bits, seed):
    """By name without the layer: what quantizers/codecs/README.md lists. `sample` has keys and values [kv_heads, tokens, head_dim];
    projection_moment [kv_heads, head_dim, head_dim] is None where the output projection is not known: directions of values then weigh
    alike. turns: the model's calibration.rope.Turns."""
    tensors = {f"{side}.mean": statistics.mean(side) for side in ("keys", "values")}
    tensors |= {f"{side}.outliers": statistics.mean_square(side) for side in ("keys", "values")}
    # A channel that is always 0 keeps its size.
    smooth = statistics.largest_key.sqrt()
    tensors["keys.smooth"] = torch.where(smooth > 0, smooth, 1.0)
    tensors["keys.gauge"], tensors["keys.gauge_inverse"] = gauges(statistics.key_covariance, statistics.query_moment, KEYS_SHARE)
    tensors["keys.bias"] = statistics.plain_mean
    squares = (moment.diagonal(dim1=1, dim2=2) for moment in (statistics.key_covariance, statistics.query_moment))
    tensors["keys.pair_gains"] = pair_gains(*squares, turns)
    ones = torch.ones_like(smooth)
    for side, smoothed in (("keys", tensors["keys.smooth"]), ("values", ones)):
        rows = getattr(sample, side).to(torch.float64)
        books = [codebook(as_codes_see_them(rows[head], smoothed[head], seed), seed) for head in range(len(rows))]
        tensors[f"{side}.codebook"] = torch.stack(books)
        weighing = statistics.query_moment if side == "keys" else projection_moment
        bases = [_spectral(moment, None if weighing is None else weighing[head], map_bits)
                 for head, moment in enumerate(statistics.covariance_around_mean(side))]  # fmt: skip
        for name, parts in zip(("basis", "deviation", "bits"), zip(*bases, strict=True), strict=True):
            tensors[f"{side}.{name}"] = torch.stack(parts)
    return tensors


def _spectral(covariance, weighing, map_bits):
    """(basis, deviations, bits) of one KV head. A direction's error counts as much as what it is multiplied with is large there."""
    basis, deviations = directions(covariance)
    weights = torch.ones_like(deviations) if weighing is None else ((basis @ weighing) * basis).sum(1).clamp_min(0)
    return basis, deviations, water_fill(deviations**2, weights, map_bits)
