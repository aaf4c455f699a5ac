"""What mlx_lm's own tests ask of its caches (tests/test_prompt_cache.py there), asked of kvant's. client/python/README.md has the table."""

import copy
import dataclasses

import kvant
import pytest

mx = pytest.importorskip("mlx.core")
import kvant.mlx_lm as km  # noqa: E402
from mlx_lm.generate import generate_step  # noqa: E402
from mlx_lm.models.base import create_attention_mask  # noqa: E402
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache  # noqa: E402
from small_mlx_model import LAYERS, ids, small  # noqa: E402


@pytest.fixture
def model():
    model = small()
    km.patch_mlx_lm(model, kvant.KVCacheConfig(keys="f32", values="f32", block_tokens=16, recent_tokens=0))
    yield model
    km.unpatch_mlx_lm(model)


def filled(model, count):
    caches = make_prompt_cache(model)
    mx.eval(model(ids(count), cache=caches))
    return caches


def close(a, b):
    return mx.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_cache_with_generate(model):
    prompt = ids(10)[0]
    tokens, logits = zip(*generate_step(prompt, model, max_tokens=4))
    caches = make_prompt_cache(model)
    got = list(generate_step(prompt, model, prompt_cache=caches, max_tokens=2))
    got += generate_step(mx.array([tokens[2]]), model, prompt_cache=caches, max_tokens=1)
    assert [token for token, _ in got] == [tokens[0], tokens[1], tokens[3]]
    assert all(close(mine, logits[i]) for i, (_, mine) in zip((0, 1, 3), got))


def test_trim(model):
    caches = filled(model, 40)
    assert can_trim_prompt_cache(caches)
    assert trim_prompt_cache(caches, 37) == 37
    assert trim_prompt_cache(caches, 4) == 3  # more than there are
    assert caches[0].offset == 0 and caches[-1].empty()


def test_trim_with_generate(model):
    caches = make_prompt_cache(model)
    token, _ = next(generate_step(ids(30)[0], model, prompt_cache=caches))
    last = mx.array([token])
    first = [answer for _, answer in zip(range(2), generate_step(last, model, prompt_cache=caches))]
    trim_prompt_cache(caches, 3)
    second = [answer for _, answer in zip(range(2), generate_step(last, model, prompt_cache=caches))]
    assert [token for token, _ in first] == [token for token, _ in second]
    assert all(close(a, b) for (_, a), (_, b) in zip(first, second))


def test_copies_part_ways(model):
    caches = filled(model, 33)
    old = copy.deepcopy(caches)
    assert len({id(c.conversation) for c in old}) == 1  # one fork for all layers
    trim_prompt_cache(caches, 1)
    assert (old[0].offset, caches[0].offset) == (33, 32)
    model(mx.array([[9]]), cache=caches)
    assert caches[0].conversation.tokens[-1] == 9 != old[0].conversation.tokens[-1]
    assert close(model(mx.array([[4]]), cache=old), model(mx.array([[4]]), cache=filled(model, 33)))


def test_masks(model):
    (cache, *_) = filled(model, 16)
    assert create_attention_mask(mx.zeros((1, 4, 8)), cache) == "causal"
    assert create_attention_mask(mx.zeros((1, 1, 8)), cache) is None
    assert create_attention_mask(mx.zeros((1, 4, 8)), cache, window_size=3).tokens == 3
    with pytest.raises(kvant.UnsupportedError, match="as an array"):
        create_attention_mask(mx.zeros((1, 4, 8)), cache, return_array=True)


def test_merge_and_extend_with_empty_caches(model):
    def merged(rows):
        return [layer[0].merge(list(layer)) for layer in zip(*rows)]

    batch = merged([make_prompt_cache(model), filled(model, 20)])
    assert batch[0].offset.tolist() == [0, 20]
    for mine, other in zip(batch, merged([make_prompt_cache(model)] * 3)):
        mine.extend(other)
    assert batch[0].offset.tolist() == [0, 20, 0, 0, 0]
    for cache in batch:
        cache.prepare(lengths=[10, 8, 12, 7, 11], right_padding=[2, 4, 0, 5, 1])
    answer = model(mx.concatenate([ids(12)] * 5), cache=batch)
    for cache in batch:
        cache.finalize()
    assert batch[0].offset.tolist() == [10, 28, 12, 7, 11]
    (row, *_) = [cache.extract(4) for cache in batch]
    assert row.conversation.tokens == ids(11)[0].tolist()  # padding is no token: others would look for the wrong ones
    alone = filled(model, 20)
    assert close(answer[1, :8], model(ids(8), cache=alone)[0])
    assert close(answer[4, :11], model(ids(11), cache=make_prompt_cache(model))[0])


def test_bytes_and_sizes(model):
    caches = filled(model, 64)
    assert [c.size() for c in caches] == [64] * LAYERS
    assert sum(c.nbytes for c in caches) >= 64 * LAYERS * 2 * 2 * 16 * 4  # f32, two KV heads of 16
    assert not hasattr(caches[0], "bits")  # mlx_lm would take it for its own quantized cache
    assert not hasattr(caches[0], "to_quantized")


def test_a_window_is_what_mlx_computes_for_it():
    """A configured window, over blocks and raw rows, against mlx_lm's attention with the mask of that window. Blocks of the same tokens that
    were computed without one are not taken for its own."""
    from mlx_lm.models.base import create_causal_mask

    model, window = small(), 24
    unbounded = kvant.KVCacheConfig(keys="f32", values="f32", block_tokens=16, recent_tokens=0)
    km.patch_mlx_lm(model, unbounded)
    filled(model, 100)
    stock = small()
    layers = stock.model

    def windowed(tokens):
        h, mask = layers.embed_tokens(tokens), create_causal_mask(tokens.shape[1], window_size=window)
        for layer in layers.layers:
            h = layer(h, mask, None)
        return layers.norm(h)

    km.patch_mlx_lm(model, dataclasses.replace(unbounded, sliding_window=window))
    caches = make_prompt_cache(model)
    answer = mx.concatenate([model(ids(100)[:, at : at + 20], cache=caches) for at in range(0, 100, 20)], axis=1)
    assert close(answer, layers.embed_tokens.as_linear(windowed(ids(100))))
    km.unpatch_mlx_lm(model)
