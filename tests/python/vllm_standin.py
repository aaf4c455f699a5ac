"""The names of vLLM that kvant.vllm uses, for tests where vLLM is not installed. test_vllm.py holds them against vLLM's sources."""

import enum
import sys
import types
from abc import ABC, abstractmethod


class KVConnectorMetadata(ABC):
    pass


class KVConnectorRole(enum.Enum):
    SCHEDULER = 0
    WORKER = 1


class KVConnectorBase_V1(ABC):
    @property
    def requires_kv_delivery(self):
        return self._kv_transfer_config.is_kv_producer

    def __init__(self, vllm_config, role, kv_cache_config):
        self._connector_metadata = None
        self._kv_transfer_config = vllm_config.kv_transfer_config
        self._role = role

    def bind_connector_metadata(self, connector_metadata):
        self._connector_metadata = connector_metadata

    def clear_connector_metadata(self):
        self._connector_metadata = None

    def _get_connector_metadata(self):
        assert self._connector_metadata is not None
        return self._connector_metadata

    def register_kv_caches(self, kv_caches):
        return

    @abstractmethod
    def start_load_kv(self, forward_context, **kwargs):
        pass

    @abstractmethod
    def wait_for_layer_load(self, layer_name):
        pass

    @abstractmethod
    def save_kv_layer(self, layer_name, kv_layer, attn_metadata, **kwargs):
        pass

    @abstractmethod
    def wait_for_save(self):
        pass

    def get_block_ids_with_load_errors(self):
        return set()

    @abstractmethod
    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        pass

    @abstractmethod
    def update_state_after_alloc(self, request, blocks, num_external_tokens):
        pass

    @abstractmethod
    def build_connector_meta(self, scheduler_output):
        pass

    def request_finished(self, request, block_ids):
        return False, None


def _get_attn_isa(dtype, block_size, head_size=None, kv_cache_dtype=None):
    return "amx" if "bfloat16" in str(dtype) else "vec"


def install():
    """Makes the names importable."""
    for path, names in {
        "vllm.distributed.kv_transfer.kv_connector.v1.base": (KVConnectorBase_V1, KVConnectorMetadata, KVConnectorRole),
        "vllm.v1.attention.backends.cpu_attn": (_get_attn_isa,),
    }.items():
        parts = path.split(".")
        for depth in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth])))
        for name in names:
            setattr(sys.modules[path], name.__name__, name)
