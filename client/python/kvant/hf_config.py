"""A Hugging Face checkpoint's config.json as the fields of a store's spec: the same recipe as the reference engine's
(client/examples/llama/rope_config.cc in the source tree), so that engines find each other's blocks."""

import json
import math
import pathlib

from kvant._core import InvalidArgumentError, UnsupportedError
from kvant.identity import checkpoint, model_identity, tokenizer_identity
from kvant.spec import Rope, StoreSpec

_MAX_POSITIONS = 1 << 30
_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_FIELDS = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor", "original_max_position_embeddings"},
    "yarn": {
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    },
    "llama3": {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
    "longrope": {"factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"},
}


# Other names that configurations have for these.
_NAMES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "num_key_value_heads": ("num_kv_heads",),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length"),
    "partial_rotary_factor": ("rotary_pct",),
    "rope_theta": ("rotary_emb_base",),
}
# Model types with no rotary positions, and those that turn channels (2 i, 2 i + 1) together where others turn (i, i + half).
_WITHOUT_ROPE = {"biogpt", "bloom", "gpt2", "gpt_bigcode", "gpt_neo", "mpt", "opt", "xglm"}
_ADJACENT = {"codegen", "cohere", "cohere2", "ernie4_5", "ernie4_5_moe", "glm", "glm4", "gptj", "helium"}


def read_config(folder):
    """config.json of a checkpoint's folder; that of the text model where it is one of several."""
    config = json.loads((pathlib.Path(folder) / "config.json").read_text(encoding="utf-8"))
    return named_as_usual(config.get("text_config", config))


def named_as_usual(config):
    """The configuration with _NAMES' own names beside the others."""
    usual = {name: config[other] for name, others in _NAMES.items() for other in others if config.get(other) is not None}
    return {**usual, **{name: value for name, value in config.items() if name not in usual or value is not None}}


def head_dim_of(config):
    return config.get("head_dim") or _size(config, "hidden_size") // _size(config, "num_attention_heads")


def _size(config, name):
    """A field that a model with attention must have."""
    if not config.get(name):
        kind = config.get("model_type", "of this kind")
        raise UnsupportedError(f"config.json: a model {kind} has no {name}; kvant holds keys and values of attention heads")
    return config[name]


def _kv_heads(config):
    if config.get("v_head_dim") not in (None, head_dim_of(config)):
        raise UnsupportedError(f"config.json: v_head_dim {config['v_head_dim']}: keys and values of different sizes are not held")
    shared = config.get("model_type") == "gpt_bigcode" and config.get("multi_query", True)
    return 1 if shared else config.get("num_key_value_heads") or _size(config, "num_attention_heads")


def _agreed(config, scaling, name, default):
    """A number that may stand beside the scaling, at the top, or in both if they agree."""
    top, inner = config.get(name), scaling.get(name)
    if top is not None and inner is not None and top != inner:
        raise InvalidArgumentError(f"config.json: {name} {top} differs from {inner} beside the scaling")
    return inner if inner is not None else top if top is not None else default


def _kind(scaling):
    newer, older = scaling.get("rope_type"), scaling.get("type")
    if newer is not None and older is not None and newer != older:
        raise InvalidArgumentError(f"config.json: rope type {older!r} differs from rope_type {newer!r}")
    kind = newer or older or "default"
    kind = "longrope" if kind == "su" else kind
    if kind not in _FIELDS:
        raise UnsupportedError(f"config.json: rope_type {kind!r} is unknown: {', '.join(_FIELDS)}")
    return kind


_KNOWN = {"rope_theta", "rope_scaling", "rope_parameters", "rotary_dim", "rotary_pct", "rotary_emb_base"}


def _differs_by_layer(config, scaling):
    by_type = any(isinstance(value, dict) for value in scaling.values())
    return by_type or config.get("rope_local_base_freq") is not None or 0 in (config.get("no_rope_layers") or ())


