"""kvant._core against plain numpy: attention, arrays without copies, errors."""

import os
import threading
import time

import kvant
import numpy as np
import pytest

LAYERS, KV_HEADS, Q_HEADS, DIM = 2, 2, 4, 64


def spec(**fields):
    given = {"name": "python-test", "model": "random", "tokenizer": "none", "layers": LAYERS, "kv_heads": KV_HEADS, "head_dim": DIM}
    return kvant.StoreSpec(**{**given, "keys": "f32", "values": "f32", "dtype": "f32", "block_tokens": 16, **fields})


@pytest.fixture
def store():
    client = kvant.Client()
    yield client.open_store(spec())
    client.close()


def rows(rng, tokens):
    return rng.standard_normal((2, LAYERS, tokens, KV_HEADS, DIM), dtype=np.float32)


def plain(q, keys, values, scale):
    """Causal softmax attention in double; the last len(q) of the keys are the queries' own."""
    out = np.empty(q.shape)
    for t in range(len(q)):
        seen = len(keys) - len(q) + t + 1
        for head in range(Q_HEADS):
            kv = head * KV_HEADS // Q_HEADS
            logits = scale * keys[:seen, kv].astype(float) @ q[t, head].astype(float)
            weights = np.exp(logits - logits.max())
            out[t, head] = weights @ values[:seen, kv] / weights.sum()
    return out


@pytest.mark.parametrize("placement", ["local", "service"])
def test_attention_is_plain_attention(store, placement):
    rng = np.random.default_rng(7)
    sequence = store.open((), placement=placement, recent_tokens=16, max_step_tokens=8, tail="f32")
    total = 100
    keys, values = rows(rng, total)
    at = 0
    while at < total:
        n = min(7, total - at)  # steps that cross the end of the tail's ring, too
        q = rng.standard_normal((n, Q_HEADS, DIM), dtype=np.float32)
        out = np.full((LAYERS, n, Q_HEADS, DIM), np.nan, np.float32)
        sequence.reserve(n)
        for layer in range(LAYERS):
            sequence.step(layer, keys[layer, at : at + n], values[layer, at : at + n], q, out[layer], 0.125)
        sequence.advance(np.arange(at, at + n))
        at += n
        for layer in range(LAYERS):
            expected = plain(q, keys[layer, :at], values[layer, :at], 0.125)
            assert np.abs(out[layer] - expected).max() < 1e-5  # f32 sums of some hundred products of magnitude 1
    assert len(sequence) == total


@pytest.mark.parametrize("placement", ["local", "service"])
def test_rows_are_read_back(store, placement):
    rng = np.random.default_rng(8)
    sequence = store.open((), placement=placement, recent_tokens=16, max_step_tokens=8, tail="f32")
    keys, values = rows(rng, 80)
    for at in range(0, 80, 8):
        sequence.reserve(8)
        for layer in range(LAYERS):
            sequence.append(layer, keys[layer, at : at + 8], values[layer, at : at + 8])
        sequence.advance(np.arange(at, at + 8))
    got_keys = np.empty((70, KV_HEADS, DIM), np.float32)
    got_values = np.empty((KV_HEADS, 70, DIM), np.float16)
    sequence.copy_rows(1, 5, 70, got_keys, got_values.transpose(1, 0, 2))
    assert (got_keys == keys[1, 5:75]).all()
    assert (got_values == values[1, 5:75].astype(np.float16).transpose(1, 0, 2)).all()
    got_keys[...] = 0
    sequence.copy_rows(0, 5, 70, keys=got_keys)
    assert (got_keys == keys[0, 5:75]).all()
    with pytest.raises(kvant.OutOfRangeError, match="the sequence has 80 tokens"):
        sequence.copy_rows(0, 11, 70, keys=got_keys)
    with pytest.raises(kvant.InvalidArgumentError, match="neither keys nor values"):
        sequence.copy_rows(0, 0, 70)


@pytest.mark.parametrize("placement", ["local", "service"])
def test_a_batch_gives_what_each_sequence_gives_alone(placement):
    rng = np.random.default_rng(10)
    client = kvant.Client()
    store = client.open_store(spec())
    sequences, alone, together, calls = [], [], [], []
    for tokens, new in ((3, 1), (40, 2), (40, 5)):
        sequence = store.open((), placement=placement, recent_tokens=16, tail="f32")
        keys, values = rows(rng, tokens + new)
        for first, last in ((0, tokens), (tokens, tokens + new)):
            sequence.reserve(last - first)
            for layer in range(LAYERS):
                sequence.append(layer, keys[layer, first:last], values[layer, first:last])
            if last == tokens:
                sequence.advance(list(range(tokens)))
        q = rng.standard_normal((new, Q_HEADS, DIM), dtype=np.float32)
        alone.append(np.empty_like(q))
        together.append(np.full_like(q, np.nan))
        sequence.attend(1, q, alone[-1], 0.125, softcap=20.0)
        sequences.append(sequence)
        calls.append((sequence, q, together[-1]))
    client.attend_batch(1, calls, 0.125, softcap=20.0)
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() < 1e-5  # the order of sums may differ where blocks are read once for several
    with pytest.raises(kvant.InvalidArgumentError, match="another client"):
        kvant.Client().attend_batch(1, calls, 0.125)
    with pytest.raises(kvant.InvalidArgumentError, match="call 0 has no sequence"):
        client.attend_batch(1, [(None, *calls[0][1:])], 0.125)
    sequences[1].close()
    with pytest.raises(kvant.InvalidArgumentError, match="closed"):
        client.attend_batch(1, calls, 0.125)


