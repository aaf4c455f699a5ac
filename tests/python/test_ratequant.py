"""RateQuant: bits by measured losses, from a table to the plan of a store."""

import itertools
import re

import kvant
import numpy as np
import pytest
from kvant.calibration.allocation import Units, allocate
from kvant.calibration.plan import Choices, fill, mean_bits, specs_of
from lloyd_errors import LLOYD_ERRORS
from safetensors.numpy import load
from safetensors.numpy import save as safetensors

BITS = (2, 3, 4)
CODECS = [f"turboquant_mse:bits={bits}" for bits in BITS]
KIVI_ERRORS = [0.1548, 0.0282, 0.00612]  # of groups of 32 at 2, 3 and 4 bits, codecs.md 2.7


def choices(sensitivities):
    """Of units that lose sensitivity x D(bits), [2, layers, kv_heads]; a quarter of a bit is side information."""
    errors = np.array([LLOYD_ERRORS[bits] for bits in BITS])
    return Choices(CODECS, np.array([[bits + 0.25] * 2 for bits in BITS]), errors[:, None, None, None] * sensitivities)


def sensitivities(layers=4, heads=2, seed=1):
    return np.random.default_rng(seed).lognormal(0, 1.5, (2, layers, heads))


def test_bits_are_kept_and_the_loss_is_the_least():
    """Eight units: every allocation can be tried."""
    for seed in range(20):
        measured = choices(sensitivities(2, 2, seed))
        chosen = fill(measured, 3.125)
        spent = sum(measured.bits[c, 0] for c in chosen.ravel())
        assert spent <= 3.125 * 8 < spent + 1
        losses = measured.losses.reshape(3, 8)
        best = min(sum(losses[c, unit] for unit, c in enumerate(tried)) for tried in itertools.product(range(3), repeat=8) if sum(tried) <= 7)
        assert sum(losses[c, unit] for unit, c in enumerate(chosen.ravel())) <= best * (1 + 1e-12)


def test_errors_of_another_codec_turn_the_order_around():
    """Codes that lose by KIVI's law and by Lloyd's, alike in sensitivity: the first bit belongs to KIVI, which gains most by it. Who takes
    one law for the other gives it away, and loses more."""
    def spend(first, second):
        groups = [Units(np.array([errors]), np.array(BITS, float)) for errors in (first, second)]
        return [int(part[0]) for part in allocate(groups, 5)]

    kivi, lloyd = KIVI_ERRORS, [LLOYD_ERRORS[bits] for bits in BITS]
    right, wrong = spend(kivi, lloyd), spend(lloyd, kivi)
    assert (right, wrong) == ([1, 0], [0, 1])
    loss = lambda chosen: kivi[chosen[0]] + lloyd[chosen[1]]  # noqa: E731
    assert loss(right) < 0.85 * loss(wrong)


def test_target_bits_are_allocated_from_the_artifact():
    measured = choices(sensitivities())
    image = safetensors(measured.tensors())
    config = kvant.KVCacheConfig(method="ratequant", target_bits=2.75, artifact=image)
    keys, values, overrides = config.plan(4)
    chosen = fill(measured, 2.75)
    assert (keys, values, overrides) == specs_of(measured, chosen)
    assert 2.75 - 1 / 16 < sum(mean_bits(measured, chosen)) / 2 <= 2.75
    codecs = np.full((2, 4, 2), "", object)
    codecs[0], codecs[1] = keys, values
    for entry in overrides:
        at = slice(entry.first_layer, entry.last_layer + 1), slice(entry.first_head, entry.last_head + 1)
        codecs[0][at], codecs[1][at] = entry.keys, entry.values
    assert (codecs == np.array(CODECS, object)[chosen]).all()
    # A unit that loses more never has fewer bits than one that loses less.
    order = np.argsort(measured.losses[0].ravel())
    assert (np.diff(chosen.ravel()[order]) >= 0).all()


def test_values_may_have_their_own_codec():
    image = safetensors(choices(sensitivities()).tensors())
    config = kvant.KVCacheConfig(method="ratequant", target_bits=2.75, value_bits=16, artifact=image)
    keys, values, overrides = config.plan(4)
    assert values == "f16" and {entry.values for entry in overrides} == {"f16"}
    assert {entry.keys for entry in overrides} | {keys} > {CODECS[0]}


def test_bit_allocation_serves_ratequant():
    allocation = {"model.layers.0": 1, "model.layers.1": 2}
    keys, values, overrides = kvant.KVCacheConfig(method="ratequant", bit_allocation=allocation).plan(2)
    assert keys == "turboquant_rvq:bits=1" and overrides == [kvant.LayerPlan(1, 1, "turboquant_rvq:bits=2", values)]


def test_a_store_opens_with_the_plan():
    image = safetensors(choices(sensitivities(layers=1)).tensors())
    cache = kvant.KVCacheFactory.create(kvant.KVCacheConfig(method="ratequant", target_bits=2.75, artifact=image), num_heads=2, head_dim=64)
    for row in np.random.default_rng(1).standard_normal((300, 2, 64), np.float32):
        cache.append(row, row)
    assert np.isfinite(cache.attend(np.ones((2, 64), np.float32))).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"allocation.losses": None}, "tensor 'allocation.losses' is missing"),
        ({"allocation.bits": np.ones((2, 2), np.float32)}, "tensor allocation.bits [2, 2] of 3 codecs"),
        ({"allocation.losses": np.full((3, 2, 4, 2), np.nan, np.float32)}, "tensor allocation.losses [3, 2, 4, 2] of 3 codecs must be finite"),
        ({"allocation.losses": np.ones((3, 2), np.float32)}, "has no layers and heads"),
        ({"allocation.codecs": np.frombuffer(b"f32", np.uint8)}, "of 1 codecs"),
        ({"allocation.losses": np.ones((3, 2, 5, 2), np.float32)}, "losses are of 5 layers, the model has 4"),
    ],
)
def test_wrong_measurements_are_named(change, named):
    tensors = {name: tensor for name, tensor in {**choices(sensitivities()).tensors(), **change}.items() if tensor is not None}
    with pytest.raises(kvant.InvalidArgumentError, match=re.escape(named)):
        kvant.KVCacheConfig(method="ratequant", target_bits=2.75, artifact=safetensors(tensors)).plan(4)


def test_too_few_bits_are_refused():
    image = safetensors(choices(sensitivities()).tensors())
    with pytest.raises(kvant.InvalidArgumentError, match=re.escape("target_bits=2.2: the cheapest codec, turboquant_mse:bits=2, takes 2.25")):
        kvant.KVCacheConfig(method="ratequant", target_bits=2.2, artifact=image).plan(4)
    assert set(load(image)) == {"allocation.codecs", "allocation.bits", "allocation.losses"}
