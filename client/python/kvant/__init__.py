"""kvant for Python: a KV cache that processes share, with attention on its compressed codes.

    import kvant
    client = kvant.Client()                       # a daemon inside this process; "unix:/run/kvant/kvantd.sock" for a shared one
    store = client.open_store(kvant.StoreSpec(name="tour", model="waves", tokenizer="none", layers=1, kv_heads=2, head_dim=64))
    sequence = store.open(tokens)                 # already holds the longest prefix that anybody has computed

Adapters: kvant.mlx_lm (mlx_lm), kvant.transformers (Hugging Face). A client and all it opened belong to the thread that made it:
kvant.connect gives each thread one of its own.
"""

from kvant._core import (
    Client,
    CorruptError,
    DaemonGoneError,
    DeadlineError,
    Error,
    IdentityMismatchError,
    InternalError,
    InvalidArgumentError,
    NotFiniteError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    PromptCache,
    Sequence,
    StaleDaemonError,
    Store,
    StoreFullError,
    SystemCallError,
    TailFullError,
    UnavailableError,
    UnsupportedError,
    VersionMismatchError,
    WrongThreadError,
    rope_frequencies,
)
from kvant.connect import connect
from kvant.identity import model_identity, tokenizer_identity
from kvant.kv_cache import KVCacheBuilder, KVCacheConfig, KVCacheFactory
from kvant.spec import LayerPlan, Rope, StoreSpec
from kvant.supports import supports_shape

__all__ = [name for name in dir() if not name.startswith("_")]
