"""kvant caches for Hugging Face transformers, which stays as it is: attention on compressed codes, prefixes shared with other
processes and other engines.

    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    kvant.transformers.attach(model, kvant.KVCacheConfig(uri="unix:/run/kvant/kvantd.sock"))
    inputs = tokenizer(prompt, return_tensors="pt")
    model.generate(**inputs, cache=kvant.transformers.KvantCache(model, **inputs))

Queries are read and outputs written where torch has them; new keys and values are copied once into the sequence's rows, and the
client's counters say so.
"""

import dataclasses
import inspect

import torch
from transformers.cache_utils import DynamicCache

import kvant
from kvant.conversation import Conversation
from kvant.hf_config import read_config, store_spec
from kvant.identity import checkpoint
from kvant.transformers import attention
from kvant.transformers.batch import Batch
from kvant.transformers.cache import KvantCache

__all__ = ["KvantCache", "attach", "detach"]

_DTYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


class Attachment:
    """What attach() changed in a model; a context manager that undoes it. `spec` is the kvant.StoreSpec of the model's store."""

    def __init__(self, model, config):
        self.model = model
        self.config = config
        self.spec = _spec(model, config)
        self._implementation = model.config._attn_implementation
        self._chunk = model.generation_config.prefill_chunk_size if model.can_generate() else None
        attention.register()
        model.set_attn_implementation(attention.NAME)
        if model.config._attn_implementation != attention.NAME:
            raise kvant.UnsupportedError(f"attach: the attention of {type(model).__name__} cannot be chosen; transformers says why in its log")
        if model.can_generate() and self._chunk is None:
            model.generation_config.prefill_chunk_size = config.max_step_tokens
        decoder = model.get_decoder()  # OPT's base model is passed by
        self._arguments = list(inspect.signature(decoder.forward).parameters)
        self._hooks = [
            decoder.register_forward_pre_hook(self._before, with_kwargs=True),
            decoder.register_forward_hook(self._after, with_kwargs=True),
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
        c = self.config
        client = kvant.connect(c.uri, **c.client_options)
        options = {
            "block_tokens": c.block_tokens,
            "placement": c.placement,
            "recent_tokens": c.recent_tokens,
            "max_step_tokens": c.max_step_tokens,
            "tail": c.tail or self.spec.dtype,
            "capacity": c.capacity,
            "label": "transformers",
            "policy": c.policy,
        }
        store, layers = client.open_store(self.spec), self.spec.layers
        return Batch(client, layers, lambda tokens: Conversation(store, layers, tokens=tokens, **options), window=c.sliding_window)

    def _before(self, module, args, kwargs):
        """Ahead of the model's forward: a cache never sees token ids, so this is where they are read."""
        given = {**dict(zip(self._arguments, args, strict=False)), **kwargs}
        cache = _cache_among(given)
        if cache is None:
            return None
        if cache.attachment is not self:
            _check_same_model(cache.attachment.spec, self.spec)
        if not attention.is_chosen(module.config):
            raise kvant.UnsupportedError(
                f"forward: attn_implementation is {module.config._attn_implementation!r}, a KvantCache needs {attention.NAME!r}: attach again"
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


def _spec(model, config):
    """The spec of a model's store. UnsupportedError for models whose keys and values do not come from token ids and these files alone."""
    name = type(model).__name__
    model_config = model.config
    if model_config.is_encoder_decoder or model_config.get_text_config(decoder=True) is not model_config:
        raise kvant.UnsupportedError(f"attach: {name} has inputs besides tokens, and kvant shares keys and values by tokens")
    if model.device.type != "cpu":
        raise kvant.UnsupportedError(f"attach: {name} is on {model.device}; kvant attends on CPUs (not on GPUs yet)")
    if model.dtype not in _DTYPES:
        raise kvant.UnsupportedError(f"attach: {name} computes in {model.dtype}; float32, float16 or bfloat16 is wanted")
    if not config.adapter and (getattr(model, "peft_config", None) or getattr(model, "_hf_peft_config_loaded", False)):
        raise kvant.UnsupportedError(f"attach: {name} has an adapter loaded; name it in KVCacheConfig.adapter, so that its keys are shared with none other's")
    other = sorted({type(layer).__name__ for layer in DynamicCache(config=model_config).layers} - {"DynamicLayer", "DynamicSlidingWindowLayer"})
    if other:
        raise kvant.UnsupportedError(f"attach: layers of {name} keep {', '.join(other)}; kvant holds keys and values of attention")
    path = checkpoint(config.model_path or model)
    if getattr(model, "hf_quantizer", None) and not (config.adapter or path.is_file() or "quantization_config" in read_config(path)):
        raise kvant.UnsupportedError(f"attach: {name} was quantized while loading; say how in KVCacheConfig.adapter, so that its keys are its own")
    spec = store_spec(
        path,
        dtype=_DTYPES[model.dtype],
        config=model_config.to_dict() if path.is_file() else None,
        **config.store_fields(model_config.num_hidden_layers),
    )
    config.complete(spec)
    return spec


def attach(model, config=None):
    """Makes kvant the attention of a loaded model; its caches are then KvantCache(model, ...). Undone by detach(model), or at the end
    of `with attach(model, config):`. Attaching again replaces the configuration, a kvant.KVCacheConfig.

    While attached generate() reads prompts in chunks of max_step_tokens (generation_config.prefill_chunk_size, where that is
    not set) and every forward pass needs a KvantCache. kvant.UnsupportedError for models with recurrent layers, with inputs besides
    tokens, or not on the CPU.
    """
    detach(model)
    return Attachment(model, config or kvant.KVCacheConfig())


def detach(model):
    """Undoes attach; does nothing for a model that is not attached."""
    attachment = getattr(model, "kvant_attachment", None)
    if attachment is not None:
        attachment.undo()
