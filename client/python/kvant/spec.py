"""What a store is: the identity that makes keys and values reusable, and the codec plan. kvant/store_spec.h and kvant/rope.h of the C++
library have the meaning and the limits of each field; the library refuses what is out of range by name."""

import dataclasses
from collections.abc import Sequence

LAST_HEAD = 0xFFFFFFFF


@dataclasses.dataclass
class Rope:
    """Rotary positions of a model. Fields that the scaling does not use are not read."""

    pairing: str = "none"  # "none"; "half_split" (Llama as Hugging Face stores it); "adjacent" (Llama as GGUF stores it)
    theta: float = 10000.0
    rotary_dims: int = 0  # 0: all of head_dim
    scaling: str = "none"  # none, linear, dynamic, yarn, llama3, long
    factor: float = 1.0
    original_positions: int = 0
    context_tokens: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float = 0.0  # 0: as the scaling's formula says
    short_factors: Sequence[float] = ()
    long_factors: Sequence[float] = ()


@dataclasses.dataclass
class LayerPlan:
    """Codecs for layers first_layer..last_layer and there for KV heads first_head..last_head, overriding the plan's default."""

    first_layer: int
    last_layer: int  # inclusive
    keys: str
    values: str
    first_head: int = 0
    last_head: int = LAST_HEAD  # inclusive; LAST_HEAD: up to the last there is


@dataclasses.dataclass
class StoreSpec:
    """Everything that must agree before two processes may share keys and values, and a name."""

    name: str
    model: str
    tokenizer: str
    layers: int
    kv_heads: int
    head_dim: int
    adapter: str = ""
    salt: str = ""
    rope: Rope = dataclasses.field(default_factory=Rope)
    key_stage: str = "after_rope"
    dtype: str = "bf16"  # what the model computes keys and values in: f32, f16, bf16
    block_tokens: int = 128
    sink_tokens: int = 4
    keys: str = "balanced"
    values: str = "balanced"
    overrides: Sequence[LayerPlan] = ()
    artifact: bytes = b""  # a safetensors image with what codecs were calibrated on