@pytest.mark.parametrize("placement", ["local", "service"])
def test_tokens_are_named_later(store, placement):
    rng = np.random.default_rng(9)
    sequence = store.open((), placement=placement, recent_tokens=16, max_step_tokens=8, tail="f32", unnamed_tokens=64)
    keys, values = rows(rng, 80)
    for at in range(0, 80, 8):
        sequence.reserve(8)
        for layer in range(LAYERS):
            sequence.append(layer, keys[layer, at : at + 8], values[layer, at : at + 8])
        sequence.advance_unnamed(8)
        if at >= 32:
            sequence.name(range(at - 32, at - 24))
        q = rng.standard_normal((1, Q_HEADS, DIM), dtype=np.float32)
        out = np.empty_like(q)
        sequence.attend(1, q, out, 0.125)
        assert np.abs(out - plain(q, keys[1, : at + 8], values[1, : at + 8], 0.125)).max() < 1e-5
    assert len(sequence) == 80 and sequence.unnamed == 32
    with pytest.raises(kvant.InvalidArgumentError, match="name them first"):
        sequence.reserve(1)
        sequence.advance([1])
    sequence.name(range(48, 80))
    assert sequence.unnamed == 0
    deadline = time.monotonic() + 30  # workers seal the blocks
    while store.open(range(80)).cached_tokens < 64 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store.open(range(80)).cached_tokens == 64


def test_states_go_with_the_prefix(store):
    rng = np.random.default_rng(10)
    sequence = store.open((), recent_tokens=16, max_step_tokens=8, tail="f32")
    keys, values = rows(rng, 80)
    state = rng.standard_normal((3, 100), dtype=np.float32)
    assert sequence.find_state() is None
    for at in range(0, 80, 8):
        sequence.reserve(8)
        for layer in range(LAYERS):
            sequence.append(layer, keys[layer, at : at + 8], values[layer, at : at + 8])
        sequence.advance(np.arange(at, at + 8))
        if len(sequence) == 32:
            sequence.put_state(state)
    assert store.open(range(80)).cached_tokens in (48, 64)  # the last block may be in work still
    found = store.open(range(80), want_state=True)
    assert found.cached_tokens == 32 and found.find_state() == (32, state.nbytes)
    store.open(range(80), priority=3).close()
    with pytest.raises(kvant.InvalidArgumentError, match="priority 4"):
        store.open(range(80), priority=4)
    copy = np.empty_like(state)
    found.copy_state(copy)
    assert (copy == state).all()
    sequence.trim(16)
    sequence.put_state(b"bytes, too")
    assert sequence.find_state() == (16, 10)
    with pytest.raises(kvant.InvalidArgumentError, match="end of a block of 16"):
        sequence.trim(15)
        sequence.put_state(b"here")


def test_worker_threads_have_clients_of_one_daemon():
    client = kvant.Client()
    rng = np.random.default_rng(11)
    sequence = client.open_store(spec()).open((), recent_tokens=16, max_step_tokens=8, tail="f32")
    keys, values = rows(rng, 80)
    for at in range(0, 80, 8):
        sequence.reserve(8)
        for layer in range(LAYERS):
            sequence.append(layer, keys[layer, at : at + 8], values[layer, at : at + 8])
        sequence.advance(np.arange(at, at + 8))
    assert sequence.counters["tokens_advanced"] == 80
    found = []

    def work():
        own = client.for_this_thread()
        found.append(own.open_store(spec()).open(range(80)).cached_tokens)
        own.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and set(found) <= {48, 64}  # the last block may be in work still


def test_rows_are_views_of_shared_memory(store):
    sequence = store.open((), tail="f32")
    sequence.reserve(3)
    first = np.asarray(sequence.keys(1))
    first[...] = 5.0
    second = np.from_dlpack(sequence.keys(1))
    assert first.shape == (3, KV_HEADS, DIM)
    assert first.ctypes.data == second.ctypes.data
    assert (second == 5.0).all()


