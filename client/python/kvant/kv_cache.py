"""KVCacheConfig and its builders: the configuration interface of the published MLX quantization packages, over kvant's plans.

    config = KVCacheConfig(method="turboquant_mse", bits=4, value_bits=4)
    caches = KVCacheBuilder.build(model, config)
"""

import dataclasses
import re

from kvant import given_arrays
from kvant._core import IdentityMismatchError, InvalidArgumentError, UnsupportedError
from kvant.calibration.plan import Choices, fill, specs_of
from kvant.methods import keys_of, method_named, values_of
from kvant.spec import LayerPlan

_DEFAULT = "balanced"


@dataclasses.dataclass
class KVCacheConfig:
    """How caches are compressed, and where they live.

    Either `method` with its knobs, or codec specs in `keys` and `values`; with none of them both are kvant's default, 4-bit
    turboquant_mse. A knob that means nothing for the method is an error that names it. kvant.methods.METHODS says which codec serves a
    method; one that this build does not have is refused by name when the store is opened.
    """

    method: str | None = None
    bits: int = 1  # of keys
    value_bits: int = 2  # 16: not compressed
    # Knobs of single methods.
    num_residuals: int = 2
    use_hadamard: bool = True
    # Calibrations as arrays: a list has one for each layer, an array is for all; without an axis of KV heads it is for all of them.
    codebook: object = None  # vecinfer [256, 4]; commvq [stages, 64, 2, head_dim / 2]
    smooth_factors: object = None  # vecinfer [head_dim]
    rotations: list | None = None  # spectral: of each layer (directions as columns [head_dim, head_dim], variances [head_dim])
    bit_allocation: dict | None = None  # layer, or a name that ends in its number -> bits of keys
    outlier_observer: object = None
    outlier_bits: int = 8
    sketch_dim: int = 64
    num_clusters: int = 64
    num_subspaces: int | None = None
    use_fused_sdpa: bool = True
    signal_bits: int = 4
    noise_bits: int = 1
    seed: int = 0  # enters the store's identity: caches of other seeds are not shared
    head_dim: int | None = None  # checked against the model's
    bit_width_inlier: int | list | None = None  # another name of bits; a list has one for each layer
    bit_width_outlier: int | None = None  # another name of outlier_bits
    jl_dim: int | None = None
    n_outlier_channels: int | None = None
    n_calib_tokens: int | None = None
    enable_vectorized_attend: bool = True
    enable_outlier_two_stream: bool = False
    enable_fused_query_dot: bool = False
    kivi_group_size: int = 32
    target_bits: float | None = None  # of method ratequant: bits per number on average, side information included
    dtype: object = None  # of rows that are not compressed yet; None: what the model computes in
    capacity: int | None = None  # most tokens of a sequence; None: what the store has room for
    sliding_window: int | None = None  # attention sees the newest tokens only
    store: object = None
    observers: list = dataclasses.field(default_factory=list)
    # kvant's own.
    keys: str | None = None
    values: str | None = None
    overrides: tuple = ()  # kvant.LayerPlan of layers and heads with other codecs than these
    model_path: str | None = None  # the checkpoint (kvant.identity.checkpoint): other engines then find its blocks, too
    uri: str = "embedded:"
    placement: str = "local"
    block_tokens: int = 128
    recent_tokens: int = 64
    sink_tokens: int = 4
    max_step_tokens: int = 512  # grows with the longest forward pass
    policy: str = ""  # which tokens are attended: "window:tokens=4096,sinks=4"; "snapkv:...", "h2o:..." once apply_policy() is called
    adapter: str = ""
    salt: str = ""
    artifact: bytes = b""
    client_options: dict = dataclasses.field(default_factory=dict)  # of kvant.Client

    def plan(self, layers):
        """(codec spec of the keys, of the values, overrides) for a model of so many layers."""
        _check_knobs(self)
        if self.method is None:
            return self.keys or _DEFAULT, self.values or _DEFAULT, self.overrides
        method = method_named(self.method)
        default = _FIELDS["value_bits"].default
        values = self.values or values_of(method, self, default)
        if self.target_bits is not None:
            return self._allocated(layers, None if self.values is None and self.value_bits == default else values)
        if self.keys is not None:
            return self.keys, values, ()
        by_layer = self._bits_by_layer(layers)
        specs = [keys_of(method, self, bits) for bits in by_layer]
        overrides = [LayerPlan(i, i, spec, values) for i, spec in enumerate(specs) if spec != specs[0]]
        return specs[0], values, overrides

    def _allocated(self, layers, values):
        """The plan of target_bits, by the losses that the artifact holds. With `values`, the codec of all values, keys alone are allocated."""
        from safetensors.numpy import load

        choices = Choices.of(load(self.artifact)) if self.artifact else None
        if choices is None:
            holds = "the artifact holds no tensor allocation.losses" if self.artifact else "there is no artifact"
            raise InvalidArgumentError(
                f"KVCacheConfig: target_bits={self.target_bits}: {holds}; `kvant calibrate MODEL --text FILE --artifact-out FILE --losses` measures "
                "what codecs lose in each layer, and `artifact` takes the file's bytes. Without it, give bits of each layer as bit_allocation"
            )
        if choices.losses.shape[2] != layers:
            raise InvalidArgumentError(f"KVCacheConfig: the artifact's losses are of {choices.losses.shape[2]} layers, the model has {layers}")
        return specs_of(choices, fill(choices, self.target_bits, (0, 1) if values is None else (0,)), values)

    def _bits_by_layer(self, layers):
        if self.bit_allocation is not None:
            bits = {int(re.search(r"\d+$", str(name)).group()): value for name, value in self.bit_allocation.items()}
            by_layer = [bits.get(i) for i in range(layers)]
            if None in by_layer or len(bits) != layers:
                raise InvalidArgumentError(f"KVCacheConfig: bit_allocation has {len(bits)} layers, the model {layers}")
            return by_layer
        bits = self.bits if self.bit_width_inlier is None else self.bit_width_inlier
        if isinstance(bits, (list, tuple)):
            if len(bits) != layers:
                raise InvalidArgumentError(f"KVCacheConfig: bit_width_inlier has {len(bits)} layers, the model {layers}")
            return list(bits)
        return [bits] * layers

    @property
    def projections(self):
        """Rows of a sketch's random matrix."""
        return self.jl_dim if self.jl_dim is not None else self.sketch_dim

    @property
    def tail(self):
        """Element type of raw rows; None: what the model computes in."""
        return None if self.dtype is None else str(self.dtype).rsplit(".", 1)[-1]

    def store_fields(self, layers):
        """The fields of kvant.StoreSpec that this configuration says, for a model of so many layers."""
        keys, values, overrides = self.plan(layers)
        # What changes keys and values without being the model's: behind a window of attention, those of all layers but the first are others.
        further = [f"{name} {getattr(self, name)}" for name in ("seed", "sliding_window", "policy") if not _is_default(self, name)]
        return {
            "keys": keys,
            "values": values,
            "overrides": overrides,
            "block_tokens": self.block_tokens,
            "sink_tokens": self.sink_tokens,
            "adapter": self.adapter,
            "salt": " ".join([self.salt, *further]) if further else self.salt,
            "artifact": self.artifact,
        }

    def complete(self, spec):
        """Checks a kvant.StoreSpec made with store_fields() against the fields that need its shape, and puts arrays into its artifact."""
        self.check_head_dim(spec.head_dim)
        if given_arrays.given(self):
            spec.artifact = given_arrays.artifact_of(self, spec.layers, spec.kv_heads, spec.head_dim)

    def check_head_dim(self, head_dim):
        if self.head_dim not in (None, head_dim):
            raise IdentityMismatchError(f"KVCacheConfig: the model has head_dim {head_dim}, the configuration says {self.head_dim}")
        self.check_subspaces(head_dim)

    def check_subspaces(self, head_dim):
        if self.method == "vecinfer" and self.num_subspaces is not None and self.num_subspaces * 4 != head_dim:
            parts = f"{head_dim} numbers have {head_dim / 4:g} parts of four"
            raise UnsupportedError(f"KVCacheConfig: num_subspaces={self.num_subspaces}: {parts}")


