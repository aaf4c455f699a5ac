"""Prompt caches in files, by mlx_lm's own functions: what comes back, in which process, and what is said when it cannot."""

import json
import os
import subprocess
import sys

import kvant
import pytest
from kvantd_process import Kvantd

mx = pytest.importorskip("mlx.core")
import kvant.mlx_lm as km  # noqa: E402
import mlx_lm  # noqa: E402
from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache  # noqa: E402

TOKENS = 12

# A process that loads the file and continues: prints the caches' length, the tokens found, the warnings and the text.
CONTINUE = """
import json, sys, warnings
import kvant, kvant.mlx_lm as km, mlx_lm, mlx.core as mx
path, uri, file, last = sys.argv[1:]
model, tokenizer = mlx_lm.load(path)
model.set_dtype(mx.float32)
km.patch_mlx_lm(model, kvant.KVCacheConfig(model_path=path, uri=uri, keys="f32", values="f32"))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    caches, metadata = km.load_prompt_cache(file, return_metadata=True)
text = mlx_lm.generate(model, tokenizer, json.loads(last), max_tokens=%d, prompt_cache=caches)
print(json.dumps([caches[0].offset - %d, km.cached_tokens(caches), [str(w.message) for w in said], text, metadata]))
""" % (TOKENS, TOKENS + 1)


@pytest.fixture(scope="module")
def exact(engine, start):
    return mlx_lm.generate(*engine, start, max_tokens=TOKENS)


@pytest.fixture(scope="module")
def start(prompt):
    return prompt[-500:]


def elsewhere(byte6m, uri, file, last):
    done = subprocess.run(
        [sys.executable, "-c", CONTINUE, str(byte6m), uri, str(file), json.dumps(last)], capture_output=True, text=True, timeout=300, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_another_process_goes_on_and_a_lost_store_is_said(engine, exact, start, byte6m, tmp_path):
    model, tokenizer = engine
    ids = tokenizer.encode(start)
    file = tmp_path / "prompt.safetensors"
    with Kvantd() as daemon:
        km.patch_mlx_lm(model, kvant.KVCacheConfig(model_path=str(byte6m), uri=daemon.uri, keys="f32", values="f32"))
        caches = km.make_prompt_cache(model)
        model(mx.array([ids[:-1]]), cache=caches)
        save_prompt_cache(str(file), caches, {"what": "a prompt"})
        del caches
        metadata = {"what": "a prompt"}
        assert elsewhere(byte6m, daemon.uri, file, ids[-1:]) == [len(ids) - 1, 384, [], exact, metadata]
        daemon.kill()
        daemon.start()
        length, found, said, text, _ = elsewhere(byte6m, daemon.uri, file, ids[-1:])
        assert (length, found, text) == (len(ids) - 1, 0, exact)
        assert len(said) == 1 and "the store has 0 of 384 tokens" in said[0]
    km.unpatch_mlx_lm(model)


def test_what_a_file_does_not_fit_is_named(engine, byte6m, tmp_path):
    model, _ = engine
    file = str(tmp_path / "few.safetensors")

    def config(**fields):
        return kvant.KVCacheConfig(model_path=str(byte6m), **fields)

    km.patch_mlx_lm(model, config())
    caches = km.make_prompt_cache(model)
    model(mx.array([[5, 6, 7]]), cache=caches)
    save_prompt_cache(file, caches)
    assert load_prompt_cache(file)[-1].conversation.tokens == [5, 6, 7]
    km.patch_mlx_lm(model, config(keys="int8"))
    with pytest.raises(kvant.IdentityMismatchError, match="keys 'int8' instead of 'balanced'"):
        load_prompt_cache(file)
    km.patch_mlx_lm(model, config(salt="another tenant"))
    with pytest.raises(kvant.IdentityMismatchError, match="salt"):
        load_prompt_cache(file)
    del caches
    km.unpatch_mlx_lm(model)
    with pytest.raises(kvant.UnsupportedError, match="no model is patched"):
        load_prompt_cache(file)


def test_an_empty_cache_and_a_batch(engine, byte6m, tmp_path):
    model, _ = engine
    km.patch_mlx_lm(model, kvant.KVCacheConfig(model_path=str(byte6m)))
    file = str(tmp_path / "empty.safetensors")
    caches = km.make_prompt_cache(model)
    save_prompt_cache(file, caches)
    loaded = load_prompt_cache(file)
    assert [c.offset for c in loaded] == [0] * len(model.layers)
    assert len({id(c.conversation) for c in loaded}) == 1
    with pytest.raises(ValueError, match="not serializable"):
        save_prompt_cache(file, [layer.merge([layer]) for layer in caches])
