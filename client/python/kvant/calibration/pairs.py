"""Gains of pairs that RoPE turns."""

import torch

_LEAST_SHARE = 1e-6  # of the largest pair: quieter pairs count as that quiet


def pair_gains(keys_square, queries_square, turns):
    """Gains [kv_heads, head_dim] from the mean squares of keys within blocks and of queries [kv_heads, head_dim]: (K / Q)^(1/4) of each pair
    (of each channel that is not turned), which makes keys that are divided and queries that are multiplied alike. Scaled so that keys keep
    their mean square; 1 where either is all zeros."""
    keys, queries = (_of_pairs(square, turns) for square in (keys_square, queries_square))
    known = (keys.amax(1, keepdim=True) > 0) & (queries.amax(1, keepdim=True) > 0)
    keys, queries = (torch.maximum(square, _LEAST_SHARE * square.amax(1, keepdim=True)).clamp_min(1e-30) for square in (keys, queries))
    gains = (keys / queries) ** 0.25
    gains = gains * torch.sqrt((keys / gains**2).sum(1, keepdim=True) / keys.sum(1, keepdim=True))
    return torch.where(known, gains, 1.0)


def _of_pairs(squares, turns):
    """Both channels of a pair have the mean of both."""
    squares = squares.clone()
    mean = (squares[:, turns.first] + squares[:, turns.second]) / 2
    squares[:, turns.first] = squares[:, turns.second] = mean
    return squares