def test_counters_tell_copies_from_rows_written_in_place():
    client = kvant.Client()
    sequence = client.open_store(spec()).open((), tail="f32")
    sequence.reserve(4)
    for layer in range(LAYERS):
        np.asarray(sequence.keys(layer))[...] = 1.0
        np.asarray(sequence.values(layer))[...] = 2.0
    sequence.advance([1, 2, 3, 4])
    written = LAYERS * 2 * 4 * KV_HEADS * DIM * 4
    assert client.counters["bytes_copied"] == 0
    assert client.counters["bytes_zero_copy"] == written


def test_half_and_other_strides_are_taken(store):
    rng = np.random.default_rng(8)
    keys, values = rows(rng, 5)
    sequence = store.open((), tail="f32")
    sequence.reserve(5)
    heads_first = np.ascontiguousarray(keys[0].transpose(1, 0, 2)).transpose(1, 0, 2)
    sequence.append(0, heads_first, values[0].astype(np.float16))
    assert (np.asarray(sequence.keys(0)) == keys[0]).all()
    assert (np.asarray(sequence.values(0)) == values[0].astype(np.float16)).all()


def test_prefix_is_found_and_forks_share(store):
    rng = np.random.default_rng(9)
    tokens = list(range(100))
    keys, values = rows(rng, 100)
    sequence = store.open(tokens, recent_tokens=16, tail="f32")
    assert sequence.cached_tokens == 0
    sequence.reserve(100)
    for layer in range(LAYERS):
        sequence.append(layer, keys[layer], values[layer])
    sequence.advance(tokens)
    fork = sequence.fork(90)
    assert (len(fork), len(sequence)) == (90, 100)
    mark = sequence.set_mark()
    sequence.trim(95)
    with pytest.raises(kvant.NotFoundError):
        sequence.release(mark)
    sequence.close()
    again = store.open(tokens, recent_tokens=16, tail="f32")
    assert again.cached_tokens % 16 == 0 and again.cached_tokens >= 64


def test_errors_are_typed_and_name_what_is_wrong(store):
    sequence = store.open((), max_step_tokens=8)
    with pytest.raises(kvant.OutOfRangeError, match="max_step_tokens") as caught:
        sequence.reserve(9)
    assert isinstance(caught.value, IndexError) and caught.value.code == "out_of_range"
    sequence.reserve(2)
    with pytest.raises(ValueError, match="3 tokens, 2 rows"):
        sequence.advance([1, 2, 3])
    with pytest.raises(kvant.InvalidArgumentError, match="float32"):
        sequence.append(0, np.zeros((2, KV_HEADS, DIM)), np.zeros((2, KV_HEADS, DIM)))
    with pytest.raises(kvant.InvalidArgumentError, match="last axis"):
        backwards = np.zeros((2, KV_HEADS, 2 * DIM), np.float32)[:, :, ::2]
        sequence.append(0, backwards, backwards)
    with pytest.raises(ConnectionError, match="/nowhere"):
        kvant.Client("/nowhere")
    with pytest.raises(kvant.InvalidArgumentError, match="no_such_codec"):
        kvant.Client().open_store(spec(keys="no_such_codec"))
    with pytest.raises(kvant.InvalidArgumentError, match="layers"):
        kvant.Client().open_store(spec(layers="two"))
    sequence.close()
    with pytest.raises(kvant.InvalidArgumentError, match="closed"):
        sequence.reserve(1)
    with pytest.raises(kvant.NotFiniteError):
        bad = store.open((), tail="f32")
        bad.reserve(1)
        bad.append(0, np.full((1, KV_HEADS, DIM), np.nan, np.float32), np.zeros((1, KV_HEADS, DIM), np.float32))


def test_another_thread_is_refused_and_has_a_client_of_its_own(store):
    sequence = store.open(())
    caught = []

    def elsewhere():
        try:
            sequence.reserve(1)
        except kvant.Error as error:
            caught.append(error)
        caught.append(kvant.connect())
        caught.append(caught[1].open_store(spec(salt="threads")).info["created"])

    assert kvant.connect().open_store(spec(salt="threads")).info["created"]
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert isinstance(caught[0], kvant.WrongThreadError)
    assert caught[1] is not kvant.connect() and caught[2] is False  # another client of the daemon inside this process
    assert kvant.connect() is kvant.connect()


def test_a_forked_child_is_refused(store):
    sequence = store.open(())
    child = os.fork()
    if child == 0:
        try:
            sequence.reserve(1)
        except kvant.DaemonGoneError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    sequence.reserve(1)


def test_rope_frequencies_are_those_of_the_paper():
    radians, factor = kvant.rope_frequencies(kvant.Rope(pairing="half_split", theta=500000.0), 64)
    assert factor == 1.0
    assert np.allclose(radians, 500000.0 ** (-2 * np.arange(32) / 64), rtol=1e-12)
