"""kvant caches in mlx_lm, on a real model: the engine's own exact text, prefixes of others, trims, forks, marks, loud misuse."""

import copy

import kvant
import pytest

mx = pytest.importorskip("mlx.core")
import kvant.mlx_lm as km  # noqa: E402
import mlx_lm  # noqa: E402
from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache  # noqa: E402

TOKENS = 40


@pytest.fixture(scope="module")
def exact(engine, prompt):
    """The engine's own text."""
    return mlx_lm.generate(*engine, prompt, max_tokens=TOKENS)


def settings(byte6m, **fields):
    return kvant.KVCacheConfig(model_path=str(byte6m), **{"keys": "f32", "values": "f32", **fields})


@pytest.mark.parametrize("placement", ["local", "service"])
def test_an_f32_plan_writes_the_engines_own_text(engine, exact, prompt, byte6m, placement):
    model, tokenizer = engine
    km.patch_mlx_lm(model, settings(byte6m, placement=placement, salt=placement))
    assert km.generate(model, tokenizer, prompt, max_tokens=TOKENS) == exact
    # Whoever comes next finds the prompt, and writes the same.
    caches = km.make_prompt_cache(model, tokenizer.encode(prompt)[:-1])
    assert km.cached_tokens(caches) == 1408
    assert km.generate(model, tokenizer, prompt, max_tokens=TOKENS) == exact


def test_unpatching_leaves_the_engine_as_it_was(engine, exact, prompt, byte6m):
    model, tokenizer = engine
    km.patch_mlx_lm(model, settings(byte6m))
    km.unpatch_mlx_lm(model)
    assert not km.is_patched(model)
    assert mlx_lm.generate(model, tokenizer, prompt, max_tokens=TOKENS) == exact


def test_turns_continue_in_one_cache(engine, exact, prompt, byte6m):
    model, tokenizer = engine
    km.patch_mlx_lm(model, settings(byte6m, salt="turns"))
    caches = km.make_prompt_cache(model)
    half = km.generate(model, tokenizer, prompt, max_tokens=TOKENS // 2, prompt_cache=caches)
    assert exact.startswith(half)
    ids = tokenizer.encode(prompt + half)
    assert caches[0].offset == len(ids)  # mlx_lm computes one token ahead
    assert trim_prompt_cache(caches, 1) == 1
    rest = km.generate(model, tokenizer, ids[-1:], max_tokens=TOKENS // 2, kv_cache=caches)
    assert half + rest == exact


def test_trim_fork_and_marks(engine, exact, prompt, byte6m):
    model, tokenizer = engine
    km.patch_mlx_lm(model, settings(byte6m, salt="trim"))
    caches = km.make_prompt_cache(model)
    ids = tokenizer.encode(prompt)
    km.generate(model, tokenizer, ids, max_tokens=5, prompt_cache=caches)
    copies = copy.deepcopy(caches)
    assert copies[0].conversation is copies[1].conversation is not caches[0].conversation
    assert can_trim_prompt_cache(caches)
    there = caches[0].offset
    assert trim_prompt_cache(caches, there - len(ids) + 1) == there - len(ids) + 1
    mark = km.snap(caches)
    assert km.generate(model, tokenizer, ids[-1:], max_tokens=TOKENS, prompt_cache=caches) == exact
    km.restore(caches, mark)
    assert caches[0].offset == len(ids) - 1
    assert km.generate(model, tokenizer, ids[-1:], max_tokens=TOKENS, prompt_cache=caches) == exact
    assert copies[0].offset == there


def test_misuse_is_loud(engine, prompt, byte6m):
    model, tokenizer = engine
    km.patch_mlx_lm(model, settings(byte6m, salt="misuse"))
    caches = km.make_prompt_cache(model)
    with pytest.raises(kvant.UnsupportedError, match="batch of 2 on caches of one sequence"):
        model(mx.array([[5, 6], [7, 8]]), cache=caches)
    with pytest.raises(kvant.UnsupportedError, match="as an array"):
        caches[0].make_mask(4, return_array=True)
    km.unpatch_mlx_lm(model)
    with pytest.raises(kvant.UnsupportedError, match="patch_mlx_lm"):
        model(mx.array([[5, 6]]), cache=caches)
    with pytest.raises(kvant.UnsupportedError, match="not patched"):
        km.make_prompt_cache(model)
    assert not hasattr(caches[0], "bits")  # mlx_lm would take it for its own quantized cache
