"""Names of quantization methods as the published package has them, and the codecs of kvant that serve them."""

import dataclasses

from kvant._core import InvalidArgumentError


@dataclasses.dataclass(frozen=True)
class Method:
    """codec: of the keys. parameters: the codec's parameters and the fields of KVCacheConfig that fill them. knobs: further fields that
    mean something for the method. values: the codec of the values, where `value_bits` does not say it."""

    codec: str
    parameters: dict = dataclasses.field(default_factory=dict)
    knobs: frozenset = frozenset()
    values: str | None = None


_RAW = Method("f16", values="f16")
_POLAR = Method("polar", {"bits": "bits"})
_COMMVQ = Method("commvq", {"bits": "bits", "codebooks": "num_subspaces"}, frozenset({"codebook", "num_residuals"}))
_RVQ = Method("turboquant_rvq", {"bits": "bits"}, frozenset({"num_residuals"}))

# Which codec will serve a method is decided; whether it is there, the library's registry says when a store is opened.
METHODS = {
    "none": _RAW,
    "fp16": _RAW,
    "int8": Method("int8", values="int8"),
    "turboquant_mse": Method("turboquant_mse", {"bits": "bits"}),
    "turboquant_prod": Method("turboquant_prod", {"bits": "bits", "m": "jl_dim"}),
    "turboquant_rvq": _RVQ,
    "ratequant": dataclasses.replace(_RVQ, knobs=_RVQ.knobs | {"target_bits"}),
    "qjl": Method("qjl", {"m": "projections"}, frozenset({"sketch_dim", "jl_dim"})),
    "polar": _POLAR,
    "polarquant": _POLAR,
    "rabitq": Method("rabitq", {"bits": "bits"}, frozenset({"num_clusters"})),
    # Sub-vectors have four numbers, so num_subspaces is head_dim / 4; codebook and smooth_factors come as tensors of the artifact.
    "vecinfer": Method("vecinfer", {"bits": "bits"}, frozenset({"num_subspaces"}), values="vecinfer"),
    "spectral": Method("spectral", {"signal": "signal_bits", "noise": "noise_bits"}, frozenset({"rotations"})),
    "commvq": _COMMVQ,
    "comm_vq": _COMMVQ,
    "kivi": Method("kivi", {"bits": "bits", "group": "kivi_group_size"}),
}

_BITS = {1: "turboquant_mse:bits=1", 2: "turboquant_mse:bits=2", 3: "turboquant_mse:bits=3", 4: "turboquant_mse:bits=4", 8: "int8", 16: "f16"}


def method_named(name):
    if name not in METHODS:
        raise InvalidArgumentError(f"KVCacheConfig: unknown method {name!r} (known: {', '.join(METHODS)})")
    return METHODS[name]


def keys_of(method, config, bits):
    """The codec spec of the keys; parameters whose field has no value are left to the codec."""
    given = {name: bits if field == "bits" else getattr(config, field) for name, field in method.parameters.items()}
    text = ",".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return _beside_outliers(f"{method.codec}:{text}" if text else method.codec, config)


def _beside_outliers(spec, config):
    if config.n_outlier_channels is None:
        return spec
    hot = _codec_of_bits("outlier_bits", config.outlier_bits if config.bit_width_outlier is None else config.bit_width_outlier)
    return f"outlier:channels={config.n_outlier_channels},hot=({hot}),rest=({spec})"


def values_of(method, value_bits, default):
    if method.values is not None and value_bits == default:
        return method.values
    return _codec_of_bits("value_bits", value_bits)


def _codec_of_bits(name, bits):
    if bits not in _BITS:
        raise InvalidArgumentError(f"KVCacheConfig: {name}={bits} is not one of {', '.join(map(str, _BITS))}")
    return _BITS[bits]
