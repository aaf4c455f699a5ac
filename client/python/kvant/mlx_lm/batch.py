"""Several conversations that mlx_lm computes together: what BatchGenerator and mlx_lm.server make of caches by merge()."""

import copy
import weakref

import mlx.core as mx
import numpy as np
from mlx_lm.models import cache as mlx_cache

import kvant
from kvant.conversation import step_together
from kvant.mlx_lm.cache import KvantKVCache
from kvant.mlx_lm.masks import mask_for, style_of


class _Batch:
    """The conversations of a batch, one for all layers."""

    def __init__(self, rows):
        self.rows = rows
        self.unread = None  # of a right-padded prompt: tokens of each row that are still to be computed
        self.counts = ()  # tokens of each row in the present forward pass
        self.offset = None
        self.extracted = None

    def __deepcopy__(self, memo):
        return _Batch([copy.deepcopy(row, memo) for row in self.rows])


class BatchKvantKVCache(mlx_cache._BaseCache):
    """One attention layer of a batch. Rows have lengths of their own and no padding is stored. mlx_lm calls the caches of all layers
    one after the other; the batch acts when its first layer is asked."""

    def __init__(self, batch, layer):
        self._batch = batch
        self._layer = layer

    @classmethod
    def merge(cls, caches):
        """Copies: the caches themselves stay as they are, as with mlx_lm's own."""
        first = caches[0].conversation
        if caches[0].layer == 0:
            batch = _Batch([c.conversation.fork() for c in caches])
            first.merged = weakref.ref(batch)
        else:
            batch = first.merged()
        return cls(batch, caches[0].layer)

    @property
    def state(self):
        """Nothing to evaluate, and nothing that save_prompt_cache could write: it refuses this. extract() gives caches that it takes."""
        return [self]

    @property
    def offset(self):
        """[rows] tokens held by each, as mlx_lm's rotary positions want them."""
        if self._batch.offset is None:
            self._batch.offset = mx.array([row.length for row in self._batch.rows])
        return self._batch.offset

    def size(self):
        return max(row.length for row in self._batch.rows)

    def empty(self):
        return self.size() == 0

    @property
    def nbytes(self):
        return sum(row.nbytes // row.layers for row in self._batch.rows)

    def make_mask(self, N, return_array=False, window_size=None):
        return mask_for(N, return_array, window_size)

    def prepare(self, *, lengths=None, right_padding=None, left_padding=None):
        if left_padding is not None and max(left_padding) > 0:
            raise kvant.UnsupportedError("prepare: prompts padded on the left; a kvant batch takes padding on the right, which it does not store")
        self._batch.unread = list(lengths) if lengths is not None else None

    def finalize(self):
        self._batch.unread = None

    def filter(self, batch_indices):
        if self._layer == 0:
            self._batch.rows = [self._batch.rows[i] for i in (batch_indices.tolist() if isinstance(batch_indices, mx.array) else batch_indices)]
            self._batch.offset = None

    def extend(self, other):
        if self._layer == 0:
            self._batch.rows = self._batch.rows + other._batch.rows
            self._batch.offset = None

    def extract(self, idx):
        """A copy of one row, as a cache of one sequence."""
        batch = self._batch
        if self._layer == 0:
            batch.extracted = batch.rows[idx].fork()
        row = batch.extracted
        if self._layer + 1 == row.layers:
            batch.extracted = None
        return KvantKVCache(row, self._layer)

    def is_trimmable(self):
        return True

    def trim(self, n):
        if self._layer == 0:
            for row in self._batch.rows:
                row.last_trim = row.trim(n)
            self._batch.offset = None
        return max(row.last_trim for row in self._batch.rows)

    def __deepcopy__(self, memo):
        return BatchKvantKVCache(copy.deepcopy(self._batch, memo), self._layer)

    def begin(self, model, ids):
        """The ids [rows, tokens] that the model computes next; of a row's tokens those beyond its length are padding."""
        batch = self._batch
        if ids.shape[0] != len(batch.rows):
            raise kvant.InvalidArgumentError(f"attention: ids of {ids.shape[0]} rows for a batch of {len(batch.rows)}")
        width = ids.shape[1]
        batch.counts = [width] * len(batch.rows) if batch.unread is None else [min(width, n) for n in batch.unread]
        if batch.unread is not None:
            batch.unread = [n - count for n, count in zip(batch.unread, batch.counts)]
        batch.offset = None
        for row, tokens, count in zip(batch.rows, ids.tolist(), batch.counts):
            row.caches.check_model(model)
            if count:
                row.begin(tokens[:count])

    def end(self):
        self._batch.offset = None
        if any(row.begun for row in self._batch.rows):
            self.abandon()
            raise kvant.UnsupportedError("attention: a layer of this model did not come to kvant; it computes attention itself")

    def abandon(self):
        for row in self._batch.rows:
            row.abandon()

    def update_and_fetch(self, keys, values):
        if not any(row.begun for row in self._batch.rows):
            raise kvant.UnsupportedError("update_and_fetch: this model is not patched; call kvant.mlx_lm.patch_mlx_lm(model, config) first")
        return keys, values

    def attend(self, q, k, v, scale, mask, sinks):
        """Attention of q [rows, q_heads, tokens, head_dim]; each row over its own sequence and its new rows of k, v. Zero for padding."""
        batch = self._batch
        views = [
            [x[b, :, :count].transpose(1, 0, 2) for x in (q, k, v)]
            for b, count in enumerate(batch.counts)
        ]
        mx.eval(views)
        out = np.zeros((q.shape[0], q.shape[2], q.shape[1], q.shape[3]), np.float32)
        rows = zip(batch.rows, batch.counts, views, out)
        calls = [(row, k_row, v_row, q_row, out_row[:count]) for row, count, (q_row, k_row, v_row), out_row in rows if count]
        for caches in dict.fromkeys(row.caches for row, *_ in calls):  # one, unless caches of several configurations were merged
            of_caches = [call for call in calls if call[0].caches is caches]
            style = style_of(mask, sinks, caches.config.sliding_window)
            step_together(caches.client(), self._layer, of_caches, scale, **style)
        for row, *_, out_row in calls:
            row.copied_bytes += out_row.nbytes
        return mx.array(out).astype(q.dtype).transpose(0, 2, 1, 3)
