"""Mathematics of calibration: gauges, bits, codebooks, directions, and the formats that plans are held against."""

import itertools
import types

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")
import numpy  # noqa: E402
from kvant.calibration import codebook as codebooks  # noqa: E402
from kvant.calibration import commvq  # noqa: E402
from kvant.calibration.allocation import LLOYD_ERRORS, Units, allocate  # noqa: E402
from kvant.calibration.gauge import SHRINKAGE, gauge  # noqa: E402
from kvant.calibration.pairs import pair_gains  # noqa: E402
from kvant.calibration.rope import Turns  # noqa: E402
from kvant.calibration.spectral import directions, water_fill  # noqa: E402
from kvant.calibration.statistics import BLOCK_TOKENS, SINK_TOKENS, LayerStatistics  # noqa: E402
from kvant.command import yardsticks  # noqa: E402


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(dims, seed):
    """Of rows whose channels differ a hundredfold and are mixed."""
    mixed = normal(dims, dims, seed=seed) * torch.logspace(-1, 1, dims, dtype=torch.float64)
    return mixed.mT @ mixed / dims


def test_a_gauge_evens_out_keys_and_queries():
    keys, queries = moment(16, 2), moment(16, 3)
    transform, inverse = gauge(keys, queries)
    identity = torch.eye(16, dtype=torch.float64)
    assert torch.allclose(transform @ inverse, identity, atol=1e-9)
    assert torch.equal(transform, transform.mT) and torch.equal(inverse, inverse.mT)
    # Rows keep their mean square, and <q', k'> is <q, k>: q' = B^-T q.
    assert torch.isclose((transform @ keys @ transform).trace(), keys.trace())
    shrunk = [(1 - SHRINKAGE) * m + SHRINKAGE * m.diagonal().mean() * identity for m in (keys, queries)]
    ours, theirs = transform @ shrunk[0] @ transform, inverse @ shrunk[1] @ inverse
    assert torch.allclose(ours / ours.trace(), theirs / theirs.trace(), atol=1e-9)
    # What rotated codes lose is proportional to E|k'|^2 E|q'|^2; the least that any matrix reaches is the square of the sum of the roots of
    # the eigenvalues of C Q.
    least = torch.linalg.eigvals(shrunk[0] @ shrunk[1]).real.sqrt().sum() ** 2
    assert torch.isclose(ours.trace() * theirs.trace(), least)
    assert least < 0.95 * shrunk[0].trace() * shrunk[1].trace()


def test_half_a_gauge_twice_is_the_whole():
    keys, queries = moment(16, 2), moment(16, 3)
    whole, _ = gauge(keys, queries)
    half, inverse = gauge(keys, queries, 0.5)
    assert torch.allclose(half @ inverse, torch.eye(16, dtype=torch.float64), atol=1e-9)
    assert torch.isclose((half @ keys @ half).trace(), keys.trace())
    twice = half @ half
    assert torch.allclose(twice / twice.trace(), whole / whole.trace(), atol=1e-9)


def test_a_gauge_of_nothing_is_the_identity():
    nothing = torch.zeros(8, 8, dtype=torch.float64)
    assert torch.equal(gauge(nothing, torch.eye(8, dtype=torch.float64))[0], torch.eye(8, dtype=torch.float64))


