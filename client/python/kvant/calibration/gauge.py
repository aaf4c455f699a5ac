"""Coordinates in which the errors of keys and the queries that weigh them look alike.

Codes of rotated rows spread their error evenly over the dims. What a key's error e does to attention is <q, e>, so its size follows
e' Q e with Q the second moment of the queries. Among all B with k' = B (k - mean) and q' = B^-T q (which leave <q, k - mean> as it is),
the one with B B = (C # Q^-1)^-1 gives k' and q' the same covariance, C # Q^-1 being the geometric mean of the keys' covariance C and of
Q^-1; it makes E|q'|^2 E|k'|^2, which the error of such codes is proportional to, as small as it can be.

That holds for means over all pairs of a query and a key. The pairs that decide are few and unlike the mean, so keys go half the way,
B^(1/2): on SmolLM2, where the whole way is no better than no matrix, that has two thirds of its KL at 3 bits; on Qwen2.5, where the whole
way is best, one and a half times (tools/docs/adr/0034).
"""

import torch

KEYS_SHARE = 0.5  # of the way, for keys
SHRINKAGE = 0.02  # of both moments towards a multiple of the identity: few tokens leave small eigenvalues uncertain
_LEAST_EIGENVALUE = 1e-9  # of the largest


def _power(matrix, exponent):
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(_LEAST_EIGENVALUE * float(values.max()))
    return (vectors * values**exponent) @ vectors.mT


def _shrunk(moment):
    identity = torch.eye(len(moment), dtype=moment.dtype)
    return (1 - SHRINKAGE) * moment + SHRINKAGE * moment.diagonal().mean() * identity


def _symmetric(matrix):
    """To the last bit: products of symmetric matrices are so up to rounding."""
    return (matrix + matrix.mT) / 2


def gauge(rows_moment, weights_moment, share=1.0):
    """(B^share, B^-share), symmetric, [head_dim, head_dim] in f64, from the covariance of rows and the second moment of what weighs them,
    scaled so that rows keep their mean square. The identity where either is 0."""
    identity = torch.eye(len(rows_moment), dtype=torch.float64)
    if rows_moment.diagonal().sum() <= 0 or weights_moment.diagonal().sum() <= 0:
        return identity, identity
    rows, weights = _shrunk(rows_moment), _shrunk(weights_moment)
    root, inverse_root = _power(rows, 0.5), _power(rows, -0.5)
    mean = _symmetric(root @ _power(_symmetric(inverse_root @ torch.linalg.inv(weights) @ inverse_root), 0.5) @ root)
    transform, inverse = _symmetric(_power(mean, -0.5 * share)), _symmetric(_power(mean, 0.5 * share))
    scale = torch.sqrt(rows_moment.trace() / (transform @ rows_moment @ transform).trace())
    return transform * scale, inverse / scale


def gauges(rows_moments, weights_moments, share=1.0):
    """gauge() of each KV head: two tensors [kv_heads, head_dim, head_dim]."""
    pairs = [gauge(rows, weights, share) for rows, weights in zip(rows_moments, weights_moments, strict=True)]
    return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])