_FIELDS = {field.name: field for field in dataclasses.fields(KVCacheConfig)}
_ANY_METHOD = {"value_bits", "n_outlier_channels", "outlier_bits", "bit_width_outlier", "enable_outlier_two_stream"}
_WHERE = {"method", "seed", "head_dim", "dtype", "capacity", "sliding_window", "keys", "values", "model_path", "uri", "placement", "block_tokens",
          "recent_tokens", "sink_tokens", "max_step_tokens", "policy", "adapter", "salt", "artifact", "client_options"}  # fmt: skip
_NOWHERE = {
    "use_hadamard": "kvant always rotates before it rounds",
    "use_fused_sdpa": "kvant always attends on the codes",
    "enable_vectorized_attend": "kvant always attends on the codes",
    "enable_fused_query_dot": "kvant always attends on the codes",
    "outlier_observer": "kvant calls nobody while it encodes; kvantctl shows what it counts",
    "observers": "kvant calls nobody while it encodes; kvantctl shows what it counts",
    "store": "what codecs were calibrated on comes as `artifact`, the bytes of a safetensors file",
    "n_calib_tokens": "codecs are calibrated beforehand, see `artifact`",
}


def _is_default(config, name):
    field = _FIELDS[name]
    default = field.default_factory() if field.default is dataclasses.MISSING else field.default
    value = getattr(config, name)
    return value is default or (isinstance(value, (bool, int, float, str, list, dict)) and value == default)


