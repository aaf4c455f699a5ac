"""The storage plug-in for LMCache, over a real kvantd, with stand-ins for LMCache's classes. Where KVANT_LMCACHE_SOURCES names an unpacked
wheel of LMCache, they are held against its sources."""

import os
import pathlib
import threading
import types

import kvant
import numpy as np
import pytest

import engine_sources
import lmcache_standin

lmcache_standin.install()
from kvant.lmcache import KvantStorage  # noqa: E402

HERE = pathlib.Path(__file__).parent
LAYERS, CHUNK, HEADS, DIM = 3, 64, 2, 64
SHAPE = (2, LAYERS, CHUNK, HEADS * DIM)


class Chunk:
    """A memory object of LMCache's over an array."""

    def __init__(self, tensor, form="KV_2LTD"):
        self.tensor, self._form, self.references = tensor, form, 1

    def get_shapes(self):
        return [self.tensor.shape]

    def get_memory_format(self):
        return types.SimpleNamespace(name=self._form)

    def ref_count_down(self):
        self.references -= 1


class Memory:
    """LMCache's allocator."""

    def __init__(self):
        self.given = []

    def allocate(self, shapes, dtypes, fmt=None, eviction=True, busy_loop=True):
        self.given.append(Chunk(np.zeros(shapes, np.float16)))
        return self.given[-1]


class Key(str):
    """A chunk's key of LMCache's."""

    def to_string(self):
        return str(self)


def key(number, worker=0):
    return Key(f"m@1@{worker}@{number:x}@half")


def storage(socket, **changes):
    metadata = {"model_name": "m", "kv_shape": (LAYERS, 2, CHUNK, HEADS, DIM), "kv_dtype": "torch.float16", "use_mla": False, "chunk_size": CHUNK}
    metadata = types.SimpleNamespace(get_shapes=lambda: [SHAPE], **{**metadata, **changes})
    extra = {"kvant.uri": socket, "kvant.keys": "f16", "kvant.values": "f16", "other.name": 1}
    return KvantStorage(config=types.SimpleNamespace(extra_config=extra), metadata=metadata, local_cpu_backend=Memory(), dst_device="cpu", loop=None)


def rows(seed):
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float16)


def test_chunks_come_back_in_another_process_or_thread(kvantd):
    done = []
    storage(kvantd).batched_submit_put_task([key(1), key(2)], [Chunk(rows(1)), Chunk(rows(2))], on_complete_callback=done.append)
    assert done == [key(1), key(2)]
    other = storage(kvantd)
    assert other.contains(key(1)) and other.contains(key(2)) and not other.contains(key(3))
    assert (other.get_blocking(key(2)).tensor == rows(2)).all()
    assert other.get_blocking(key(3)) is None
    found = []
    thread = threading.Thread(target=lambda: found.append(other.get_blocking(key(1))))
    thread.start()
    thread.join()
    assert (found[0].tensor == rows(1)).all()
    assert not other.exists_in_put_tasks(key(1)) and not other.remove(key(1)) and other.get_allocator_backend() is other.local_cpu_backend


def test_another_model_worker_or_hash_is_another_chunk(kvantd):
    storage(kvantd).batched_submit_put_task([key(1)], [Chunk(rows(1))])
    assert not storage(kvantd).contains(key(1, worker=1))
    assert not storage(kvantd, model_name="n").contains(key(1))


def test_a_pinned_chunk_outlives_a_full_store(kvantd_small):
    one = storage(kvantd_small)
    one.batched_submit_put_task([key(0)], [Chunk(rows(0))])
    assert one.contains(key(0), pin=True) and not one.pin(key(99999))
    for number in range(1, 400):  # far beyond the budget
        one.batched_submit_put_task([key(number)], [Chunk(rows(number))])
    assert not one.contains(key(1))
    assert (one.get_blocking(key(0)).tensor == rows(0)).all()
    assert one.unpin(key(0)) and not one.unpin(key(0))
    for number in range(400, 800):
        one.batched_submit_put_task([key(number)], [Chunk(rows(number))])
    assert not one.contains(key(0))
    one.close()


