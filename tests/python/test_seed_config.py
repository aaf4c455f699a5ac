"""The configuration interface of the published packages: names and defaults, one table of methods, knobs that mean nothing are said."""

import re

import kvant
import numpy as np
import pytest
from kvant.methods import METHODS
from safetensors.numpy import save as safetensors

# Codecs that the configuration of one layer cannot serve, and what they say they lack.
LACKING = {
    "spectral": "needs the tensor layers.0.keys.mean",
    "commvq": "the store's rope has no pairing",
    "vecinfer": r"needs the artifact tensor layers\.0\.keys\.",
}


def offered():
    """The codecs that this build has, as its registry says them."""
    with pytest.raises(kvant.InvalidArgumentError) as caught:
        one_layer(keys="no_such_codec")
    return set(re.search(r"known: ([^)]*)\)", str(caught.value)).group(1).split(", "))


def one_layer(**fields):
    return kvant.KVCacheFactory.create(kvant.KVCacheConfig(**fields), num_heads=2, head_dim=64)


def test_every_method_has_its_codec():
    named = {method.codec for method in METHODS.values()} | {"outlier"}
    assert named <= offered()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_works_or_says_what_it_lacks(method):
    codec = METHODS[method].codec
    if codec in LACKING:
        with pytest.raises((kvant.InvalidArgumentError, kvant.UnsupportedError), match=LACKING[codec]):
            one_layer(method=method)
    else:
        assert len(one_layer(method=method)) == 0


def opened(keys, values):
    """The identity of a store with these codecs, or why it cannot be."""
    spec = kvant.StoreSpec(name="one", model="m", tokenizer="t", layers=1, kv_heads=2, head_dim=64, keys=keys, values=values)
    try:
        return kvant.connect("embedded:").open_store(spec).info["identity"]
    except (kvant.InvalidArgumentError, kvant.UnsupportedError) as error:
        return str(error).split("; presets")[0]  # which texts of methods do not go on to name


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize(
    "fields",
    [{}, {"bits": 2}, {"bits": 3, "value_bits": 4}, {"bits": 4, "value_bits": 16}, {"bits": 2, "value_bits": 8}, {"bits": 2, "n_outlier_channels": 8}],
    ids=str,
)
def test_plan_texts_of_a_method_are_what_a_configuration_comes_to(method, fields):
    """The library reads methods, too, for programs that are not Python: kvantctl quality --plans method=...; both name the same codecs."""
    try:
        keys, values, _ = kvant.KVCacheConfig(method=method, **fields).plan(1)
    except (kvant.InvalidArgumentError, kvant.UnsupportedError):
        keys = values = None
    text = ",".join([f"method={method}", *(f"{name}={value}" for name, value in fields.items())])
    if keys is None:
        assert len(opened(text, text)) != 32  # refused as well
    else:
        assert opened(text, text) == opened(keys, values)


def test_names_and_defaults_of_the_published_interface():
    config = kvant.KVCacheConfig(method="turboquant_rvq")
    published = {
        "bits": 1, "value_bits": 2, "num_residuals": 2, "use_hadamard": True, "codebook": None, "smooth_factors": None, "rotations": None,
        "bit_allocation": None, "outlier_observer": None, "outlier_bits": 8, "sketch_dim": 64, "num_clusters": 64, "num_subspaces": None,
        "use_fused_sdpa": True, "signal_bits": 4, "noise_bits": 1, "seed": 0, "jl_dim": None, "n_outlier_channels": None, "capacity": None,
        "n_calib_tokens": None, "sliding_window": None, "store": None, "observers": [], "dtype": None, "bit_width_outlier": None,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in published} == published


