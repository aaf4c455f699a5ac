"""Codebooks for vector codes: 256 words of four numbers, by k-means over parts of rows that look as the codes see them."""

import warnings

import numpy
import torch
from scipy.cluster.vq import kmeans2

PART = 4
WORDS = 256
_MAX_PARTS = 1 << 14  # of a head's: some 100 for each word and its negative
_CHOICES = 2048  # parts that first words are chosen from
_ROUNDS = 12


def as_codes_see_them(rows, smooth, seed):
    """Parts [n, 4] of rows [tokens, head_dim]: smoothed, rotated at random, with a root mean square of 1. A codec's own rotation has other
    signs, which a law that any rotation gives alike does not depend on."""
    generator = numpy.random.default_rng(seed)
    rotation = numpy.linalg.qr(generator.normal(size=(rows.shape[1], rows.shape[1])))[0]
    rows = (rows / smooth).numpy().astype(numpy.float64) @ rotation
    size = numpy.sqrt((rows**2).mean(1, keepdims=True))
    parts = (rows / numpy.where(size == 0, 1, size)).reshape(-1, PART)
    if len(parts) > _MAX_PARTS:
        parts = parts[numpy.sort(generator.choice(len(parts), _MAX_PARTS, replace=False))]
    return parts


def codebook(parts, seed):
    """[256, 4]: word i + 128 is the negative of word i. Parts of rotated rows are as likely as their negatives, and pairs of words are
    scored in one product. Each round turns every part to the side of its nearest word and takes a step of scipy's k-means there."""
    side = parts[:, 0] >= 0
    sided = numpy.where(side[:, None], parts, -parts)
    distinct = numpy.unique(sided, axis=0)
    if len(distinct) <= WORDS // 2:  # of rows that are constant, or few: all of them are words
        return _closed(numpy.resize(distinct, (WORDS // 2, PART)))
    # Choosing first words among all parts would take longest.
    first = distinct if len(distinct) <= _CHOICES else sided[:: max(1, len(parts) // _CHOICES)]
    words, _ = kmeans2(first, WORDS // 2, minit="++", iter=1, rng=numpy.random.default_rng(seed))
    for _ in range(_ROUNDS):
        # |x - s w|^2 = |x|^2 + |w|^2 - 2 s <x, w> is least for s the sign of <x, w>.
        products = parts @ words.T
        nearest = ((words**2).sum(1) - 2 * numpy.abs(products)).argmin(1)
        turned = parts * numpy.where(numpy.take_along_axis(products, nearest[:, None], 1) < 0, -1, 1)
        with warnings.catch_warnings():  # a word that no part is nearest to stays where it is
            warnings.filterwarnings("ignore", "One of the clusters is empty")
            words, _ = kmeans2(turned, words, minit="matrix", iter=1)
    return _closed(words)


def _closed(words):
    """With their negatives."""
    return torch.from_numpy(numpy.concatenate([words, -words]))


def error(parts, words):
    """Mean |x - word|^2 / |x|^2 of the nearest words."""
    words = words.numpy()
    nearest = ((words**2).sum(1) - 2 * parts @ words.T).argmin(1)
    return float(((parts - words[nearest]) ** 2).sum() / (parts**2).sum())
