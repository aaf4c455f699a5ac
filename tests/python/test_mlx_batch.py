"""Batches of mlx_lm over kvant: rows of several lengths in one forward pass write what each writes alone."""

import copy

import kvant
import pytest

mx = pytest.importorskip("mlx.core")
import kvant.mlx_lm as km  # noqa: E402
import mlx_lm  # noqa: E402
from mlx_lm.generate import BatchGenerator  # noqa: E402

TOKENS = 12


@pytest.fixture(scope="module")
def prompts(engine, prompt):
    return [engine[1].encode(text) for text in (prompt[:300], prompt[100:170], prompt[40:260])]


def written_alone(model, tokenizer, prompt, count=TOKENS, **options):
    return [answer.token for answer in mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=count, **options)]


@pytest.fixture(scope="module")
def alone(engine, prompts):
    """The tokens that the engine itself writes after each prompt, one at a time."""
    km.unpatch_mlx_lm(engine[0])
    return [written_alone(*engine, p) for p in prompts]


@pytest.fixture
def patched(engine, byte6m, alone):
    model, tokenizer = engine
    km.patch_mlx_lm(model, kvant.KVCacheConfig(model_path=str(byte6m), keys="f32", values="f32", block_tokens=32, recent_tokens=16))
    return model, tokenizer


def test_a_batch_writes_what_each_row_writes_alone(patched, prompts, alone):
    # The short steps make rows end in different passes of the prompt, so that padding is read.
    answer = mlx_lm.batch_generate(*patched, prompts, max_tokens=TOKENS, prefill_step_size=100, return_token_ids=True)
    assert answer.token_ids == alone


def test_rows_come_and_go(patched, prompts, alone):
    """Continuous batching: a row is added while another is decoded, one ends early, caches that are returned go on alone."""
    model, tokenizer = patched
    batch = BatchGenerator(model, stop_tokens=[[t] for t in tokenizer.eos_token_ids])
    written, caches = {}, {}

    def run(steps):
        for _ in range(steps):
            for answer in batch.next_generated():
                written.setdefault(answer.uid, []).append(answer.token)
                if answer.finish_reason:
                    caches[answer.uid] = answer.prompt_cache

    first, second = batch.insert(prompts[:2], [TOKENS, 3])
    run(2)
    (third,) = batch.insert(prompts[2:], [TOKENS])
    run(TOKENS + 3)
    batch.close()
    assert [written[uid] for uid in (first, third)] == [alone[0], alone[2]]
    rest = written_alone(model, tokenizer, written[second][-1:], TOKENS - 3, prompt_cache=_without_last(caches[second]))
    assert written[second] + rest == alone[1]


def _without_last(caches):
    """A generator computes one token ahead of what it gives."""
    assert km.trim_prompt_cache(caches, 1) == 1
    return caches


def test_given_caches_stay_as_they_are(patched, prompts, alone):
    model, tokenizer = patched
    caches = [km.make_prompt_cache(model) for _ in prompts]
    for cache, prompt in zip(caches, prompts):
        model(mx.array([prompt[:-5]]), cache=cache)
    lengths = [cache[0].offset for cache in caches]
    answer = mlx_lm.batch_generate(model, tokenizer, [p[-5:] for p in prompts], prompt_caches=caches, max_tokens=TOKENS, return_token_ids=True)
    assert answer.token_ids == alone
    assert [cache[0].offset for cache in caches] == lengths == [len(p) - 5 for p in prompts]


def test_the_protocol_of_a_batch(patched, prompts):
    model, _ = patched
    rows = [km.make_prompt_cache(model) for _ in prompts]
    for cache, prompt in zip(rows, prompts):
        model(mx.array([prompt]), cache=cache)
    lengths = [len(p) for p in prompts]
    batch = [layer[0].merge(list(layer)) for layer in zip(*rows)]
    assert batch[0].offset.tolist() == batch[-1].offset.tolist() == lengths
    assert batch[0].size() == max(lengths) and not batch[0].empty()
    assert batch[0].nbytes == sum(cache[0].nbytes for cache in rows)
    other = copy.deepcopy(batch)
    for c in other:
        c.filter([2, 0])
    assert other[0].offset.tolist() == [lengths[2], lengths[0]] and batch[0].offset.tolist() == lengths
    for c, o in zip(batch, other):
        c.extend(o)
    assert batch[0].offset.tolist() == [*lengths, lengths[2], lengths[0]]
    assert [c.trim(2) for c in batch] == [2] * len(batch)
    assert batch[0].offset.tolist() == [n - 2 for n in [*lengths, lengths[2], lengths[0]]]
    single = [c.extract(1) for c in batch]
    assert single[0].offset == lengths[1] - 2
    assert len({id(c.conversation) for c in single}) == 1
    assert [c.trim(1) for c in batch] == [1] * len(batch)
    assert single[0].offset == lengths[1] - 2  # a copy: the batch goes on without it
    with pytest.raises(kvant.UnsupportedError, match="left"):
        batch[0].prepare(left_padding=[1, 0, 0, 0, 0])
    with pytest.raises(kvant.InvalidArgumentError, match="2 rows for a batch of 5"):
        model(mx.array([[5], [6]]), cache=batch)