@pytest.mark.parametrize(
    ("fields", "keys", "values"),
    [
        ({}, "balanced", "balanced"),
        ({"keys": "f32", "values": "int8"}, "f32", "int8"),
        ({"method": "none"}, "f16", "f16"),
        ({"method": "fp16", "value_bits": 4}, "f16", "turboquant_mse:bits=4"),
        ({"method": "int8"}, "int8", "int8"),
        ({"method": "turboquant_mse", "bits": 4, "value_bits": 16}, "turboquant_mse:bits=4", "f16"),
        ({"method": "turboquant_mse", "bit_width_inlier": 3}, "turboquant_mse:bits=3", "turboquant_mse:bits=2"),
        ({"method": "turboquant_rvq"}, "turboquant_rvq:bits=1", "turboquant_mse:bits=2"),
        ({"method": "turboquant_prod", "bits": 3, "jl_dim": 64, "value_bits": 8}, "turboquant_prod:bits=3,m=64", "int8"),
        ({"method": "turboquant_prod", "bits": 3}, "turboquant_prod:bits=3", "turboquant_mse:bits=2"),
        ({"method": "turboquant_prod"}, "turboquant_prod:bits=2", "turboquant_mse:bits=2"),
        ({"method": "rabitq"}, "rabitq:bits=1", "turboquant_mse:bits=2"),
        ({"method": "qjl"}, "qjl:m=64", "turboquant_mse:bits=2"),
        ({"method": "qjl", "jl_dim": 128}, "qjl:m=128", "turboquant_mse:bits=2"),
        ({"method": "spectral"}, "spectral:signal=4,noise=1", "turboquant_mse:bits=2"),
        ({"method": "kivi"}, "kivi:bits=2,group=32", "kivi:bits=2,group=32"),
        ({"method": "kivi", "bits": 4, "value_bits": 16, "kivi_group_size": 64}, "kivi:bits=4,group=64", "f16"),
        ({"method": "polar"}, "polarquant:first=2,others=2", "turboquant_mse:bits=2"),
        ({"method": "polarquant", "bits": 4}, "polarquant:first=4,others=4", "turboquant_mse:bits=2"),
        ({"method": "comm_vq", "bits": 2}, "commvq:bits=2", "turboquant_mse:bits=2"),
        (
            {"method": "turboquant_mse", "bits": 2, "n_outlier_channels": 8},
            "outlier:channels=8,hot=(int8),rest=(turboquant_mse:bits=2)",
            "turboquant_mse:bits=2",
        ),
    ],
)
def test_methods_are_plans(fields, keys, values):
    assert kvant.KVCacheConfig(**fields).plan(4) == (keys, values, [] if "method" in fields else ())


def test_bits_of_each_layer_are_overrides():
    config = kvant.KVCacheConfig(method="turboquant_mse", bit_width_inlier=[2, 4, 2])
    keys, values, overrides = config.plan(3)
    assert keys == "turboquant_mse:bits=2"
    assert overrides == [kvant.LayerPlan(1, 1, "turboquant_mse:bits=4", values)]
    allocation = {"layers.0": 2, "layers.1": 4, "layers.2": 2}
    assert kvant.KVCacheConfig(method="turboquant_mse", bit_allocation=allocation).plan(3) == (keys, values, overrides)
    with pytest.raises(kvant.InvalidArgumentError, match="has 3 layers, the model 4"):
        config.plan(4)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"method": "turboquant_mse", "sketch_dim": 128}, "sketch_dim=128 means nothing for method 'turboquant_mse'"),
        ({"method": "none", "bits": 4}, "bits=4 means nothing for method 'none'"),
        ({"method": "qjl", "bits": 2}, "bits=2"),
        ({"method": "qjl", "sketch_dim": 100}, "m=100 is not a multiple of 8"),
        ({"method": "rabitq", "num_clusters": 8}, "num_clusters=8 means nothing for method 'rabitq'"),
        ({"method": "turboquant_rvq", "bits": 3}, "bits"),
        ({"bits": 4}, "without a method"),
        ({"method": "turboquant_mse", "use_hadamard": False}, "use_hadamard=False"),
        ({"method": "turboquant_mse", "use_fused_sdpa": False}, "use_fused_sdpa=False"),
        ({"method": "turboquant_mse", "observers": [print]}, "observers="),
        ({"method": "turboquant_mse", "store": {"some": "artifacts"}}, "store="),
        ({"method": "turboquant_mse", "value_bits": 9}, "value_bits=9 is not one of"),
        ({"method": "turboquant_mse", "bits": 2, "bit_width_inlier": 3}, "two names of one knob"),
        ({"method": "turboquant_mse", "enable_outlier_two_stream": True}, "without n_outlier_channels"),
        ({"method": "turboquant_rvq", "num_residuals": 3}, "num_residuals=3"),
        ({"method": "ratequant", "target_bits": 2.5}, "target_bits=2.5: there is no artifact; `kvant calibrate MODEL"),
        ({"method": "ratequant", "target_bits": 2.5, "artifact": safetensors({"x": np.ones(1)})}, "target_bits=2.5: the artifact holds no tensor"),
        ({"method": "ratequant", "target_bits": 2.0, "bits": 2}, "bits=2 and target_bits=2.0 both say"),
        ({"method": "turboquant_mse", "target_bits": 2.0}, "target_bits=2.0 means nothing for method 'turboquant_mse'"),
        ({"method": "ratekwant"}, "unknown method 'ratekwant'"),
        ({"method": "turboquant_mse", "bits": 9}, "parameter bits=9"),
        ({"method": "turboquant_mse", "n_outlier_channels": 12}, "channels=12 is not a multiple of 8"),
        ({"method": "kivi", "value_bits": 1}, "value_bits=1: kivi needs at least 2"),
        ({"method": "kivi", "bit_width_inlier": 1}, "bits=1: kivi needs at least 2"),
        ({"method": "kivi", "kivi_group_size": 48}, "parameter group=48"),
        ({"method": "vecinfer", "bits": 2, "num_subspaces": 8}, "num_subspaces=8"),
    ],
)
def test_what_means_nothing_is_an_error_that_names_it(fields, named):
    with pytest.raises((kvant.InvalidArgumentError, kvant.UnsupportedError), match=re.escape(named)):
        one_layer(**fields)


