"""Arrays in KVCacheConfig: codebooks, smooth factors and rotations as published packages take them."""

import re

import kvant
import numpy as np
import pytest
from safetensors.numpy import load
from safetensors.numpy import save as safetensors

DIM, TOKENS = 64, 400


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def words(size=1.0):
    """256 words for normal parts of four numbers, from a few rounds of k-means."""
    parts = normal(1 << 14, 4, seed=5)
    book = parts[:256].copy()
    for _ in range(10):
        nearest = ((book**2).sum(1) - 2 * parts @ book.T).argmin(1)
        counts = np.maximum(1, np.bincount(nearest, minlength=256))
        book = np.stack([np.bincount(nearest, parts[:, i], 256) for i in range(4)], 1) / counts[:, None]
    return book * size


def attention_error(cache, keys, values, q):
    """Relative error of one query's output over rows [tokens, DIM]."""
    for key, value in zip(keys, values, strict=True):
        cache.append(key, value)
    logits = keys @ q / np.sqrt(DIM)
    weights = np.exp(logits - logits.max())
    expected = weights @ values / weights.sum()
    return np.linalg.norm(cache.attend(q) - expected) / np.linalg.norm(expected)


def one_head(**fields):
    return kvant.KVCacheFactory.create(kvant.KVCacheConfig(**fields), head_dim=DIM)


def uneven_rows():
    """Keys of which a few channels are large, in f32 as caches take them."""
    size = np.where(np.arange(DIM) % 16 == 3, 8.0, 0.5)
    return (normal(TOKENS, DIM) * size).astype(np.float32), normal(TOKENS, DIM, seed=2).astype(np.float32), size


@pytest.mark.parametrize("size", [0.3, 1.0, 5.0])
def test_words_of_any_size_serve(size):
    """With error D of each number (D: of words for normal parts at 2 bits, .097), keys and values move an output of 64 channels by at most
    sqrt(2 D / (1 - D)) of its size, five standard deviations of that estimate, 1 / sqrt(128) each, allowed for."""
    keys, values, channel_size = uneven_rows()
    q = (normal(DIM, seed=3) / channel_size).astype(np.float32)
    smooth = np.sqrt(np.abs(keys).max(0))
    error = attention_error(one_head(method="vecinfer", codebook=words(size), smooth_factors=smooth), keys, values, q)
    assert error < (2 * 0.097 / (1 - 0.097)) ** 0.5 * (1 + 5 / 128**0.5)


def test_smooth_factors_help():
    keys, values, size = uneven_rows()
    q = (normal(DIM, seed=3) / size).astype(np.float32)
    smooth = np.sqrt(np.abs(keys).max(0))
    with_factors, without = (attention_error(one_head(method="vecinfer", codebook=words(), smooth_factors=s), keys, values, q) for s in (smooth, np.ones(DIM)))
    assert with_factors < 0.75 * without


def test_directions_and_variances_serve_spectral():
    """Keys that vary along eight of 64 directions: four bits for these are a code of 1.3 bits or fewer, and as good as four bits."""
    turned = np.linalg.qr(normal(DIM, DIM, seed=7))[0]  # directions as columns
    variances = np.where(np.arange(DIM) < 8, 1.0, 1e-6)
    keys = ((normal(TOKENS, DIM) * np.sqrt(variances)) @ turned.T).astype(np.float32)
    values = normal(TOKENS, DIM, seed=2).astype(np.float32)
    q = (2 * normal(DIM, seed=3)).astype(np.float32)
    fields = {"method": "spectral", "values": "f32"}
    error = attention_error(one_head(rotations=[(turned, variances)], **fields), keys, values, q)
    wrong = attention_error(one_head(rotations=[(np.roll(turned, 8, axis=1), variances)], **fields), keys, values, q)
    assert error < 0.1 < wrong


def test_arrays_of_layers_and_heads():
    from kvant.given_arrays import artifact_of

    books = [[words(), words() * [1, 1, 1, 0.5]], words()]
    config = kvant.KVCacheConfig(method="vecinfer", codebook=books, smooth_factors=np.full((2, 8), 2.0))
    tensors = load(artifact_of(config, layers=2, kv_heads=2, head_dim=8))
    assert {name: tensor.shape for name, tensor in tensors.items() if name.startswith("layers.1.")} == {
        "layers.1.keys.smooth": (2, 8), "layers.1.keys.codebook": (2, 256, 4), "layers.1.values.codebook": (2, 256, 4)
    }  # fmt: skip
    first, second = tensors["layers.0.keys.codebook"]
    assert np.allclose(first[:, 3] / first[:, 0] / (second[:, 3] / second[:, 0]), 2)
    assert np.array_equal(tensors["layers.1.keys.codebook"][0], first)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"method": "vecinfer", "codebook": np.ones((128, 4)), "smooth_factors": np.ones(DIM)}, "codebook has shape [128, 4], [1, 256, 4] or [256, 4]"),
        ({"method": "vecinfer", "codebook": np.ones((256, 4))}, "wants smooth_factors beside codebook"),
        ({"method": "vecinfer", "codebook": np.ones((256, 4)), "smooth_factors": np.zeros(DIM)}, "smooth_factors of layer 0 are not all positive"),
        ({"method": "vecinfer", "codebook": np.zeros((256, 4)), "smooth_factors": np.ones(DIM)}, "codebook of layer 0 is all zeros"),
        ({"method": "vecinfer", "codebook": "mine", "smooth_factors": np.ones(DIM)}, "codebook is no array of numbers, but str"),
        ({"method": "vecinfer", "codebook": [np.ones((256, 4))] * 3, "smooth_factors": np.ones(DIM)}, "list of 3 arrays, the model has 1 layers"),
        ({"method": "vecinfer", "codebook": np.full((256, 4), np.nan), "smooth_factors": np.ones(DIM)}, "codebook holds NaN"),
        ({"method": "vecinfer", "codebook": np.ones((256, 4)), "artifact": safetensors({"x": np.ones(1)})}, "codebook and artifact are two sources"),
        ({"method": "spectral", "rotations": [np.eye(DIM)]}, "rotations[0] must be a pair"),
        ({"method": "spectral", "rotations": [(np.eye(8), np.ones(8))]}, "rotations[0][0] has shape [8, 8]"),
        ({"method": "spectral", "rotations": [(np.eye(DIM), -np.ones(DIM))]}, "negative variances"),
        ({"method": "commvq", "bits": 2, "codebook": np.ones((4, 256, 16))}, "[1, 11, 64, 2, 32]"),
        ({"method": "turboquant_mse", "bits": 2, "codebook": np.ones((256, 4))}, "means nothing for method 'turboquant_mse'"),
    ],
)
def test_wrong_arrays_are_named(fields, named):
    with pytest.raises((kvant.InvalidArgumentError, kvant.UnsupportedError), match=re.escape(named)):
        one_head(**fields)
