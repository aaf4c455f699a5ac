"""Where the caches of one model live: its store, and how caches of all layers are opened there."""

import weakref

import kvant
from kvant.mlx_lm.cache import KvantKVCache, MlxConversation
from kvant.mlx_lm.identity import spec_of
from kvant.mlx_lm.saved import living


class ModelCaches:
    """A model with a kvant.KVCacheConfig: the spec of its store, and the caches in it. Belongs to no thread; the caches do."""

    def __init__(self, model, config):
        """Opens the store, so that what is wrong with the configuration is said here."""
        self.model = weakref.ref(model)
        self.config = config
        self.spec = spec_of(model, config)
        self.identity = self.store().info["identity"]
        living.add(self)

    def client(self):
        """This thread's client."""
        return kvant.connect(self.config.uri, **self.config.client_options)

    def store(self):
        """The store, by this thread's client."""
        return self.client().open_store(self.spec)

    def open(self, tokens=()):
        """Fresh caches of all layers, which hold the longest prefix of `tokens` that is sealed."""
        c = self.config
        conversation = MlxConversation(
            self,
            self.store(),
            block_tokens=c.block_tokens,
            tokens=tokens,
            placement=c.placement,
            recent_tokens=c.recent_tokens,
            max_step_tokens=c.max_step_tokens,
            tail=c.tail or self.spec.dtype,
            capacity=c.capacity,
            label="mlx_lm",
            policy=c.policy,
        )
        return [KvantKVCache(conversation, layer) for layer in range(self.spec.layers)]

    def check_model(self, model):
        """That a cache of these is used with the model that it was made for, or one that is the same in every weight."""
        if self.model() is model:
            return
        other = getattr(model, "kvant_caches", None)
        if other is None:
            raise kvant.IdentityMismatchError("attention: the cache was made for another model")
        for field in ("model", "layers", "kv_heads", "head_dim", "dtype"):
            mine, its = getattr(self.spec, field), getattr(other.spec, field)
            if mine != its:
                raise kvant.IdentityMismatchError(f"attention: the cache was made for {field} {mine}, this model has {its}")