def plain(q, keys, values):
    logits = keys.astype(float) @ q.astype(float) / np.sqrt(len(q))
    weights = np.exp(logits - logits.max())
    return weights @ values / weights.sum()


@pytest.mark.parametrize(
    ("fields", "row_error"),
    [({"keys": "f32", "values": "f32"}, 1e-6), ({"method": "int8"}, 3.5 / 127 / np.sqrt(12)), ({"keys": "hq", "values": "hq"}, 0.0095**0.5), ({}, 0.0345**0.5)],
)
@pytest.mark.parametrize("seed", range(5))
def test_one_layer_attends(fields, row_error, seed):
    """Rows of normal numbers: a code keeps a row to `row_error` of its size (a step of 1/127 of the largest number, of some 3.5 in 64;
    the distortions of 4 and 3 bits). Scores have unit variance, so that errors of keys and of values each move the sum by that part of
    its own size: sqrt(2) of it together. 64 channels tell that to 1 in sqrt(128): five of those above it is the bound."""
    rng = np.random.default_rng(3)
    keys, values = rng.standard_normal((2, 400, 64), dtype=np.float32)
    q = rng.standard_normal(64, dtype=np.float32)
    cache, again = (kvant.KVCacheFactory.create(kvant.KVCacheConfig(seed=seed, **fields), head_dim=64) for _ in range(2))
    for key, value in zip(keys, values):
        cache.append(key, value)
        again.append(key, value)
    expected = plain(q, keys, values)
    error = np.linalg.norm(cache.attend(q) - expected) / np.linalg.norm(expected)
    assert error < 2**0.5 * row_error * (1 + 5 / 128**0.5)
    assert np.array_equal(again.attend(q), cache.attend(q)), "results of one seed repeat"
    assert len(cache) == 400
    cache.reset()
    assert len(cache) == 0
    with pytest.raises(kvant.InvalidArgumentError, match="empty"):
        cache.attend(q)


def test_a_sliding_window_sees_the_newest_tokens():
    rng = np.random.default_rng(4)
    keys, values = rng.standard_normal((2, 300, 64), dtype=np.float32)
    q = rng.standard_normal(64, dtype=np.float32)
    builder = kvant.KVCacheBuilder().with_method("none").with_head_dim(64).with_sliding_window(50)
    cache = builder.build()
    for key, value in zip(keys, values):
        cache.append(key, value)
    expected = plain(q, keys[-50:], values[-50:])
    assert np.abs(cache.attend(q) - expected).max() < 2e-3 * np.abs(expected).max()  # f16 has 11 bits


def test_capacity_is_a_limit():
    cache = kvant.KVCacheFactory.create(kvant.KVCacheConfig(method="none", capacity=2), head_dim=8)
    for _ in range(2):
        cache.append(np.ones(8), np.ones(8))
    with pytest.raises(kvant.OutOfRangeError, match="holds 2 tokens"):
        cache.append(np.ones(8), np.ones(8))
    with pytest.raises(kvant.InvalidArgumentError, match="a key of 9 numbers"):
        cache.reset()
        cache.append(np.ones(9), np.ones(8))


def test_codes_are_smaller():
    def size(**fields):
        cache = kvant.KVCacheFactory.create(kvant.KVCacheConfig(**fields), head_dim=64)
        for _ in range(1000):
            cache.append(np.ones(64), np.ones(64))
        return cache.memory_bytes()

    raw, four = size(method="none"), size()
    assert raw >= 1000 * 2 * 64 * 2
    assert four < 0.5 * raw  # a fourth and side information, but for the newest rows, which are raw


def test_shapes_that_attention_serves():
    assert kvant.supports_shape(batch=1, heads=32, seq_len=4096, head_dim=128)
    assert kvant.supports_shape(heads=8, kv_heads=2, head_dim=64, codec="int8")
    assert not kvant.supports_shape(heads=8, kv_heads=3, head_dim=64)
    assert not kvant.supports_shape(head_dim=100)  # rows are multiples of 8 numbers
    assert kvant.supports_shape(256, 32, 128)
    assert not kvant.supports_shape(256, 16, 128)  # sub-vectors of eight numbers
    assert not kvant.supports_shape(4096, 32, 128)
