"""kvant caches for Hugging Face transformers, which stays as it is: attention on compressed codes, prefixes shared with other
processes and other engines.

    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    kvant.transformers.attach(model, kvant.transformers.Settings(path, uri="unix:/run/kvant/kvantd.sock"))
    inputs = tokenizer(prompt, return_tensors="pt")
    model.generate(**inputs, cache=kvant.transformers.KvantCache(model, **inputs))

Queries are read and outputs written where torch has them; new keys and values are copied once into the sequence's rows, and the
client's counters say so.
"""

import dataclasses
import inspect
import pathlib

import torch
from transformers.cache_utils import DynamicCache

import kvant
from kvant import hf_attention
from kvant.conversation import Conversation
from kvant.hf_batch import Batch
from kvant.hf_cache import KvantCache
from kvant.hf_config import read_config, store_spec

__all__ = ["KvantCache", "Settings", "attach", "detach"]

_DTYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


@dataclasses.dataclass
class Settings:
    """Where a model's caches live and how they are compressed."""

    model_path: str = ""  # the checkpoint's folder, whose files give the store's identity; empty: where the model was loaded from
    uri: str = "embedded:"
    keys: str = "turboquant_mse:bits=4"
    values: str = "turboquant_mse:bits=4"
    placement: str = "local"
    recent_tokens: int = 64
    sink_tokens: int = 4
    block_tokens: int = 128
    max_step_tokens: int = 512  # generate() reads prompts in chunks of so many; a longer forward pass makes the tail grow
    tail: str = "f32"
    adapter: str = ""  # names weights that were changed after loading
    salt: str = ""
    artifact: bytes = b""
    # Of kvant.Client. Each row of a batch has a tail in the arena, which is address space until it is written.
    client_options: dict = dataclasses.field(default_factory=lambda: {"arena_bytes": 1 << 30})


class Attachment:
    """What attach() changed in a model; a context manager that undoes it. `spec` is the kvant.StoreSpec of the model's store."""

    def __init__(self, model, settings):
        self.model = model
        self.settings = settings
        self.spec = _spec(model, settings)
        self._implementation = model.config._attn_implementation
        self._chunk = model.generation_config.prefill_chunk_size if model.can_generate() else None
        hf_attention.register()
        model.set_attn_implementation(hf_attention.NAME)
        if model.config._attn_implementation != hf_attention.NAME:
            raise kvant.UnsupportedError(f"attach: the attention of {type(model).__name__} cannot be chosen; transformers says why in its log")
        if model.can_generate() and self._chunk is None:
            model.generation_config.prefill_chunk_size = settings.max_step_tokens
        self._arguments = list(inspect.signature(model.base_model.forward).parameters)
        self._hooks = [
            model.base_model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.base_model.register_forward_hook(self._after, with_kwargs=True),
        ]
        model.kvant_attachment = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        detach(self.model)

    def undo(self):
        for hook in self._hooks:
            hook.remove()
        self.model.set_attn_implementation(self._implementation)
        if self.model.can_generate():
            self.model.generation_config.prefill_chunk_size = self._chunk
        del self.model.kvant_attachment

    def new_batch(self):
        """An empty batch of this thread's client."""
        s = self.settings
        client = kvant.connect(s.uri, **s.client_options)
        options = {
            "block_tokens": s.block_tokens,
            "placement": s.placement,
            "recent_tokens": s.recent_tokens,
            "max_step_tokens": s.max_step_tokens,
            "tail": s.tail,
            "label": "transformers",
        }
        store, layers = client.open_store(self.spec), self.spec.layers
        return Batch(client, layers, lambda tokens: Conversation(store, layers, tokens=tokens, **options))

    def _before(self, module, args, kwargs):
        """Ahead of the model's forward: a cache never sees token ids, so this is where they are read."""
        given = {**dict(zip(self._arguments, args, strict=False)), **kwargs}
        cache = _cache_among(given)
        if cache is None:
            return None
        if cache.attachment is not self:
            _check_same_model(cache.attachment.spec, self.spec)
        if not hf_attention.is_chosen(module.config):
            raise kvant.UnsupportedError(
                f"forward: attn_implementation is {module.config._attn_implementation!r}, a KvantCache needs {hf_attention.NAME!r}: attach again"
            )
        if given.get("input_ids") is None:
            raise kvant.InvalidArgumentError(
                "forward: the model is given inputs_embeds; kvant shares keys and values by the token ids they come from: give input_ids"
            )
        _leave_out_cached(given, cache.get_seq_length())
        given["position_ids"] = cache.batch.begin(given["input_ids"], given.get("attention_mask"), given.get("position_ids"))
        return (), given

    def _after(self, module, args, kwargs, output):
        cache = _cache_among(kwargs)
        if cache is not None:
            cache.batch.finish()


