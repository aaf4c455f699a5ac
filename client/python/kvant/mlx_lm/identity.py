"""What makes two processes of mlx_lm share keys and values: the spec of a model's store."""

import dataclasses
import json
import pathlib

import mlx.core as mx
import xxhash
from mlx.utils import tree_flatten

import kvant
from kvant.hf_config import head_dim_of, store_spec

_TYPES = {mx.float32: "f32", mx.float16: "f16", mx.bfloat16: "bf16"}


def loaded_identity(model):
    """Digest of a model as it lies in memory: its class, its arguments and every parameter. Shared with processes of mlx_lm that load
    the same model; engines of other kinds are found by the checkpoint's folder (KVCacheConfig.model_path)."""
    arguments = json.dumps(_arguments(model), sort_keys=True, default=str)
    lines = f"kvant mlx model 1\n{type(model).__module__}.{type(model).__qualname__}\n{arguments}\n"
    for name, array in sorted(tree_flatten(model.parameters())):
        digest = xxhash.xxh3_128_hexdigest(memoryview(array.reshape(-1).view(mx.uint8)))
        lines += f"{name} {array.dtype} {array.shape} {digest}\n"
    return xxhash.xxh3_128_hexdigest(lines.encode())


def adapter_identity(folder):
    """Digest of a low-rank adapter's files, which change keys and values without changing the checkpoint."""
    state = xxhash.xxh3_128()
    for name in ("adapter_config.json", "adapters.safetensors"):
        state.update((pathlib.Path(folder) / name).read_bytes())
    return state.hexdigest()


def _arguments(model):
    arguments = model.args
    return dataclasses.asdict(arguments) if dataclasses.is_dataclass(arguments) else dict(vars(arguments))


def _computed_in(model):
    """The type that keys and values have: that of what is added up on the way to them, which quantized weights do not say."""
    for name, array in tree_flatten(model.parameters()):
        if name.endswith("norm.weight") and array.dtype in _TYPES:
            return _TYPES[array.dtype]
    raise kvant.UnsupportedError(f"patch: {type(model).__module__} has no norm whose type tells what keys and values are computed in")


def spec_of(model, config):
    """The spec of the store for a model of mlx_lm and a KVCacheConfig."""
    layers = len(model.layers)
    fields = {"dtype": _computed_in(model), **config.store_fields(layers)}
    if config.model_path is not None:
        spec = store_spec(config.model_path, **fields)
    else:
        arguments = _arguments(model)
        arguments = arguments.get("text_config") or arguments
        digest = loaded_identity(model)
        spec = kvant.StoreSpec(
            name=type(model).__module__.rsplit(".", 1)[-1] + "-" + digest[:8],
            model=digest,
            tokenizer=f"the ids of {digest}",
            layers=layers,
            kv_heads=arguments.get("num_key_value_heads") or arguments["num_attention_heads"],
            head_dim=head_dim_of(arguments),
            **fields,
        )
    if spec.layers != layers:
        raise kvant.IdentityMismatchError(f"patch: the model has {layers} layers, {config.model_path} describes {spec.layers}")
    config.complete(spec)
    return spec
