"""A prefix store for llama.cpp: what one process has decoded, another finds, compressed in between.

    prefixes = kvant.llama_cpp.LlamaPrefixes(path, metadata, kvant.llama_cpp.Settings(uri="unix:/run/kvant/kvantd.sock"))
    prefixes.save(tokens, state)               # of llama_state_seq_get_data, after decoding
    count, state = prefixes.load(tokens, form) # for llama_state_seq_set_data; tokens[count:] are left to decode

or, with llama-cpp-python: llama.set_cache(kvant.llama_cpp.KvantLlamaCache(llama)).

Attention stays llama.cpp's, over its own cache of f16 or f32 rows: a found prefix spares its decoding, no memory. Keys are stored as
llama.cpp has them, after RoPE and for some architectures with the numbers of a pair side by side (RopePairing adjacent). Engines that
keep the halves apart have another identity there: nobody shares by mistake, and nothing is permuted.
"""

import pathlib

import numpy as np

import kvant
from kvant.llama_state import Shape, new_state, read_state
from kvant.prefixes import Prefixes, Settings

try:
    from llama_cpp import LlamaState
    from llama_cpp.llama_cache import BaseLlamaCache
except ImportError:  # other bindings of llama.cpp use LlamaPrefixes
    BaseLlamaCache = object

# How llama.cpp turns keys of the architectures whose layers all keep plain keys and values (llama_model_rope_type).
_PAIRING = {
    **dict.fromkeys(("llama", "granite", "granitemoe", "internlm2", "olmo", "baichuan"), "adjacent"),
    **dict.fromkeys(("qwen2", "qwen2moe", "qwen3", "qwen3moe", "olmo2", "stablelm", "starcoder2", "phi2", "gptneox"), "half_split"),
}

_DTYPES = {4: "f32", 2: "f16"}  # by bytes of a number


def _is_plain(array):
    """Whether kvant reads and writes it as it lies: llama.cpp transposes values at times, and aligns nothing."""
    return array.flags.aligned and array.strides[-1] == array.itemsize


def _plain(array):
    return array if _is_plain(array) else np.require(array, requirements=("C", "A"))


class _Metadata:
    """A GGUF file's metadata as llama.cpp gives it: text by name."""

    def __init__(self, fields):
        self._fields = fields
        self.architecture = self._text("general.architecture")

    def _text(self, name):
        if name not in self._fields:
            raise kvant.InvalidArgumentError(f"GGUF metadata: {name} is missing")
        return str(self._fields[name])

    def number(self, name, default=None, kind=int):
        name = f"{self.architecture}.{name}"
        if default is not None and name not in self._fields:
            return default
        text = self._text(name)
        try:
            return kind(text)
        except ValueError:
            raise kvant.UnsupportedError(f"GGUF metadata: {name} is {text[:60]!r}, one number for all layers is known") from None