@pytest.mark.parametrize("chunk", [Chunk(rows(1)[:, :, :32]), Chunk(rows(1), "KV_T2D"), Chunk(rows(1)[:1])], ids=["unfull", "layerwise", "one side"])
def test_other_chunks_are_left_out_and_logged(kvantd, chunk, caplog):
    one = storage(kvantd)
    one.batched_submit_put_task([key(1), key(2)], [chunk, Chunk(rows(2))])
    assert not one.contains(key(1)) and one.contains(key(2))
    assert f"put of {key(1)}: chunk of format" in caplog.text


def test_a_daemon_that_goes_away_costs_hits_alone(daemon, caplog):
    one = storage(daemon.socket)
    one.batched_submit_put_task([key(1)], [Chunk(rows(1))])
    daemon.kill()
    assert not one.contains(key(1)) and one.get_blocking(key(1)) is None and not one.pin(key(1))
    one.batched_submit_put_task([key(2)], [Chunk(rows(2))])
    for operation in ("look-up", "get", "pin", "put"):
        assert f"{operation} of m@1@0" in caplog.text
    daemon.start()
    one.batched_submit_put_task([key(3)], [Chunk(rows(3))])
    assert one.contains(key(3)) and not one.contains(key(1))


@pytest.mark.parametrize(
    "changes, error, says",
    [
        ({"use_mla": True}, kvant.UnsupportedError, "use_mla"),
        ({"kv_dtype": "torch.uint8"}, kvant.UnsupportedError, "kv_dtype torch.uint8"),
    ],
)
def test_what_is_not_known_is_refused_by_name(changes, error, says):
    with pytest.raises(error, match=says):
        storage("/nowhere", **changes)
    with pytest.raises(kvant.InvalidArgumentError, match="kvant.uri"):
        storage("embedded:")


def test_the_plug_in_overrides_its_base_as_declared():
    ours = engine_sources.class_in(HERE.parents[1] / "client/python/kvant/lmcache.py", "KvantStorage")
    ours.body = [node for node in ours.body if getattr(node, "name", "") != "__init__"]
    engine_sources.check_overrides(ours, engine_sources.class_in(lmcache_standin.__file__, "StorageBackendInterface"))


SOURCES = os.environ.get("KVANT_LMCACHE_SOURCES")


@pytest.mark.skipif(not SOURCES, reason="KVANT_LMCACHE_SOURCES names no unpacked wheel of LMCache")
def test_the_sources_of_lmcache_are_as_the_stand_ins_say():
    root = pathlib.Path(SOURCES) / "lmcache"
    backend = root / "v1/storage_backend/abstract_backend.py"
    base = engine_sources.class_in(backend, "StorageBackendInterface")
    stand_in = engine_sources.class_in(lmcache_standin.__file__, "StorageBackendInterface")
    assert engine_sources.abstract_methods(stand_in) == engine_sources.abstract_methods(base)
    ours = engine_sources.class_in(HERE.parents[1] / "client/python/kvant/lmcache.py", "KvantStorage")
    for tree in (ours, stand_in):
        tree.body = [node for node in tree.body if getattr(node, "name", "") != "__init__"]
        engine_sources.check_overrides(tree, base)
    made = engine_sources.arguments(engine_sources.methods_of(engine_sources.class_in(backend, "StoragePluginInterface"))["__init__"])
    assert made["plain"] == ["self", "dst_device", "config", "metadata", "local_cpu_backend", "loop"]
    for path, name, used in (
        ("v1/metadata.py", "LMCacheMetadata", {"model_name", "kv_shape", "kv_dtype", "use_mla", "chunk_size", "get_shapes"}),
        ("v1/memory_management.py", "MemoryObj", {"tensor", "get_shapes", "get_memory_format", "ref_count_down"}),
        ("v1/memory_management.py", "MemoryFormat", {"KV_2LTD"}),
        ("v1/storage_backend/local_cpu_backend.py", "LocalCPUBackend", {"allocate"}),
        ("utils.py", "CacheEngineKey", {"to_string"}),
    ):
        assert used <= engine_sources.attributes_of(engine_sources.class_in(root / path, name)), name
