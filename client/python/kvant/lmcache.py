"""A storage plug-in for LMCache: its chunks are kept compressed in a kvantd and shared by all processes that use one.

    storage_plugins: ["kvant"]
    extra_config:
        storage_plugin.kvant.module_path: kvant.lmcache
        storage_plugin.kvant.class_name: KvantStorage
        kvant.uri: unix:/run/kvant/kvantd.sock        # and other fields of kvant.prefixes.Settings; block_tokens is LMCache's chunk_size

What kvant cannot check here: LMCache hands over hashes of chunks, not tokens. A chunk is found by 128 bits of a digest of LMCache's key;
whether the tokens are the same rests on LMCache's own hash (with its "builtin" one, processes need one PYTHONHASHSEED), and whether the
weights are the same on its model_name. Other engines' adapters verify every token and digest the weights; their stores and this one are
never shared.

Whole chunks of the KV_2LTD format on the CPU are taken; unfull chunks, layerwise and MLA formats are left out and logged, asynchronous
loading is not offered. Errors of kvant are logged and are misses. Written against the sources of LMCache 0.5.6 and tested with stand-ins: it
has not run in an engine.
"""

import logging
import threading

import xxhash
from lmcache.v1.storage_backend.abstract_backend import StoragePluginInterface

import kvant
from kvant.prefixes import Prefixes, Settings

_log = logging.getLogger("kvant.lmcache")
_DTYPES = {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}


class KvantStorage(StoragePluginInterface):
    """Chunks of one worker. LMCache calls it from several threads; each has a client of its own."""

    def __init__(self, dst_device="cpu", config=None, metadata=None, local_cpu_backend=None, loop=None):
        super().__init__(dst_device=dst_device, config=config, metadata=metadata, local_cpu_backend=local_cpu_backend, loop=loop)
        fields = {name.removeprefix("kvant."): value for name, value in (config.extra_config or {}).items() if name.startswith("kvant.")}
        settings = Settings(**{**fields, "block_tokens": metadata.chunk_size})
        if settings.uri.startswith("embedded:"):
            raise kvant.InvalidArgumentError("LMCache: kvant.uri: threads and processes share chunks in a kvantd; name its socket")
        self._prefixes = Prefixes(_spec(metadata, settings), settings)
        self._pinned = {}
        self._lock = threading.Lock()

    def __str__(self):
        return "KvantStorage"

    def contains(self, key, pin=False):
        if pin:
            return self.pin(key)
        return self._logged("look-up", key, lambda: self._prefixes.count(self._tokens(key)) > 0) or False

    def exists_in_put_tasks(self, key):
        return False  # a put is done when it returns

    def batched_submit_put_task(self, keys, objs, transfer_spec=None, on_complete_callback=None):
        for key, obj in zip(keys, objs, strict=True):
            if self._logged("put", key, lambda key=key, obj=obj: self._put(key, obj)) and on_complete_callback is not None:
                on_complete_callback(key)

    def get_blocking(self, key):
        return self._logged("get", key, lambda: self._get(key))

    def pin(self, key):
        return self._logged("pin", key, lambda: self._hold(key)) or False

    def unpin(self, key):
        with self._lock:
            held = self._pinned.get(key)
            if not held:
                return False
            held.pop().close()
            if not held:
                del self._pinned[key]
        return True

    def remove(self, key, force=True):
        """False: blocks are shared with other processes, and kvantd evicts those that are not used."""
        return False

    def get_allocator_backend(self):
        return self.local_cpu_backend

    def close(self):
        with self._lock:
            for held in self._pinned.values():
                for sequence in held:
                    sequence.close()
            self._pinned.clear()

    def _logged(self, operation, key, call):
        try:
            return call()
        except kvant.Error as error:
            _log.error("%s of %s: %s", operation, key.to_string(), error)
            return None

    def _tokens(self, key):
        """A chunk's place in the store, in the form of token ids."""
        digest = xxhash.xxh3_128_digest(key.to_string().encode())
        words = [int.from_bytes(digest[at : at + 4], "little") for at in range(0, 16, 4)]
        return words * (self._prefixes.spec.block_tokens // len(words))

    def _rows(self, obj):
        """Per layer [tokens, kv_heads, head_dim] of a chunk's keys and values; views."""
        spec = self._prefixes.spec
        shapes = [tuple(shape) for shape in obj.get_shapes()]
        wanted = [(2, spec.layers, spec.block_tokens, spec.kv_heads * spec.head_dim)]
        if shapes != wanted or obj.get_memory_format().name != "KV_2LTD":
            raise kvant.UnsupportedError(f"chunk of format {obj.get_memory_format().name} and shapes {shapes}; known are KV_2LTD and {wanted}")
        tensor = obj.tensor.reshape(2, spec.layers, spec.block_tokens, spec.kv_heads, spec.head_dim)
        return tensor[0], tensor[1]

    def _put(self, key, obj):
        keys, values = self._rows(obj)
        self._prefixes.save(self._tokens(key), lambda layer, first, count: (keys[layer][first : first + count], values[layer][first : first + count]))
        return True

    def _get(self, key):
        with self._prefixes.find(self._tokens(key)) as sequence:
            if sequence.cached_tokens == 0:
                return None
            obj = self.local_cpu_backend.allocate(self.metadata.get_shapes()[0], self.metadata.kv_dtype)
            if obj is None:
                return None
            try:
                keys, values = self._rows(obj)
                for layer in range(self._prefixes.spec.layers):
                    sequence.copy_rows(layer, 0, sequence.cached_tokens, keys[layer], values[layer])
            except kvant.Error:
                obj.ref_count_down()
                raise
            return obj

    def _hold(self, key):
        sequence = self._prefixes.open(self._tokens(key))
        if sequence.cached_tokens == 0:
            sequence.close()
            return False
        with self._lock:
            self._pinned.setdefault(key, []).append(sequence)
        return True


def _spec(metadata, settings):
    layers, sides, _, kv_heads, head_dim = metadata.kv_shape
    if metadata.use_mla or sides != 2:
        raise kvant.UnsupportedError("LMCache: use_mla: rows of keys and of values are known")
    dtype = str(metadata.kv_dtype)
    if dtype not in _DTYPES:
        raise kvant.UnsupportedError(f"LMCache: kv_dtype {dtype}: {', '.join(_DTYPES)} are known")
    return kvant.StoreSpec(
        name="lmcache",
        model=metadata.model_name,
        tokenizer="LMCache's keys",
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=_DTYPES[dtype],
        **settings.plan(),
    )