def store_spec(model_path, metadata, settings, *, dtype="f16"):
    """The spec of a GGUF file's store. metadata: the file's, as llama.cpp gives it (text by name). dtype: of llama.cpp's cache.

    UnsupportedError names an architecture or a field that is not known. Scalings of rotary positions are the file's, and so part of the
    model's digest; a context that overrides them needs a salt of its own.
    """
    data = _Metadata(metadata)
    if data.architecture not in _PAIRING:
        raise kvant.UnsupportedError(f"GGUF metadata: general.architecture {data.architecture!r} is not known: {', '.join(_PAIRING)}")
    heads = data.number("attention.head_count")
    if heads < 1:
        raise kvant.UnsupportedError(f"GGUF metadata: attention.head_count is {heads}")
    head_dim = data.number("attention.key_length", data.number("embedding_length") // heads)
    if data.number("attention.value_length", head_dim) != head_dim:
        raise kvant.UnsupportedError("GGUF metadata: attention.value_length differs from attention.key_length")
    if data.number("attention.sliding_window", 0):
        raise kvant.UnsupportedError("GGUF metadata: attention.sliding_window: llama.cpp drops rows there")
    rotary = data.number("rope.dimension_count", head_dim)
    rope = kvant.Rope(
        pairing=_PAIRING[data.architecture],
        theta=data.number("rope.freq_base", 10000.0, float),
        rotary_dims=0 if rotary == head_dim else rotary,
    )
    return kvant.StoreSpec(
        name=pathlib.Path(model_path).name,
        model=kvant.model_identity(model_path),
        tokenizer=kvant.tokenizer_identity(model_path),
        rope=rope,
        layers=data.number("block_count"),
        kv_heads=data.number("attention.head_count_kv", heads),
        head_dim=head_dim,
        dtype=dtype,
        **settings.plan(),
    )


class LlamaPrefixes:
    """Prefixes of one GGUF model. Any thread may use it."""

    def __init__(self, model_path, metadata, settings=None, *, dtype="f16"):
        """model_path: the GGUF file; its bytes are read once, for the model's digest. The rest as store_spec()."""
        settings = settings or Settings()
        self.spec = store_spec(model_path, metadata, settings, dtype=dtype)
        self.prefixes = Prefixes(self.spec, settings)
        self.shape = Shape(self.spec.layers, self.spec.kv_heads, self.spec.head_dim)

    def save(self, tokens, state):
        """Makes a prefix findable, in whole blocks; returns the tokens that were new.

        state: bytes of llama_state_seq_get_data, or of llama_state_get_data of a context with one sequence. tokens: the ids that were
        decoded into it, in order; cells beyond them are left out. A context that was shifted (llama_memory_seq_add) must not be saved:
        its rows come from tokens that are gone.
        """
        tokens = list(tokens)
        cells = read_state(state, self.shape)
        self._check(cells.format)
        if cells.cells < len(tokens):
            raise kvant.InvalidArgumentError(f"llama.cpp save: {len(tokens)} tokens, the state has {cells.cells} cells")

        def rows(layer, first, count):
            return [_plain(side[layer][first : first + count]) for side in (cells.keys, cells.values)]

        return self.prefixes.save(tokens, rows)

    def load(self, tokens, form):
        """(count, state): how many of `tokens` are found, and bytes for llama_state_seq_set_data or llama_state_set_data that hold them,
        written the way of `form`; (0, None) if there is no prefix. The last token is never among them, since its logits are wanted.

        form: a StateFormat, that of any state that the same context has given (read_state(state, shape).format).
        """
        self._check(form)
        with self.prefixes.find(list(tokens)[:-1]) as sequence:
            count = sequence.cached_tokens
            if count == 0:
                return 0, None
            data, cells = new_state(form, count, self.shape)
            for layer in range(self.shape.layers):
                places = cells.keys[layer], cells.values[layer]
                rows = [place if _is_plain(place) else np.empty(place.shape, place.dtype) for place in places]
                sequence.copy_rows(layer, 0, count, *rows)
                for place, copied in zip(places, rows, strict=True):
                    if place is not copied:
                        place[...] = copied
            return count, data

    def _check(self, form):
        if _DTYPES[form.keys.itemsize] != self.spec.dtype:
            raise kvant.InvalidArgumentError(f"llama.cpp state: keys are {form.keys}, the store's are {self.spec.dtype}")


class KvantLlamaCache(BaseLlamaCache):
    """The cache of a llama_cpp.Llama (llama-cpp-python): llama.set_cache(KvantLlamaCache(llama)).

    cache[tokens] is the longest prefix that any process has saved, as a LlamaState; KeyError if there is none. What goes in with
    cache[tokens] = state is compressed and shared. Errors of kvant (a daemon that is gone, a full store) pass through Llama's call.
    """

    def __init__(self, llama, settings=None):
        """The Llama may have decoded already; if not, one token is decoded and dropped to see how its context writes cells."""
        super().__init__()
        _refuse_overrides(llama)
        if llama.n_tokens == 0:
            llama.eval([llama.token_bos() if llama.token_bos() >= 0 else 0])
            state = llama.save_state()
            llama.reset()
        else:
            state = llama.save_state()
        dtype = {0: "f32", 1: "f16"}.get(llama.context_params.type_k, "f16")  # another is refused by read_state
        self.llama_prefixes = LlamaPrefixes(llama.model_path, llama.metadata, settings, dtype=dtype)
        self._form = read_state(state.llama_state, self.llama_prefixes.shape).format
        self._n_ctx = llama.n_ctx()
        self._bytes = 0

    @property
    def cache_size(self):
        """Bytes of the blocks that this object has saved. The daemon holds the store, shares it and evicts: `kvantctl stats`."""
        return self._bytes

    def __contains__(self, key):
        return self.llama_prefixes.prefixes.count(list(key)[:-1]) > 0

    def __getitem__(self, key):
        tokens = list(key)
        count, data = self.llama_prefixes.load(tokens, self._form)
        if count == 0:
            raise KeyError("no saved prefix")
        input_ids = np.full(self._n_ctx, -1, np.intc)
        input_ids[:count] = tokens[:count]
        # Of restored tokens there are no logits; Llama decodes at least one more before it looks at any.
        scores = np.zeros((1, 1), np.single)
        return LlamaState(
            input_ids=input_ids, scores=scores, n_tokens=count, llama_state=bytes(data), llama_state_size=len(data), seed=0
        )

    def __setitem__(self, key, value):
        tokens = value.input_ids[: value.n_tokens].tolist()
        if tokens != list(key)[: len(tokens)]:
            raise kvant.InvalidArgumentError("llama.cpp cache: the state was decoded from other tokens than its key")
        prefixes = self.llama_prefixes.prefixes
        new = self.llama_prefixes.save(tokens, value.llama_state)
        self._bytes += new // prefixes.spec.block_tokens * prefixes.store.info["block_bytes"]


def _refuse_overrides(llama):
    """What changes keys and is not in the GGUF file."""
    if llama.lora_path:
        raise kvant.UnsupportedError(f"llama.cpp cache: lora_path {llama.lora_path!r}: name the adapter in Settings and use LlamaPrefixes")
    overrides = {name: getattr(llama.context_params, name) for name in ("rope_freq_base", "rope_freq_scale")}
    overrides["rope_scaling_type"] = llama.context_params.rope_scaling_type + 1  # -1: the model's
    overrides["kv_overrides"] = llama.kv_overrides
    for name, value in overrides.items():
        if value:
            raise kvant.UnsupportedError(f"llama.cpp cache: {name} overrides the model's: use LlamaPrefixes with a salt of its own")
