"""kvant caches for mlx_lm: attention on compressed codes, prefixes shared with other processes and other engines.

    model, tokenizer = mlx_lm.load(path)
    kvant.mlx_lm.patch_mlx_lm(model, kvant.mlx_lm.Settings(path, uri="unix:/run/kvant/kvantd.sock"))
    for response in kvant.mlx_lm.stream_generate(model, tokenizer, prompt):
        print(response.text, end="")

What mlx_lm computes, it goes on computing; a layer's scaled dot-product attention over a kvant cache is kvant's. mlx arrays are
values: keys, values and outputs are copied once each (the copies of outputs are in conversation.copied_bytes, those of keys and values in the client's counters), queries are read in place.
"""

import dataclasses
import sys
import threading

import mlx.core as mx
import numpy as np
from mlx_lm.models import cache as mlx_cache

import kvant
from kvant.conversation import Conversation
from kvant.hf_config import store_spec


@dataclasses.dataclass
class Settings:
    """Where a model's caches live and how they are compressed."""

    model_path: str  # the checkpoint's folder: config.json, weights and tokenizer.json give the store's identity
    uri: str = "embedded:"
    keys: str = "turboquant_mse:bits=4"
    values: str = "turboquant_mse:bits=4"
    placement: str = "local"
    recent_tokens: int = 64
    sink_tokens: int = 4
    block_tokens: int = 128
    max_step_tokens: int = 512  # grows with the longest forward pass
    tail: str = "f32"
    adapter: str = ""
    salt: str = ""
    artifact: bytes = b""
    client_options: dict = dataclasses.field(default_factory=dict)


class _Seen(threading.local):
    """The token ids that this thread embedded last."""

    ids = None


_seen = _Seen()


class _Window:
    """What make_mask answers for a layer with a sliding window; kvant's attention understands it."""

    def __init__(self, tokens):
        self.tokens = tokens


class KvantKVCache(mlx_cache._BaseCache):
    """One attention layer of a conversation. The caches of all layers share one sequence."""

    def __init__(self, conversation, layer):
        self._conversation = conversation
        self._layer = layer

    @property
    def conversation(self):
        return self._conversation

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
        """Nothing that mlx would have to evaluate: rows are in shared memory when a layer's attention returns."""
        return []

    @state.setter
    def state(self, value):
        if value:
            raise kvant.UnsupportedError("state: a kvant cache is loaded by kvant.mlx_lm.load_prompt_cache")

    def make_mask(self, N, return_array=False, window_size=None):
        if return_array:
            raise kvant.UnsupportedError("make_mask: this model wants its mask as an array, which attention on codes cannot follow")
        if window_size is not None:
            return _Window(window_size)
        return None if N == 1 else "causal"

    def update_and_fetch(self, keys, values):
        if not is_patched(None):
            raise kvant.UnsupportedError("update_and_fetch: no model is patched; call kvant.mlx_lm.patch_mlx_lm(model, settings) first")
        return keys, values

    def is_trimmable(self):
        return True

    def trim(self, n):
        # mlx_lm asks every layer; the sequence is trimmed once.
        if self._layer == 0:
            self._conversation.last_trim = self._conversation.trim(n)
        return self._conversation.last_trim

    def __deepcopy__(self, memo):
        """The server's prompt cache copies on every hit: a fork, blocks shared, one for all layers."""
        conversation = memo.get(id(self._conversation))
        if conversation is None:
            conversation = memo[id(self._conversation)] = self._conversation.fork()
        return KvantKVCache(conversation, self._layer)

    def attend(self, q, k, v, scale, mask, sinks):
        if q.shape[0] != 1:
            raise kvant.UnsupportedError(f"attention: a batch of {q.shape[0]}; a kvant cache holds one sequence")
        style = {}
        if isinstance(mask, _Window):
            style["window"] = mask.tokens
        elif not (mask is None or (isinstance(mask, str) and mask == "causal")):
            raise kvant.UnsupportedError("attention: the model brings a mask of its own; a kvant cache knows causal ones and windows")
        if sinks is not None:
            style["sink_logits"] = np.array(sinks.astype(mx.float32))
        if self._layer == 0 and _seen.ids is not None:
            self._conversation.begin(_seen.ids.reshape(-1).tolist())
            _seen.ids = None
        q, k, v = (x[0].transpose(1, 0, 2) for x in (q, k, v))
        mx.eval(q, k, v)
        out = np.empty(q.shape, np.float32)
        self._conversation.step(self._layer, k, v, q, out, scale, **style)
        self._conversation.copied_bytes += out.nbytes
        return mx.array(out).astype(q.dtype).transpose(1, 0, 2)[None]


class _MlxConversation(Conversation):
    """With what mlx_lm asks of a cache besides."""

    def __init__(self, store, layers, **options):
        super().__init__(store, layers, **options)
        self.last_trim = 0
        self.copied_bytes = 0


