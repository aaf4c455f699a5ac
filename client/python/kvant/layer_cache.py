"""The cache of a single layer without a model: append a token's key and value, attend with a query."""

import uuid

import numpy as np

from kvant._core import InvalidArgumentError, OutOfRangeError
from kvant.connect import connect
from kvant.conversation import Conversation
from kvant.spec import StoreSpec


class LayerCache:
    """Keys and values of one layer, compressed as the configuration says. A store of its own: nothing is shared, since rows without
    tokens have no identity. Belongs to the thread that made it."""

    def __init__(self, config, num_heads, head_dim, max_seq_len):
        keys, values, overrides = config.plan(1)
        self._heads, self._dim = num_heads, head_dim
        self._capacity = min(max_seq_len, config.capacity or max_seq_len)
        self._window = config.sliding_window or 0
        unique = uuid.uuid4().hex
        spec = StoreSpec(
            # What makes the identity unique is not the model, of which codecs draw their rotations: results repeat from run to run.
            name=f"layer-{unique}", model=f"layer of seed {config.seed}", tokenizer=unique, layers=1, kv_heads=num_heads, head_dim=head_dim, dtype="f32",
            keys=keys, values=values, overrides=overrides, block_tokens=config.block_tokens, sink_tokens=config.sink_tokens, artifact=config.artifact,
        )  # fmt: skip
        config.complete(spec)
        self._store = connect(config.uri, **config.client_options).open_store(spec)
        self._options = {
            "block_tokens": config.block_tokens,
            "placement": config.placement,
            "recent_tokens": config.recent_tokens,
            "tail": config.tail or "f32",
        }
        self.reset()

    def reset(self):
        """Drops all tokens."""
        self._conversation = Conversation(self._store, 1, max_step_tokens=1, **self._options)

    def __len__(self):
        return self._conversation.length

    def append(self, key, value):
        """One token: key and value [num_heads, head_dim] (or [head_dim] for one head), any float array."""
        if len(self) >= self._capacity:
            raise OutOfRangeError(f"append: the cache holds {len(self)} tokens and is for {self._capacity}")
        key, value = self._row(key, "key"), self._row(value, "value")
        self._conversation.begin([len(self)])
        self._conversation.append(0, key, value)

    def attend(self, q, scale=None):
        """softmax(scale q.k) v over all tokens, or the newest `sliding_window`. q [q_heads, head_dim] (or [head_dim]), q_heads a multiple of
        num_heads; scale: 1/sqrt(head_dim) if not given. float32 of q's shape; an mlx array for an mlx array."""
        if not len(self):
            raise InvalidArgumentError("attend: the cache is empty")
        rows = np.ascontiguousarray(np.asarray(q, np.float32).reshape(1, -1, self._dim))
        out = np.empty_like(rows)
        # The query stands behind the newest token and is none itself: the token that a window counts last.
        window = self._window + 1 if self._window else 0
        self._conversation.sequence.attend(0, rows, out, self._dim**-0.5 if scale is None else scale, window=window)
        out = out.reshape(q.shape)
        if type(q).__module__.startswith("mlx."):
            import mlx.core as mx

            return mx.array(out)
        return out

    def memory_bytes(self):
        """Bytes of codes and of rows that are not compressed yet."""
        return self._conversation.nbytes

    def _row(self, array, what):
        row = np.asarray(array, np.float32)
        if row.size != self._heads * self._dim:
            raise InvalidArgumentError(f"append: a {what} of {row.size} numbers, [{self._heads}, {self._dim}] is wanted")
        return np.ascontiguousarray(row.reshape(1, self._heads, self._dim))
