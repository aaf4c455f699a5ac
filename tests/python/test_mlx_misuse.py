"""What goes wrong with kvant caches in mlx_lm is a typed error that says what to do, and the process goes on."""

import copy
import os
import threading

import kvant
import pytest
from kvantd_process import Kvantd

mx = pytest.importorskip("mlx.core")
import kvant.mlx_lm as km  # noqa: E402
import mlx_lm  # noqa: E402
from mlx_lm.models import llama  # noqa: E402
from mlx_lm.models.cache import ArraysCache  # noqa: E402
from small_mlx_model import LAYERS, ids, small  # noqa: E402

@pytest.fixture
def model():
    model = small()
    km.patch_mlx_lm(model, kvant.KVCacheConfig(keys="f32", values="f32", block_tokens=16))
    yield model
    km.unpatch_mlx_lm(model)


def logits(model, count=20, caches=None):
    caches = caches if caches is not None else km.make_prompt_cache(model)
    return model(ids(count), cache=caches)


def works(model):
    """Against mlx_lm's own attention."""
    stock = small()(ids(20))
    return mx.abs(logits(model) - stock).max().item() < 1e-4 * mx.abs(stock).max().item()


def test_the_small_model_works(model):
    assert works(model)


def test_the_cache_of_another_model(model):
    caches = km.make_prompt_cache(model)
    other = small(intermediate_size=56)
    with pytest.raises(kvant.UnsupportedError, match="not patched"):
        logits(other, caches=caches)
    km.patch_mlx_lm(other, kvant.KVCacheConfig())
    with pytest.raises(kvant.IdentityMismatchError, match="made for model"):
        logits(other, caches=caches)
    km.unpatch_mlx_lm(other)
    same = small()  # the same weights, loaded again
    km.patch_mlx_lm(same, kvant.KVCacheConfig())
    logits(same, caches=caches)
    km.unpatch_mlx_lm(same)
    assert works(model)


def test_another_thread(model):
    caches = km.make_prompt_cache(model)
    logits(model, caches=caches)
    caught = []

    def elsewhere():
        try:
            with mx.stream(mx.cpu):
                logits(model, 2, caches)
        except kvant.Error as error:
            caught.append(error)
        caught.append(works(model))  # with caches of its own

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert isinstance(caught[0], kvant.WrongThreadError) and caught[1] is True
    logits(model, 2, caches)
    assert caches[0].offset == 22


def test_a_forked_child(model):
    caches = km.make_prompt_cache(model)
    logits(model, caches=caches)
    child = os.fork()
    if child == 0:
        try:
            copy.deepcopy(caches)
        except kvant.DaemonGoneError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    logits(model, 2, caches)


@pytest.mark.parametrize(("placement", "within"), [("service", 1), ("local", 128 + 64 + 64)])
def test_a_daemon_that_goes_away(placement, within):
    """Local attention needs the daemon only when a block has left the recent window, after 128 + 64 tokens at the latest."""
    model = small()
    with Kvantd() as daemon:
        km.patch_mlx_lm(model, kvant.KVCacheConfig(keys="f32", values="f32", uri=daemon.uri, placement=placement))
        caches = km.make_prompt_cache(model)
        logits(model, caches=caches)
        daemon.kill()
        with pytest.raises(kvant.DaemonGoneError):
            for i in range(within):
                model(ids(1, i), cache=caches)
        daemon.start()
        assert works(model)
        with pytest.raises(kvant.DaemonGoneError):  # what was lost stays lost
            model(ids(1), cache=caches)
    km.unpatch_mlx_lm(model)


def test_a_prompt_longer_than_the_tail():
    model = small()
    km.patch_mlx_lm(model, kvant.KVCacheConfig(keys="f32", values="f32", max_step_tokens=16))
    caches = km.make_prompt_cache(model)
    logits(model, 3000, caches)
    assert caches[0].offset == 3000
    km.unpatch_mlx_lm(model)


def test_a_prompt_for_which_there_is_no_room():
    model = small()
    with Kvantd() as daemon:
        km.patch_mlx_lm(model, kvant.KVCacheConfig(uri=daemon.uri, client_options={"arena_bytes": 4 << 20}))
        caches = km.make_prompt_cache(model)
        with pytest.raises(kvant.OutOfRangeError, match="arena"):
            logits(model, 8192, caches)
        logits(model, 20, caches)
        assert caches[0].offset == 20
    km.unpatch_mlx_lm(model)


def test_a_pass_that_dies_half_way_leaves_nothing(model):
    caches = km.make_prompt_cache(model)
    logits(model, 10, caches)
    layer = model.layers[1]
    whole = layer.mlp

    def broken(x):
        raise ArithmeticError("half way")

    layer.mlp = broken
    with pytest.raises(ArithmeticError):
        logits(model, 5, caches)
    layer.mlp = whole
    assert copy.deepcopy(caches)[0].offset == caches[0].offset == 10
    again, fresh = logits(model, 5, caches), km.make_prompt_cache(model)
    logits(model, 10, fresh)
    assert mx.array_equal(again, logits(model, 5, fresh))


def test_attention_that_does_not_come_to_kvant(model, monkeypatch):
    caches = km.make_prompt_cache(model)
    monkeypatch.setattr(llama, "scaled_dot_product_attention", llama.scaled_dot_product_attention.stock)
    with pytest.raises(kvant.UnsupportedError, match="computes attention itself"):
        logits(model, 5, caches)
    monkeypatch.undo()
    logits(model, 5, caches)
    assert caches[0].offset == 5


def test_models_that_kvant_cannot_follow():
    model = small()
    model.make_cache = lambda: [ArraysCache(2) for _ in range(LAYERS)]
    with pytest.raises(kvant.UnsupportedError, match="ArraysCache"):
        km.patch_mlx_lm(model, kvant.KVCacheConfig())
    assert not km.is_patched(model) and type(model) is llama.Model


def test_vectors_instead_of_ids(model):
    caches = km.make_prompt_cache(model)
    with pytest.raises(kvant.UnsupportedError, match="input_embeddings"):
        model(ids(3), cache=caches, input_embeddings=mx.zeros((1, 3, 32)))


def test_a_configuration_that_the_model_does_not_fit(byte6m):
    with pytest.raises(kvant.IdentityMismatchError, match="3 layers"):
        km.patch_mlx_lm(small(), kvant.KVCacheConfig(model_path=str(byte6m)))


def test_unpatching_gives_back_everything():
    model = small()
    stock, stream = llama.scaled_dot_product_attention, mlx_lm.stream_generate
    before = dict(model.__dict__)
    for _ in range(2):
        km.patch_mlx_lm(model, kvant.KVCacheConfig())
    km.build_caches(model, kvant.KVCacheConfig())
    km.unpatch_mlx_lm(model)
    assert (llama.scaled_dot_product_attention, mlx_lm.stream_generate, type(model), model.__dict__) == (stock, stream, llama.Model, before)
