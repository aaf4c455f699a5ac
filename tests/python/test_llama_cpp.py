"""The prefix store for llama.cpp: over states made by hand, over llama-cpp-python's interface, and, where KVANT_TEST_GGUF names a model and
a binding is installed, over llama.cpp itself in two processes."""

import types

import kvant
import kvant.llama_cpp as kl
import numpy as np
import pytest
from kvant.llama_state import Shape, new_state, read_state

from llama_states import CONTEXT, F32, written

SHAPE = Shape(layers=2, kv_heads=3, head_dim=64)
METADATA = {
    "general.architecture": "llama",
    "llama.block_count": "2",
    "llama.embedding_length": "384",
    "llama.attention.head_count": "6",
    "llama.attention.head_count_kv": "3",
    "llama.rope.dimension_count": "64",
    "llama.rope.freq_base": "100000.000000",
}
RAW = {"keys": "f16", "values": "f16", "block_tokens": 16, "sink_tokens": 0}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + tmp_path.name.encode())  # a model of its own for each test
    return path


def some_rows(cells, seed=5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, SHAPE.layers, cells, SHAPE.kv_heads, SHAPE.head_dim)).astype(np.float16)


@pytest.mark.parametrize("form", [{}, {"transposed": 1}, {"head": CONTEXT, "sequence": 0}], ids=str)
def test_rows_of_a_raw_plan_come_back_bit_for_bit(model, form):
    keys, values = some_rows(1100)
    state = written(keys, values, **form)
    tokens = list(range(1000, 2100))
    one = kl.LlamaPrefixes(model, METADATA, kl.Settings(**RAW))
    assert one.save(tokens, state) == 1088  # whole blocks
    assert one.save(tokens, state) == 0
    other = kl.LlamaPrefixes(model, METADATA, kl.Settings(**RAW))
    count, data = other.load(tokens, read_state(state, SHAPE).format)
    assert count == 1088
    # llama.cpp's own bytes for so many cells; it does not look at the number of the sequence.
    expected = written(keys[:, :1088], values[:, :1088], **{**form, "sequence": 0})
    assert bytes(data) == expected


def test_cells_beyond_the_tokens_are_left_out(model):
    # llama-cpp-python drops the cells of a conversation only when it decodes again.
    keys, values = some_rows(64)
    store = kl.LlamaPrefixes(model, METADATA, kl.Settings(**RAW))
    assert store.save(range(32), written(keys, values)) == 32
    count, data = store.load(range(64), read_state(written(keys, values), SHAPE).format)
    assert bytes(data) == written(keys[:, :32], values[:, :32], sequence=0) and count == 32


def test_codes_come_back_as_near_as_their_bits(model):
    keys, values = some_rows(256)
    store = kl.LlamaPrefixes(model, METADATA, kl.Settings(block_tokens=128, keys="hq", values="hq"))
    store.save(range(256), written(keys, values))
    count, data = store.load(range(257), read_state(written(keys, values), SHAPE).format)
    assert count == 256
    back = read_state(data, SHAPE)
    for rows, given in ((back.keys, keys), (back.values, values)):
        error = (np.stack(rows).astype(float) - given)[:, 4:]
        # A Lloyd-Max quantizer of 16 levels leaves 0.0095 of a Gaussian's variance; scales and unit norms cost some more.
        assert 0.005 < (error**2).mean() < 0.015
        assert (np.stack(rows)[:, :4] == given[:, :4]).all()  # sinks stay raw


def test_a_prefix_is_found_by_its_tokens_alone(model):
    keys, values = some_rows(64)
    store = kl.LlamaPrefixes(model, METADATA, kl.Settings(**RAW))
    store.save(range(64), written(keys, values))
    form = read_state(written(keys, values), SHAPE).format
    assert store.load([*range(40), 7, *range(41, 64)], form)[0] == 32
    assert store.load([1, *range(1, 64)], form) == (0, None)
    assert store.load(range(64), form)[0] == 48  # the last token's logits are wanted
    assert store.load([], form) == (0, None)
    salted = kl.LlamaPrefixes(model, METADATA, kl.Settings(**RAW, salt="b"))
    assert salted.load(range(65), form) == (0, None)
    model.write_bytes(b"GGUF of other weights")
    assert kl.LlamaPrefixes(model, METADATA, kl.Settings(**RAW)).load(range(65), form) == (0, None)


def test_misuse_is_loud(model):
    keys, values = some_rows(32)
    store = kl.LlamaPrefixes(model, METADATA, kl.Settings(**RAW))
    with pytest.raises(kvant.InvalidArgumentError, match="33 tokens, the state has 32 cells"):
        store.save(range(33), written(keys, values))
    with pytest.raises(kvant.InvalidArgumentError, match="keys are float32, the store's are f16"):
        store.save(range(32), written(keys, values, types=(F32, F32)))
    keys[0, 3, 1, 2] = np.inf
    with pytest.raises(kvant.NotFiniteError):
        store.save(range(32), written(keys, values))
    assert store.prefixes.count(range(32)) == 0


