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


def read_config(folder):
    """config.json of a checkpoint's folder; that of the text model where it is one of several."""
    config = json.loads((pathlib.Path(folder) / "config.json").read_text(encoding="utf-8"))
    return config.get("text_config", config)


def head_dim_of(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


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


def rope_of(config):
    """The rotary positions of a configuration (half split, as Hugging Face stores models).

    Scalings that depend on the length of the context are fixed to the longest that the configuration allows. UnsupportedError for a
    field about rotary positions that is not known: it would change every key.
    """
    scaling = {}
    for name in ("rope_parameters", "rope_scaling"):
        if config.get(name) is not None:
            if scaling and scaling != config[name]:
                raise InvalidArgumentError(f"config.json: {name} differs from rope_parameters")
            scaling = config[name]
    kind = _kind(scaling)
    for name, value in config.items():
        about_rope = name.startswith(("rope", "rotary")) or "mrope" in name
        if about_rope and value is not None and name not in ("rope_theta", "rope_scaling", "rope_parameters"):
            raise UnsupportedError(f"config.json: {name} is not known")
    for name, value in scaling.items():
        if value is not None and name not in _COMMON | _FIELDS[kind]:
            raise UnsupportedError(f"config.json: {name} of {kind} rotary positions is not known")

    head_dim = head_dim_of(config)
    positions = config.get("max_position_embeddings") or 2048
    rotary = math.floor(head_dim * _agreed(config, scaling, "partial_rotary_factor", 1.0))
    rope = Rope(
        pairing="half_split",
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
    config = read_config(path) if config is None else config
    spec = {
        "name": path.resolve().name if pathlib.Path(given).exists() else pathlib.Path(given).name,  # a folder of the hub is named by a commit
        "model": model_identity(path),
        "tokenizer": tokenizer_identity(path),
        "rope": rope_of(config),
        "layers": config["num_hidden_layers"],
        "kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
        "head_dim": head_dim_of(config),
        "dtype": dtype,
    }
    return StoreSpec(**{**spec, **fields})