def _embedding(model):
    """The layer that turns token ids into vectors: a cache never sees ids, so this is where they are read."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in ("embed_tokens", "wte", "tok_embeddings", "word_embeddings"):
            return module
    raise kvant.UnsupportedError(f"patch: {type(model).__module__} has no token embedding under a known name")


def _tapped(cls):
    """`cls`, with the ids that go in remembered."""

    class Tapped(cls):
        def __call__(self, ids):
            _seen.ids = ids
            return super().__call__(ids)

    Tapped.__name__ = cls.__name__
    return Tapped


class _Patch:
    """What was replaced in one model, to be undone."""

    def __init__(self, model, settings):
        self.settings = settings
        self.layers = len(model.layers)
        stock = mlx_cache.make_prompt_cache(model)
        other = sorted({type(c).__name__ for c in stock} - {"KVCache", "RotatingKVCache"})
        if other:
            raise kvant.UnsupportedError(f"patch: layers of this model keep {', '.join(other)}; kvant holds keys and values of attention")
        dtype = {mx.float32: "f32", mx.float16: "f16", mx.bfloat16: "bf16"}[_embedding(model).weight.dtype]
        self.spec = store_spec(
            settings.model_path,
            dtype=dtype,
            keys=settings.keys,
            values=settings.values,
            block_tokens=settings.block_tokens,
            sink_tokens=settings.sink_tokens,
            adapter=settings.adapter,
            salt=settings.salt,
            artifact=settings.artifact,
        )
        self.module = sys.modules[type(model).__module__]
        self.attention = self.module.scaled_dot_product_attention
        self.embedding = _embedding(model)
        self.embedding_class = type(self.embedding)
        self.make_cache = model.__dict__.get("make_cache")

    def open(self, tokens=()):
        """Fresh caches of all layers, which hold the longest prefix of `tokens` that is sealed."""
        s = self.settings
        store = kvant.connect(s.uri, **s.client_options).open_store(self.spec)
        conversation = _MlxConversation(
            store,
            self.layers,
            block_tokens=s.block_tokens,
            tokens=tokens,
            placement=s.placement,
            recent_tokens=s.recent_tokens,
            max_step_tokens=s.max_step_tokens,
            tail=s.tail,
            label="mlx_lm",
        )
        return [KvantKVCache(conversation, layer) for layer in range(self.layers)]


_patches = {}  # by id(model)


def _attention_with_kvant(stock):
    def scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks=None):
        if isinstance(cache, KvantKVCache):
            return cache.attend(queries, keys, values, scale, mask, sinks)
        return stock(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)

    scaled_dot_product_attention.kvant = stock
    return scaled_dot_product_attention


def patch_mlx_lm(model, settings):
    """Makes model.make_cache() give kvant caches, and the model's attention understand them. Patching again replaces the settings.

    Models that call mx.fast.scaled_dot_product_attention themselves, and models with layers that keep other state, are refused.
    """
    unpatch_mlx_lm(model)
    module = sys.modules[type(model).__module__]
    if not hasattr(module, "scaled_dot_product_attention"):
        raise kvant.UnsupportedError(f"patch: {module.__name__} has no scaled_dot_product_attention of mlx_lm's to replace")
    patch = _Patch(model, settings)
    if not hasattr(patch.attention, "kvant"):
        module.scaled_dot_product_attention = _attention_with_kvant(patch.attention)
    patch.embedding.__class__ = _tapped(patch.embedding_class)
    model.make_cache = patch.open
    _patches[id(model)] = patch
    return model


def unpatch_mlx_lm(model):
    """Undoes patch_mlx_lm; does nothing for a model that is not patched."""
    patch = _patches.pop(id(model), None)
    if patch is None:
        return
    patch.embedding.__class__ = patch.embedding_class
    if patch.make_cache is None:
        del model.make_cache
    else:
        model.make_cache = patch.make_cache
    if not any(other.module is patch.module for other in _patches.values()):
        patch.module.scaled_dot_product_attention = getattr(patch.attention, "kvant", patch.attention)


def is_patched(model=None):
    """Whether this model is patched; without one, whether any is."""
    return bool(_patches) if model is None else id(model) in _patches


def make_prompt_cache(model, tokens=()):
    """Caches of all layers of a patched model. They hold the longest prefix of `tokens` that any engine has computed: the rest,
    tokens[cached_tokens(caches):], is to be computed."""
    if not is_patched(model):
        raise kvant.UnsupportedError("make_prompt_cache: the model is not patched; call kvant.mlx_lm.patch_mlx_lm(model, settings) first")
    return _patches[id(model)].open(tokens)


def cached_tokens(caches):
    """Tokens that were found when the caches were made."""
    return caches[0].conversation.cached_tokens


def snap(caches):
    """Marks the present point of a conversation; restore() brings it back exactly. While a mark is held nothing newer is compressed."""
    return caches[0].conversation.sequence.set_mark()


def restore(caches, mark):
    caches[0].conversation.rewind(mark)


def release(caches, mark):
    caches[0].conversation.sequence.release(mark)


def stream_generate(model, tokenizer, prompt, *args, prompt_cache=None, kv_cache=None, **kwargs):
    """mlx_lm.stream_generate of a patched model that starts behind what is cached already, by whichever engine and process.

    prompt: text or token ids. With caches of an earlier turn (`prompt_cache`; `kv_cache` is another name for it) the prompt continues
    the conversation.
    """
    import mlx_lm

    if prompt_cache is not None and kv_cache is not None:
        raise kvant.InvalidArgumentError("generate: prompt_cache and kv_cache are two names of one argument")
    caches = prompt_cache if prompt_cache is not None else kv_cache
    if isinstance(prompt, str):
        prompt = tokenizer.encode(prompt)
    prompt = list(prompt)
    if caches is None:
        caches = make_prompt_cache(model, prompt[:-1])
        prompt = prompt[cached_tokens(caches) :]
    yield from mlx_lm.stream_generate(model, tokenizer, prompt, *args, prompt_cache=caches, **kwargs)


def generate(model, tokenizer, prompt, *args, verbose=False, **kwargs):
    """The text of stream_generate."""
    text = ""
    for response in stream_generate(model, tokenizer, prompt, *args, **kwargs):
        text += response.text
        if verbose:
            print(response.text, end="", flush=True)
    return text