def _cache_among(arguments):
    """transformers 5 calls it cache, 4 and early 5 past_key_values."""
    return next((value for value in arguments.values() if isinstance(value, KvantCache)), None)


def _leave_out_cached(given, columns):
    """Assisted decoding begins with the whole text, whatever the cache holds: ids whose mask covers them alone, or whose positions begin
    at 0. What is cached of it is not computed again, as generate() does it elsewhere."""
    ids, mask, positions = (given.get(name) for name in ("input_ids", "attention_mask", "position_ids"))
    if not 0 < columns < ids.shape[1]:
        return
    whole = positions is not None and int(positions.flatten()[0]) == 0 if mask is None else mask.ndim == 2 and mask.shape[1] == ids.shape[1]
    if whole:
        given["input_ids"] = ids[:, columns:]
        if positions is not None:
            given["position_ids"] = positions[..., columns:]


def _check_same_model(one, other):
    differing = [field.name for field in dataclasses.fields(one) if getattr(one, field.name) != getattr(other, field.name)]
    if differing:
        field = differing[0]
        raise kvant.IdentityMismatchError(
            f"forward: the cache was made for another model or plan: {', '.join(differing)} differ ({field} {getattr(one, field)!r}, this "
            f"model's is {getattr(other, field)!r})"
        )


def _spec(model, settings):
    """The spec of a model's store. UnsupportedError for models whose keys and values do not come from token ids and these files alone."""
    name = type(model).__name__
    config = model.config
    if config.is_encoder_decoder or config.get_text_config(decoder=True) is not config:
        raise kvant.UnsupportedError(f"attach: {name} has inputs besides tokens, and kvant shares keys and values by tokens")
    if model.device.type != "cpu":
        raise kvant.UnsupportedError(f"attach: {name} is on {model.device}; kvant attends on CPUs (not on GPUs yet)")
    if model.dtype not in _DTYPES:
        raise kvant.UnsupportedError(f"attach: {name} computes in {model.dtype}; float32, float16 or bfloat16 is wanted")
    if not settings.adapter and (getattr(model, "peft_config", None) or getattr(model, "_hf_peft_config_loaded", False)):
        raise kvant.UnsupportedError(f"attach: {name} has an adapter loaded; name it in Settings.adapter, so that its keys are shared with none other's")
    other = sorted({type(layer).__name__ for layer in DynamicCache(config=config).layers} - {"DynamicLayer", "DynamicSlidingWindowLayer"})
    if other:
        raise kvant.UnsupportedError(f"attach: layers of {name} keep {', '.join(other)}; kvant holds keys and values of attention")
    path = pathlib.Path(settings.model_path or config.name_or_path)
    if not path.exists():
        raise kvant.InvalidArgumentError(f"attach: Settings.model_path: no folder {str(path)!r}; it must name the checkpoint's files")
    if getattr(model, "hf_quantizer", None) and not (settings.adapter or path.is_file() or "quantization_config" in read_config(path)):
        raise kvant.UnsupportedError(f"attach: {name} was quantized while loading; say how in Settings.adapter, so that its keys are its own")
    return store_spec(
        path,
        dtype=_DTYPES[model.dtype],
        config=config.to_dict() if path.is_file() else None,
        keys=settings.keys,
        values=settings.values,
        block_tokens=settings.block_tokens,
        sink_tokens=settings.sink_tokens,
        adapter=settings.adapter,
        salt=settings.salt,
        artifact=settings.artifact,
    )


def attach(model, settings=None):
    """Makes kvant the attention of a loaded model; its caches are then KvantCache(model, ...). Undone by detach(model), or at the end
    of `with attach(model, settings):`. Attaching again replaces the settings.

    While attached generate() reads prompts in chunks of Settings.max_step_tokens (generation_config.prefill_chunk_size, where that is
    not set) and every forward pass needs a KvantCache. kvant.UnsupportedError for models with recurrent layers, with inputs besides
    tokens, or not on the CPU.
    """
    detach(model)
    return Attachment(model, settings or Settings())


def detach(model):
    """Undoes attach; does nothing for a model that is not attached."""
    attachment = getattr(model, "kvant_attachment", None)
    if attachment is not None:
        attachment.undo()
