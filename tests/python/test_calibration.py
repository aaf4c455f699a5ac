"""Allocation of bits, and the formats that plans are held against. What artifacts are made of is tested in tests/tools."""

import itertools
import types

import pytest

torch = pytest.importorskip("torch")
import numpy  # noqa: E402
from kvant.calibration.allocation import Units, allocate  # noqa: E402
from kvant.command import yardsticks  # noqa: E402
from lloyd_errors import LLOYD_ERRORS  # noqa: E402


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_allocation_is_the_best_there_is():
    generator = numpy.random.default_rng(4)
    errors, bits = numpy.array(LLOYD_ERRORS[:5]), numpy.arange(5.0)
    for _ in range(100):
        units, budget = generator.integers(1, 6), generator.integers(0, 20)
        costs = generator.lognormal(0, 2, units)[:, None] * errors
        (chosen,) = allocate([Units(costs, bits)], budget)
        tried = (sum(costs[range(units), c]) for c in itertools.product(range(5), repeat=units) if sum(c) <= budget)
        assert bits[chosen].sum() <= budget
        assert costs[range(units), chosen].sum() <= min(tried) * (1 + 1e-12)


def test_allocation_meets_a_fraction_and_refuses_the_impossible():
    costs = numpy.outer(numpy.geomspace(1, 100, 64), LLOYD_ERRORS[1:5])
    chosen = allocate([Units(costs, numpy.array([1.25, 2.25, 3.25, 4.25]))] * 2, 2.8 * 128)
    mean = numpy.concatenate([1.25 + part for part in chosen]).mean()
    assert 2.8 - 1 / 128 < mean <= 2.8
    assert chosen[0][0] < chosen[0][-1]
    with pytest.raises(ValueError, match="the least choices need 80"):
        allocate([Units(costs, numpy.array([1.25, 2.25, 3.25, 4.25]))], 79)


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_yardsticks_are_ggmls(name):
    gguf = pytest.importorskip("gguf")
    kind = getattr(gguf.GGMLQuantizationType, name.upper())
    rows = normal(200, 128).float()
    rows[3] = 0
    rows[4, 7] = 60
    theirs = gguf.quants.dequantize(gguf.quants.quantize(rows.numpy(), kind), kind)
    assert numpy.array_equal(yardsticks.FORMATS[name][0](rows).numpy(), theirs)


@pytest.mark.parametrize(("kind", "paired"), [("llama", True), ("qwen2", False)])
def test_yardsticks_group_keys_as_ggml_files_order_them(kind, paired):
    rows = normal(3, 2, 50, 64).float()
    of_keys, of_values = yardsticks.codes_of("q4_0", types.SimpleNamespace(model_type=kind))
    assert torch.equal(of_values(rows), yardsticks.q4_0(rows))
    expected = torch.empty_like(rows)
    # Channel i of one half and channel i of the other are a rotary pair.
    order = [channel for i in range(32) for channel in (i, i + 32)] if paired else list(range(64))
    expected[..., order] = yardsticks.q4_0(rows[..., order])
    assert torch.equal(of_keys(rows), expected)
    assert torch.equal(expected, yardsticks.q4_0(rows)) != paired


def test_yardsticks_code_what_left_the_recent_window():
    cache = yardsticks.cache_of((yardsticks.q4_0, yardsticks.q8_0), 1)
    keys, values = normal(1, 2, 300, 64).float(), normal(1, 2, 300, 64, seed=2).float()
    for first in range(0, 300, 30):
        part = slice(first, first + 30)
        got_keys, got_values = cache.update(keys[:, :, part], values[:, :, part], 0)
    # 270 tokens were held before the last pass: one block of 128 is more than 64 + 32 tokens old.
    assert torch.equal(got_keys[:, :, 4:128], yardsticks.q4_0(keys[:, :, 4:128]))
    assert torch.equal(got_values[:, :, 4:128], yardsticks.q8_0(values[:, :, 4:128]))
    for got, exact in ((got_keys, keys), (got_values, values)):
        assert torch.equal(got[:, :, :4], exact[:, :, :4]) and torch.equal(got[:, :, 128:], exact[:, :, 128:])