def _check_knobs(config):
    means = set(_WHERE)
    if config.method is None:
        means.add("overrides")
    else:
        method = method_named(config.method)
        means |= _ANY_METHOD | method.knobs | set(method.parameters.values())
        if "bits" in means:
            means |= {"bit_width_inlier", "bit_allocation"}
    for name in _FIELDS:
        if name in means or _is_default(config, name):
            continue
        if name in _NOWHERE:
            raise UnsupportedError(f"KVCacheConfig: {name}={getattr(config, name)!r}: {_NOWHERE[name]}")
        of = f"method {config.method!r}" if config.method is not None else "a configuration without a method"
        raise InvalidArgumentError(f"KVCacheConfig: {name}={getattr(config, name)!r} means nothing for {of}")
    if config.bit_width_inlier is not None and not _is_default(config, "bits") and config.bits != config.bit_width_inlier:
        raise InvalidArgumentError(f"KVCacheConfig: bits={config.bits} and bit_width_inlier={config.bit_width_inlier} are two names of one knob")
    if config.n_outlier_channels is None:
        for name in ("enable_outlier_two_stream", "outlier_bits", "bit_width_outlier"):
            if not _is_default(config, name):
                raise InvalidArgumentError(f"KVCacheConfig: {name}={getattr(config, name)!r} means nothing without n_outlier_channels")
    if config.num_residuals != 2:
        raise UnsupportedError(f"KVCacheConfig: num_residuals={config.num_residuals}: residual codes have two stages")
    if config.target_bits is not None:
        for name in ("keys", "bits", "bit_width_inlier", "bit_allocation", "n_outlier_channels"):
            if not _is_default(config, name):
                raise InvalidArgumentError(f"KVCacheConfig: {name}={getattr(config, name)!r} and target_bits={config.target_bits} both say the keys' codecs")


class KVCacheFactory:
    """Caches that no model stands behind."""

    @staticmethod
    def create(config, num_heads=1, head_dim=None, max_seq_len=8192):
        """One layer's cache (kvant.layer_cache.LayerCache) for num_heads KV heads of head_dim numbers and max_seq_len tokens."""
        from kvant.layer_cache import LayerCache

        head_dim = head_dim if head_dim is not None else config.head_dim if config.head_dim is not None else 128
        if config.head_dim not in (None, head_dim):
            raise InvalidArgumentError(f"KVCacheFactory.create: head_dim={head_dim}, the configuration says {config.head_dim}")
        config.check_subspaces(head_dim)
        return LayerCache(config, num_heads, head_dim, max_seq_len)


class KVCacheBuilder:
    """Caches of a model, by KVCacheBuilder.build(model, config); or of one layer, by KVCacheBuilder().with_method(...) ... .build()."""

    def __init__(self):
        self._fields = {}

    def build(self, config=None, max_seq_len=8192):
        """KVCacheBuilder.build(model, config, max_seq_len): a cache for each layer of a model of mlx_lm, to be given to mlx_lm as kv_cache
        (or prompt_cache). More than max_seq_len tokens are refused. Without arguments, of a builder: KVCacheFactory.create."""
        if isinstance(self, KVCacheBuilder):
            return KVCacheFactory.create(KVCacheConfig(**self._fields))
        from kvant.mlx_lm import build_caches

        return build_caches(self, config, max_seq_len)

    @staticmethod
    def for_model(model, config):
        """build() without a limit."""
        from kvant.mlx_lm import build_caches

        return build_caches(model, config)

    def _with(self, **fields):
        self._fields |= fields
        return self

    def with_method(self, method):
        return self._with(method=method)

    def with_head_dim(self, d):
        return self._with(head_dim=d)

    def with_bit_width(self, inlier, outlier=None):
        return self._with(bit_width_inlier=inlier, bit_width_outlier=outlier)

    def with_value_bits(self, bits):
        return self._with(value_bits=bits)

    def with_jl_dim(self, m):
        return self._with(jl_dim=m)

    def with_n_outlier_channels(self, n):
        return self._with(n_outlier_channels=n)

    def with_n_calib_tokens(self, n):
        return self._with(n_calib_tokens=n)

    def with_vectorized_attend(self, enabled=True):
        return self._with(enable_vectorized_attend=enabled)

    def with_outlier_two_stream(self, enabled=True):
        return self._with(enable_outlier_two_stream=enabled)

    def with_fused_query_dot(self, enabled=True):
        return self._with(enable_fused_query_dot=enabled)

    def with_seed(self, seed):
        return self._with(seed=seed)

    def with_precision(self, dtype):
        return self._with(dtype=dtype)

    def with_capacity(self, max_tokens):
        return self._with(capacity=max_tokens)

    def with_artifact_store(self, store):
        return self._with(store=store)

    def with_observer(self, observer):
        return self._with(observers=[*self._fields.get("observers", []), observer])

    def with_sliding_window(self, window_size):
        return self._with(sliding_window=window_size)
