"""kvant.PromptCache: a folder of prompts that outlives the daemons that made them."""

import threading

import kvant
import numpy as np
import pytest
from test_core import DIM, LAYERS, Q_HEADS, rows, spec

BLOCK = 16
TOKENS = list(range(100, 100 + 8 * BLOCK))
PROMPT = TOKENS[: 5 * BLOCK]  # sealed by the time that all tokens are there


def feed(sequence, total):
    """Rows that depend on their position alone, up to `total` tokens."""
    keys, values = rows(np.random.default_rng(5), len(TOKENS))
    while len(sequence) < total:
        at = len(sequence)
        n = min(8, total - at)
        sequence.reserve(n)
        for layer in range(LAYERS):
            sequence.append(layer, keys[layer, at : at + n], values[layer, at : at + n])
        sequence.advance(TOKENS[at : at + n])


def asked(sequence):
    q = np.random.default_rng(6).standard_normal((1, Q_HEADS, DIM), dtype=np.float32)
    out = np.empty((LAYERS, 1, Q_HEADS, DIM), np.float32)
    for layer in range(LAYERS):
        sequence.attend(layer, q, out[layer], 0.125)
    return out


def test_the_next_daemon_finds_the_prompt_bit_for_bit(tmp_path):
    answers = []
    for day in range(2):
        client = kvant.Client()
        store = client.open_store(spec(keys="int8", values="int8"))
        cache = kvant.PromptCache(tmp_path / "prompts", budget=1 << 20)
        found = cache.load(store, PROMPT)
        assert found == (len(PROMPT) if day else 0)
        sequence = store.open(PROMPT, recent_tokens=BLOCK, max_step_tokens=8, tail="f32")
        assert sequence.cached_tokens == found
        feed(sequence, len(TOKENS))
        sequence.trim(len(TOKENS))  # returns when all that is due is sealed
        answers.append(asked(sequence))
        saved = cache.save(store, sequence, TOKENS)
        files = list((tmp_path / "prompts").rglob("*.safetensors"))
        assert len(files) == 1
        assert saved == (0 if day else files[0].stat().st_size)
        assert cache.save(store, sequence, np.array(TOKENS)) == 0
        shorter = store.open(PROMPT, recent_tokens=BLOCK, max_step_tokens=8, tail="f32")
        assert cache.save(store, shorter, PROMPT) == 0, "the longer one has its blocks"
        assert len(list((tmp_path / "prompts").rglob("*.safetensors"))) == 1
        client.close()
    assert (answers[0] == answers[1]).all()


def test_refusals_name_what_they_refuse(tmp_path):
    client = kvant.Client()
    store = client.open_store(spec())
    with pytest.raises(kvant.SystemCallError, match=f"{tmp_path}/no/such"):
        kvant.PromptCache(tmp_path / "no" / "such", 1 << 20)
    with pytest.raises(kvant.InvalidArgumentError, match="budget of 0"):
        kvant.PromptCache(str(tmp_path), 0)
    small = kvant.PromptCache(str(tmp_path), 1000)
    with pytest.raises(kvant.InvalidArgumentError, match="32 bits"):
        small.load(store, [1 << 32] * BLOCK)
    sequence = store.open((), recent_tokens=BLOCK, max_step_tokens=8, tail="f32")
    feed(sequence, len(TOKENS))
    with pytest.raises(kvant.OutOfRangeError, match="budget of 1000"):
        small.save(store, sequence, TOKENS)
    with pytest.raises(kvant.InvalidArgumentError, match="sealed blocks"):
        small.save(store, sequence, TOKENS[:1])
    assert not list(tmp_path.rglob("*.safetensors"))
    sequence.close()
    with pytest.raises(kvant.InvalidArgumentError, match="the sequence is closed"):
        small.save(store, sequence, TOKENS)
    store.close()
    with pytest.raises(kvant.InvalidArgumentError, match="the store is closed"):
        small.load(store, TOKENS)


def test_one_cache_serves_clients_of_several_threads(tmp_path, kvantd):
    cache = kvant.PromptCache(tmp_path, 1 << 20)
    client = kvant.Client(kvantd)
    store = client.open_store(spec())
    sequence = store.open((), recent_tokens=BLOCK, max_step_tokens=8, tail="f32")
    feed(sequence, len(TOKENS))
    assert cache.save(store, sequence, TOKENS) > 0
    found = []

    def elsewhere():
        other = kvant.Client().open_store(spec())
        found.append(cache.load(other, PROMPT))
        with pytest.raises(kvant.WrongThreadError):
            cache.load(store, TOKENS)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(60)
    assert found == [len(PROMPT)]
