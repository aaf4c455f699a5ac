"""The names of LMCache that kvant.lmcache uses, for tests where LMCache is not installed. test_lmcache.py holds them against its sources."""

import abc
import sys
import types


class StorageBackendInterface(metaclass=abc.ABCMeta):
    def __init__(self, dst_device="cpu"):
        self.dst_device = dst_device

    @abc.abstractmethod
    def contains(self, key, pin=False):
        pass

    @abc.abstractmethod
    def exists_in_put_tasks(self, key):
        pass

    @abc.abstractmethod
    def batched_submit_put_task(self, keys, objs, transfer_spec=None, on_complete_callback=None):
        pass

    @abc.abstractmethod
    def get_blocking(self, key):
        pass

    @abc.abstractmethod
    def pin(self, key):
        pass

    @abc.abstractmethod
    def unpin(self, key):
        pass

    @abc.abstractmethod
    def remove(self, key, force=True):
        pass

    @abc.abstractmethod
    def get_allocator_backend(self):
        pass

    @abc.abstractmethod
    def close(self):
        pass


class StoragePluginInterface(StorageBackendInterface):
    def __init__(self, dst_device="cpu", config=None, metadata=None, local_cpu_backend=None, loop=None):
        super().__init__(dst_device=dst_device)
        self.config = config
        self.metadata = metadata
        self.local_cpu_backend = local_cpu_backend
        self.loop = loop


def install():
    """Makes the names importable."""
    parts = "lmcache.v1.storage_backend.abstract_backend".split(".")
    for depth in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth])))
    sys.modules[".".join(parts)].StoragePluginInterface = StoragePluginInterface
