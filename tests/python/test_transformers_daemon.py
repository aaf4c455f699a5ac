"""kvant caches in transformers with a daemon of its own process: prefixes of other processes, a daemon that goes away, a full store."""

import json
import subprocess
import sys

import kvant
import pytest
from kvantd_process import program

torch = pytest.importorskip("torch")
import kvant.transformers as kt  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

TOKENS = 16

ANOTHER = """
import sys, torch, kvant, kvant.transformers as kt
from transformers import AutoModelForCausalLM, AutoTokenizer
path, uri, prompt, tokens = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
kt.attach(model, kvant.KVCacheConfig(model_path=path, uri=uri))
inputs = AutoTokenizer.from_pretrained(path)(prompt, return_tensors="pt")
out = model.generate(**inputs, cache=kt.KvantCache(model, **inputs), max_new_tokens=int(tokens), do_sample=False)
print(out[0, -int(tokens):].tolist())
"""


@pytest.fixture
def model(byte6m):
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(byte6m, dtype=torch.float32).eval()


@pytest.fixture
def inputs(byte6m, prompt):
    return AutoTokenizer.from_pretrained(byte6m)(prompt, return_tensors="pt")


def go_on(model, inputs, cache):
    return model.generate(**inputs, cache=cache, max_new_tokens=TOKENS, do_sample=False)[0, -TOKENS:].tolist()


def test_a_prefix_of_another_process_is_found(daemon, model, inputs, byte6m, prompt):
    other = subprocess.run(
        [sys.executable, "-c", ANOTHER, byte6m, daemon.uri, prompt, str(TOKENS)], capture_output=True, text=True, timeout=300, check=True
    )
    kt.attach(model, kvant.KVCacheConfig(model_path=str(byte6m), uri=daemon.uri))
    cache = kt.KvantCache(model, **inputs)
    assert cache.cached_tokens == [1408]
    assert str(go_on(model, inputs, cache)) == other.stdout.strip()


def test_the_reference_engine_finds_what_transformers_wrote(daemon, model, inputs, byte6m, prompt):
    kt.attach(model, kvant.KVCacheConfig(model_path=str(byte6m), uri=daemon.uri))
    go_on(model, inputs, kt.KvantCache(model, **inputs))
    again = go_on(model, inputs, kt.KvantCache(model, **inputs))  # from the blocks that the reference engine will find
    command = [program("kvant-generate"), "--model", byte6m, "--socket", daemon.socket, "--max-tokens", str(TOKENS), "-o", "json"]
    command += ["--placement", "local", "--tail-type", "f32"]
    other = json.loads(subprocess.run(command, input=prompt, capture_output=True, text=True, timeout=300, check=True).stdout)
    assert other["prefix_hit_tokens"] == 1408
    assert other["text"] == bytes(token - 3 for token in again).decode()


@pytest.mark.parametrize("placement", ["local", "service"])
def test_a_daemon_that_goes_away_is_an_error_and_no_more(daemon, model, inputs, byte6m, placement):
    kt.attach(model, kvant.KVCacheConfig(model_path=str(byte6m), uri=daemon.uri, placement=placement, client_options={"deadline": 20.0}))
    cache = kt.KvantCache(model, **inputs)
    seen = []

    def kill(*_):
        seen.append(1)
        if len(seen) == 6:  # in the midst of decoding
            daemon.kill()

    hook = model.base_model.layers[2].register_forward_hook(kill)
    with pytest.raises(kvant.DaemonGoneError):
        model.generate(**inputs, cache=cache, max_new_tokens=300, do_sample=False)
    hook.remove()
    # The engine's process lives on, with a daemon inside it if need be.
    kt.attach(model, kvant.KVCacheConfig(model_path=str(byte6m)))
    assert len(go_on(model, inputs, kt.KvantCache(model, **inputs))) == TOKENS


def test_a_full_store_is_an_error_and_leaves_the_rows_as_they_were(model, inputs, byte6m, monkeypatch):
    small = kvant.Client(embedded_budget=2 << 20)
    monkeypatch.setattr(kvant, "connect", lambda *_, **__: small)
    kt.attach(model, kvant.KVCacheConfig(model_path=str(byte6m), keys="f32", values="f32"))
    cache = kt.KvantCache(model)
    with pytest.raises(kvant.StoreFullError):
        go_on(model, inputs, cache)
    assert cache.get_seq_length() == cache.rows[0].length and cache.rows[0].length % 512 == 0