def test_a_daemon_that_goes_away_is_a_typed_error_and_a_new_one_is_found(model, daemon):
    keys, values = some_rows(32)
    store = kl.LlamaPrefixes(model, METADATA, kl.Settings(uri=daemon.socket, **RAW))
    assert store.save(range(32), written(keys, values)) == 32
    daemon.kill()
    with pytest.raises(kvant.DaemonGoneError):
        store.load(range(33), read_state(written(keys, values), SHAPE).format)
    daemon.start()
    assert store.save(range(32), written(keys, values)) == 32


@pytest.mark.parametrize(
    "change, says",
    [
        ({"general.architecture": "mamba"}, "general.architecture 'mamba'"),
        ({"llama.attention.head_count_kv": "[3, 4]"}, "llama.attention.head_count_kv is"),
        ({"llama.attention.head_count": "0"}, "head_count is 0"),
        ({"llama.attention.value_length": "32"}, "value_length"),
        ({"llama.attention.sliding_window": "512"}, "sliding_window"),
    ],
)
def test_models_that_are_not_known_are_refused_by_field(model, change, says):
    with pytest.raises(kvant.UnsupportedError, match=says):
        kl.store_spec(model, {**METADATA, **change}, kl.Settings())


def test_the_spec_says_how_keys_lie(model):
    spec = kl.store_spec(model, METADATA, kl.Settings())
    assert (spec.rope.pairing, spec.rope.theta, spec.head_dim, spec.kv_heads) == ("adjacent", 100000.0, 64, 3)
    qwen = {name.replace("llama.", "qwen2."): "qwen2" if text == "llama" else text for name, text in METADATA.items()}
    assert kl.store_spec(model, qwen, kl.Settings()).rope.pairing == "half_split"


class FakeLlama:
    """What KvantLlamaCache asks of a llama_cpp.Llama, over rows that its tokens alone decide."""

    def __init__(self, path, **params):
        self.model_path, self.metadata, self.lora_path, self.kv_overrides = str(path), METADATA, None, None
        self.context_params = types.SimpleNamespace(**{"rope_scaling_type": -1, "rope_freq_base": 0.0, "rope_freq_scale": 0.0, "type_k": 1, **params})
        self.input_ids, self.n_tokens = np.zeros(self.n_ctx(), np.intc), 0

    def n_ctx(self):
        return 512

    def token_bos(self):
        return 1

    def eval(self, tokens):
        self.input_ids[self.n_tokens : self.n_tokens + len(tokens)] = tokens
        self.n_tokens += len(tokens)

    def reset(self):
        self.n_tokens = 0

    def rows(self):
        return some_rows(self.n_tokens, seed=7)

    def save_state(self):
        data = written(*self.rows(), head=CONTEXT, sequence=0, transposed=1)
        return types.SimpleNamespace(llama_state=data, n_tokens=self.n_tokens, input_ids=self.input_ids.copy())


@pytest.fixture
def state_class(monkeypatch):
    if not hasattr(kl, "LlamaState"):
        monkeypatch.setattr(kl, "LlamaState", types.SimpleNamespace, raising=False)


def test_the_interface_of_llama_cpp_python(model, state_class):
    llama = FakeLlama(model)
    cache = kl.KvantLlamaCache(llama, kl.Settings(**RAW))
    assert llama.n_tokens == 0 and cache.cache_size == 0
    prompt = list(range(100, 200))
    with pytest.raises(KeyError):
        cache[prompt]
    assert prompt not in cache
    llama.eval(prompt)
    cache[(*prompt, 7)] = llama.save_state()  # the last token of a completion is not decoded
    assert cache.cache_size > 0
    other = kl.KvantLlamaCache(FakeLlama(model), kl.Settings(**RAW))
    assert prompt in other
    found = other[[*prompt, 5]]
    assert found.n_tokens == 96 and found.input_ids[:97].tolist() == [*prompt[:96], -1]
    keys, values = llama.rows()
    assert found.llama_state == written(keys[:, :96], values[:, :96], head=CONTEXT, sequence=0, transposed=1)
    assert found.llama_state_size == len(found.llama_state)
    with pytest.raises(kvant.InvalidArgumentError, match="other tokens than its key"):
        cache[[1, 2, 3]] = llama.save_state()


@pytest.mark.parametrize("params", [{"rope_freq_base": 1e6}, {"rope_scaling_type": 2}, {"rope_freq_scale": 0.5}], ids=str)
def test_contexts_that_override_the_model_are_refused(model, params):
    with pytest.raises(kvant.UnsupportedError, match=f"{next(iter(params))} overrides"):
        kl.KvantLlamaCache(FakeLlama(model, **params))


def test_quantized_caches_are_refused(model):
    with pytest.raises(kvant.UnsupportedError, match="keys of layer 0's type is 8"):
        llama = FakeLlama(model, type_k=8)
        keys, values = some_rows(1)
        llama.save_state = lambda: types.SimpleNamespace(llama_state=written(keys, values, types=(8, 1)), n_tokens=1)
        kl.KvantLlamaCache(llama)