def test_statistics_take_blocks_off_their_mean():
    tokens = 3 * BLOCK_TOKENS + 40
    queries, keys, values = normal(4, tokens, 8), normal(2, tokens, 8, seed=2), normal(2, tokens, 8, seed=3)
    keys += 100 * (torch.arange(tokens) // BLOCK_TOKENS)[:, None]  # a mean that wanders between blocks
    keys[:, :SINK_TOKENS] *= 1000
    statistics = LayerStatistics(2, 8)
    statistics.add(queries[:, : 2 * BLOCK_TOKENS], keys[:, : 2 * BLOCK_TOKENS], values[:, : 2 * BLOCK_TOKENS], 0)
    statistics.add(queries[:, 2 * BLOCK_TOKENS :], keys[:, 2 * BLOCK_TOKENS :], values[:, 2 * BLOCK_TOKENS :], 2 * BLOCK_TOKENS)
    assert torch.allclose(statistics.key_covariance, torch.eye(8, dtype=torch.float64), atol=0.3)
    assert torch.allclose(statistics.query_moment, torch.eye(8, dtype=torch.float64), atol=0.2)
    assert torch.allclose(statistics.mean("values"), values.mean(1))
    body = values[:, SINK_TOKENS:] - values.mean(1, keepdim=True)
    assert torch.allclose(statistics.covariance_around_mean("values"), body.mT @ body / body.shape[1])


def turns(dims, tokens):
    """Of halves, as Llama's with theta 10000."""
    pairs = torch.arange(dims // 2)
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * 10000.0 ** (-2 * pairs.double() / dims)
    return Turns(pairs, pairs + dims // 2, angles.cos(), angles.sin())


def turned(rows, by):
    """Rows [heads, tokens, dims] before RoPE as complex multiplication has them behind it."""
    half = rows.shape[2] // 2
    product = torch.complex(rows[..., :half], rows[..., half:]) * torch.complex(by.cosines, by.sines)[: rows.shape[1]]
    return torch.cat([product.real, product.imag], -1)


def test_turns_are_undone_and_the_mean_before_rope_is_found():
    by, bias = turns(16, 2 * BLOCK_TOKENS), 5 * normal(1, 1, 16, seed=6)
    plain = bias + normal(2, 2 * BLOCK_TOKENS, 16)
    keys = turned(plain, by)
    for first in (0, BLOCK_TOKENS):
        assert torch.allclose(by.undone(keys[:, first : first + BLOCK_TOKENS], first), plain[:, first : first + BLOCK_TOKENS])
    statistics = LayerStatistics(2, 16)
    for first in (0, BLOCK_TOKENS):
        part = keys[:, first : first + BLOCK_TOKENS]
        statistics.add(part, part, part, first, by)
    assert torch.allclose(statistics.plain_mean, plain[:, SINK_TOKENS:].mean(1))
    assert torch.allclose(statistics.mean_square("keys"), (keys[:, SINK_TOKENS:] ** 2).mean(1))


def test_pair_gains_even_out_keys_and_queries_pair_by_pair():
    by = turns(16, 1)
    keys, queries = normal(2, 16, seed=2) ** 2 + 0.01, normal(2, 16, seed=3) ** 2 + 0.01
    gains = pair_gains(keys, queries, by)
    assert torch.equal(gains[:, :8], gains[:, 8:])
    of_pairs = [(square[:, :8] + square[:, 8:]) for square in (keys / gains**2, queries * gains**2)]
    ratio = of_pairs[0] / of_pairs[1]
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio))
    assert torch.allclose((keys / gains**2).sum(1), keys.sum(1))
    assert torch.equal(pair_gains(torch.zeros(1, 16), torch.ones(1, 16), by), torch.ones(1, 16, dtype=torch.float64).float())


def test_codewords_of_structured_rows_are_found_and_turn():
    """Rows that are sums of a few codewords come back; those of no structure lose what 12 bits a stage can save of them at most."""
    generator = numpy.random.default_rng(3)
    words = generator.normal(size=(8, 16)) + 1j * generator.normal(size=(8, 16))
    rows = words[generator.integers(8, size=2000)] + 1j * words[generator.integers(8, size=2000)]
    books = commvq.codewords(rows[:1500], 2, seed=1)
    assert books.shape == (2, 64, 2, 16) and numpy.array_equal(books, commvq.codewords(rows[:1500], 2, seed=1))
    assert commvq.error(rows[1500:], books) < 0.02
    plain = generator.normal(size=(6000, 16)) + 1j * generator.normal(size=(6000, 16))
    left = commvq.error(plain[5000:], commvq.codewords(plain[:5000], 3, seed=1))
    # 36 bits for 32 numbers: rate and distortion allow 2^(-2 * 36 / 32) = .21; stages of 12 bits with 128 free words reach some .45.
    assert 0.21 < left < 0.6


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


def test_directions_and_their_bits():
    covariance = moment(32, 5)
    basis, deviations = directions(covariance)
    assert torch.allclose(basis @ basis.mT, torch.eye(32, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(basis @ covariance @ basis.mT, torch.diag(deviations**2), atol=1e-9)
    assert (deviations.diff() <= 0).all()
    bits = water_fill(deviations**2, torch.ones(32), 2.5)
    assert bits.dtype == torch.uint8 and bits.double().mean() <= 2.5
    assert (bits.reshape(4, 8) == bits.reshape(4, 8)[:, :1]).all() and (bits.int().diff() <= 0).all()
    even = (deviations**2).sum() * (LLOYD_ERRORS[2] + LLOYD_ERRORS[3]) / 2
    assert ((deviations**2) * torch.tensor(LLOYD_ERRORS, dtype=torch.float64)[bits.long()]).sum() < even


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [torch.zeros(300, 64), torch.full((300, 64), 2.5), normal(1, 64).expand(300, 64), normal(3, 64)], ids=["zeros", "constant", "equal", "few"])
def test_rows_of_few_kinds_are_words_of_their_codebook(rows):
    parts = codebooks.as_codes_see_them(rows.double(), torch.ones(64), 1)
    words = codebooks.codebook(parts, 1)
    assert words.shape == (256, 4) and torch.equal(words[128:], -words[:128])
    nearest = torch.cdist(torch.from_numpy(parts), words).amin(1)
    assert nearest.max() < 1e-6  # every part is one, or the negative of one


def test_a_codebook_of_normal_rows_has_the_error_that_vectors_of_four_can_have():
    parts = codebooks.as_codes_see_them(normal(1024, 64), torch.ones(64), 1)
    words = codebooks.codebook(parts, 1)
    assert words.shape == (256, 4)
    assert torch.equal(words[128:], -words[:128])
    assert torch.equal(words, codebooks.codebook(parts, 1))
    fresh = codebooks.as_codes_see_them(normal(1024, 64, seed=9), torch.ones(64), 2)
    assert codebooks.error(fresh, words) == pytest.approx(0.0970, rel=0.03)  # of the best codebook, codecs.md 2.5; scalar codes have 0.1175


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
