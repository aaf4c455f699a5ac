"""Codewords that RoPE can turn: what the codec `commvq` is made from (arXiv 2506.18879).

A pair that RoPE turns is a complex number. A stage has 64 complex codewords C; a code (a, b) stands for C[a] + i C[b], all pairs at once.
Stages are trained one after the other on what those before have left, by k-means with two assignments: each row takes the best of 4096
sums, then all codewords solve one least-squares problem. Paper and codec have the same greedy encoder, so rows are left as they will be.
"""

import numpy
from scipy.cluster.vq import kmeans2

WORDS = 64
_ROUNDS = 10
_CHUNK = 1024  # rows whose 4096 sums are compared at a time
_SHRINKAGE = 1.0  # rows that pull each codeword towards 0: few rows say little of one


def stages_for(bits, head_dim):
    """How many stages the codec has at so many bits per number."""
    return (bits * head_dim + 6) // 12


def codewords(rows, stages, seed):
    """[stages, 64, 2, head_dim / 2] from keys before RoPE, complex [tokens, pairs]. Rows are scaled to norm 1 first, as the codec does."""
    size = numpy.sqrt((numpy.abs(rows) ** 2).sum(1, keepdims=True))
    left = rows / numpy.where(size == 0, 1, size)
    books = []
    for stage in range(stages):
        words = _first_words(left, seed + stage)
        for _ in range(_ROUNDS):
            words = _best_words(left, *_codes(left, words))
        a, b = _codes(left, words)
        left = left - words[a] - 1j * words[b]
        books.append(numpy.stack([words.real, words.imag], 1))
    return numpy.stack(books)


def error(rows, books):
    """|k - k'|^2 / |k|^2 of the greedy encoder with these codewords, the mean over rows (with the least-squares scale)."""
    size = numpy.sqrt((numpy.abs(rows) ** 2).sum(1, keepdims=True))
    left = unit = rows / numpy.where(size == 0, 1, size)
    for book in books:
        words = book[:, 0] + 1j * book[:, 1]
        a, b = _codes(left, words)
        left = left - words[a] - 1j * words[b]
    coded = unit - left
    cosine = (coded.conj() * unit).real.sum(1) ** 2 / numpy.maximum((numpy.abs(coded) ** 2).sum(1), 1e-30)
    return float((1 - cosine).mean())


def _first_words(left, seed):
    """Half of what a row is, whichever of the two codewords takes it: k-means of rows over 1 + i, which C[a] + i C[a] is C[a] times."""
    real = numpy.concatenate([left.real, left.imag], 1)
    centres, _ = kmeans2(real, WORDS, minit="++", iter=3, rng=numpy.random.default_rng(seed))
    pairs = left.shape[1]
    return (centres[:, :pairs] + 1j * centres[:, pairs:]) / (1 + 1j)


def _codes(left, words):
    """(a, b) of each row: the sum C[a] + i C[b] that leaves the least."""
    squares = (numpy.abs(words) ** 2).sum(1)
    cross = 2 * (words.conj() @ (1j * words).T).real  # 2 <C[a], i C[b]>
    constant = (squares[:, None] + squares[None] + cross).astype(numpy.float32)
    codes = []
    for first in range(0, len(left), _CHUNK):
        products = left[first : first + _CHUNK] @ words.conj().T  # <x, C> and, as the imaginary part, <x, i C>
        sums = constant - 2 * products.real.astype(numpy.float32)[:, :, None] - 2 * products.imag.astype(numpy.float32)[:, None, :]
        codes.append(sums.reshape(len(sums), -1).argmin(1))
    codes = numpy.concatenate(codes)
    return codes // WORDS, codes % WORDS


def _best_words(left, a, b):
    """The codewords that leave least of all rows together, given the codes."""
    design = numpy.zeros((len(left), WORDS), complex)
    rows = numpy.arange(len(left))
    design[rows, a] += 1
    design[rows, b] += 1j
    normal = design.conj().T @ design + _SHRINKAGE * numpy.eye(WORDS)
    return numpy.linalg.solve(normal, design.conj().T @ left)
