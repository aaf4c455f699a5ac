"""The cache object that mlx_lm holds for each attention layer, over one conversation of all layers."""

import copy

import mlx.core as mx
import numpy as np
from mlx_lm.models import cache as mlx_cache

import kvant
from kvant.conversation import Conversation
from kvant.mlx_lm.masks import mask_for, style_of
from kvant.mlx_lm.saved import loaded_conversation, saved_state


class MlxConversation(Conversation):
    """A conversation with a model of mlx_lm, and what mlx_lm asks of a cache besides."""

    def __init__(self, caches, store, **options):
        super().__init__(store, caches.spec.layers, **options)
        self.caches = caches  # the ModelCaches it is one of
        self.last_trim = 0
        self.copied_bytes = 0

    def attend(self, layer, q, k, v, out, scale, style):
        """One layer of the tokens announced. q, k, v: [tokens, heads, head_dim]; out: a numpy array of q's shape."""
        self.step(layer, k, v, q, out, scale, **style)
        self.copied_bytes += out.nbytes


class KvantKVCache(mlx_cache._BaseCache):
    """One attention layer of a conversation. The caches of all layers share one sequence, which acts when its first layer is asked."""

    def __init__(self, conversation, layer):
        self._conversation = conversation
        self._layer = layer

    @property
    def conversation(self):
        return self._conversation

    @property
    def layer(self):
        return self._layer

    @property
    def offset(self):
        return self._conversation.length

    def size(self):
        return self.offset

    def empty(self):
        return self.offset == 0

    @property
    def nbytes(self):
        """This layer's share of the sequence's codes and raw rows."""
        return self._conversation.nbytes // self._conversation.layers

    @property
    def state(self):
        """What mlx_lm.save_prompt_cache writes. Rows are not among it: they are in shared memory when a layer's attention returns."""
        return saved_state(self._conversation, self._layer)

    @classmethod
    def from_state(cls, state):
        """What mlx_lm.load_prompt_cache makes of it, layer by layer in order."""
        return cls(loaded_conversation(state), state["layer"])

    def make_mask(self, N, return_array=False, window_size=None):
        return mask_for(N, return_array, window_size)

    def begin(self, model, ids):
        """The ids [1, tokens] that the model computes next."""
        if ids.shape[0] != 1:
            raise kvant.UnsupportedError(f"attention: a batch of {ids.shape[0]} on caches of one sequence; merge() makes a batch of several")
        self._conversation.caches.check_model(model)
        self._conversation.begin(ids[0].tolist())

    def end(self):
        """Says so if a layer of the pass did its attention without kvant."""
        if self._conversation.begun:
            self.abandon()
            raise kvant.UnsupportedError("attention: a layer of this model did not come to kvant; it computes attention itself")

    def abandon(self):
        self._conversation.abandon()

    def update_and_fetch(self, keys, values):
        if not self._conversation.begun:
            raise kvant.UnsupportedError("update_and_fetch: this model is not patched; call kvant.mlx_lm.patch_mlx_lm(model, config) first")
        return keys, values

    def attend(self, q, k, v, scale, mask, sinks):
        """Attention of q [1, q_heads, tokens, head_dim] over the sequence and its new rows k, v [1, kv_heads, tokens, head_dim]."""
        conversation = self._conversation
        style = style_of(mask, sinks, conversation.caches.config.sliding_window)
        q, k, v = (x[0].transpose(1, 0, 2) for x in (q, k, v))
        mx.eval(q, k, v)
        out = np.empty(q.shape, np.float32)
        conversation.attend(self._layer, q, k, v, out, scale, style)
        return mx.array(out).astype(q.dtype).transpose(1, 0, 2)[None]

    def is_trimmable(self):
        return True

    def trim(self, n):
        if self._layer == 0:
            self._conversation.last_trim = self._conversation.trim(n)
        return self._conversation.last_trim

    def __deepcopy__(self, memo):
        """The server's prompt cache copies on every hit: a fork, blocks shared, one for all layers."""
        return KvantKVCache(copy.deepcopy(self._conversation, memo), self._layer)

    @staticmethod
    def merge(caches):
        """A batch of copies of these conversations."""
        from kvant.mlx_lm.batch import BatchKvantKVCache

        return BatchKvantKVCache.merge(caches)


mlx_cache.KvantKVCache = KvantKVCache  # load_prompt_cache looks up there what save_prompt_cache has named
