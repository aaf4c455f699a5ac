"""The directions of rows, and bits for each: what codes of directions (the codec `spectral`) are made from."""

import numpy
import torch

from kvant.calibration.allocation import LLOYD_ERRORS, Units, allocate

_BITS = numpy.array([0, 1, 2, 3, 4, 8])  # that a direction may have
_RUN = 8  # directions with the same bits: codes come in layouts of eight
_LEAST_VARIANCE = 1e-9  # of the largest


def directions(covariance):
    """(basis [head_dim, head_dim], deviations [head_dim]): orthonormal rows, those of the largest deviation first. A direction's sign is
    that of its largest number, so that the same rows give the same basis."""
    variances, vectors = torch.linalg.eigh(covariance)
    variances = variances.flip(0).clamp_min(max(_LEAST_VARIANCE * float(variances.max()), 1e-30))
    basis = vectors.mT.flip(0)
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return basis * torch.where(largest < 0, -1.0, 1.0), variances.sqrt()


def water_fill(variances, weights, mean_bits):
    """U8 bits of each direction, mean_bits on average at most: reverse water-filling in whole steps on variance * weight * D(bits), D the
    error that Lloyd-Max codes really have."""
    loss = (variances * weights).numpy()
    order = numpy.argsort(-loss, kind="stable").reshape(-1, _RUN)
    units = Units(loss[order].sum(1)[:, None] * numpy.array(LLOYD_ERRORS)[_BITS], _RUN * _BITS)
    (chosen,) = allocate([units], mean_bits * len(loss))
    bits = numpy.zeros(len(loss), dtype=numpy.uint8)
    bits[order] = _BITS[chosen][:, None]
    return torch.from_numpy(bits)