def rope_of(config):
    """The rotary positions of a configuration (half split, as Hugging Face stores most models); those of none where layers differ in them,
    as Gemma 3's do: one Rope cannot say it, and only codecs that turn keys want to know.

    Scalings that depend on the length of the context are fixed to the longest that the configuration allows. UnsupportedError for a
    field about rotary positions that is not known: it would change every key.
    """
    scaling = {}
    for name in ("rope_parameters", "rope_scaling"):
        if config.get(name) is not None:
            if scaling and scaling != config[name]:
                raise InvalidArgumentError(f"config.json: {name} differs from rope_parameters")
            scaling = config[name]
    if config.get("model_type") in _WITHOUT_ROPE or _differs_by_layer(config, scaling):
        return Rope()
    kind = _kind(scaling)
    for name, value in config.items():
        about_rope = name.startswith(("rope", "rotary")) or "mrope" in name
        if about_rope and value is not None and name not in _KNOWN:
            raise UnsupportedError(f"config.json: {name} is not known")
    for name, value in scaling.items():
        if value is not None and name not in _COMMON | _FIELDS[kind]:
            raise UnsupportedError(f"config.json: {name} of {kind} rotary positions is not known")

    head_dim = head_dim_of(config)
    positions = config.get("max_position_embeddings") or 2048
    rotary = config.get("rotary_dim") or math.floor(head_dim * _agreed(config, scaling, "partial_rotary_factor", 1.0))
    rope = Rope(
        pairing="adjacent" if config.get("model_type") in _ADJACENT else "half_split",
        theta=float(_agreed(config, scaling, "rope_theta", 10000.0)),
        rotary_dims=0 if rotary == head_dim else rotary,
        scaling={"default": "none", "longrope": "long"}.get(kind, kind),
    )
    original = scaling.get("original_max_position_embeddings")
    if kind in ("linear", "dynamic", "yarn", "llama3"):
        rope.factor = float(scaling["factor"])
    if kind == "dynamic":
        rope.original_positions = original or positions
        if original is None:
            positions = min(math.floor(positions * rope.factor), _MAX_POSITIONS)
        rope.context_tokens = positions
    if kind == "yarn":
        rope.original_positions = original or positions
        rope.beta_fast = float(scaling.get("beta_fast") or 32.0)
        rope.beta_slow = float(scaling.get("beta_slow") or 1.0)
        rope.truncate = scaling.get("truncate", True)
        rope.attention_factor = float(scaling.get("attention_factor") or 0.0)
        if rope.attention_factor == 0.0 and scaling.get("mscale") and scaling.get("mscale_all_dim"):

            def magnitude(weight):
                return 0.1 * weight * math.log(rope.factor) + 1.0

            rope.attention_factor = magnitude(scaling["mscale"]) / magnitude(scaling["mscale_all_dim"])
    if kind == "llama3":
        rope.original_positions = original
        rope.low_freq_factor = float(scaling["low_freq_factor"])
        rope.high_freq_factor = float(scaling["high_freq_factor"])
    if kind == "longrope":
        rope.short_factors, rope.long_factors = scaling["short_factor"], scaling["long_factor"]
        rope.attention_factor = float(scaling.get("attention_factor") or 0.0)
        rope.original_positions = config.get("original_max_position_embeddings") or original or positions
        rope.context_tokens = positions
        longer = rope.original_positions != positions
        rope.factor = positions / rope.original_positions if longer else float(scaling.get("factor") or 1.0)
    return rope


def store_spec(path, *, dtype, config=None, **fields):
    """The spec of a checkpoint's store. `path`: its folder, or a GGUF file, which has no config.json: `config` is then the
    configuration that the engine made of it. dtype: what keys and values are computed in. `fields` are those of kvant.StoreSpec that
    the checkpoint does not say: keys, values, sink_tokens, block_tokens, adapter, salt, artifact, name, layers."""
    given, path = path, checkpoint(path)
    config = read_config(path) if config is None else named_as_usual(config)
    spec = {
        "name": path.resolve().name if pathlib.Path(given).exists() else pathlib.Path(given).name,  # a folder of the hub is named by a commit
        "model": model_identity(path),
        "tokenizer": tokenizer_identity(path),
        "layers": _size(config, "num_hidden_layers"),
        "kv_heads": _kv_heads(config),
        "head_dim": head_dim_of(config),
        "rope": rope_of(config),
        "dtype": dtype,
    }
    return StoreSpec(**{**spec, **fields})
