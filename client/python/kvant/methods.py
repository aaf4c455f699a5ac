"""Names of quantization methods as the published package has them, and the codecs of kvant that serve them."""

import dataclasses

from kvant._core import InvalidArgumentError


@dataclasses.dataclass(frozen=True)
class Method:
    """codec: of the keys. parameters: the codec's parameters and the fields of KVCacheConfig that fill them. knobs: further fields that
    mean something for the method. values: the codec of the values, where `value_bits` does not say it. own_values: parameters as those of
    the keys, for a method that has values of its own. least_bits: fewer are refused, and this many are the method's default."""

    codec: str
    parameters: dict = dataclasses.field(default_factory=dict)
    knobs: frozenset = frozenset()
    values: str | None = None
    own_values: dict | None = None
    least_bits: int = 1


_RAW = Method("f16", values="f16")
# As published: the same bits for the angles of all levels, a radius for 16 numbers. An angle has at least 2 bits.
_POLAR = Method("polarquant", {"first": "bits", "others": "bits"}, least_bits=2)
_COMMVQ = Method("commvq", {"bits": "bits"}, frozenset({"codebook"}))
_RVQ = Method("turboquant_rvq", {"bits": "bits"}, frozenset({"num_residuals"}))

# Which codec will serve a method is decided; whether it is there, the library's registry says when a store is opened.
METHODS = {
    "none": _RAW,
    "fp16": _RAW,
    "int8": Method("int8", values="int8"),
    "turboquant_mse": Method("turboquant_mse", {"bits": "bits"}),
    # One of its bits is a sign, and the published package keeps at least one bit of code beside it.
    "turboquant_prod": Method("turboquant_prod", {"bits": "bits", "m": "jl_dim"}, least_bits=2),
    "turboquant_rvq": _RVQ,
    "ratequant": dataclasses.replace(_RVQ, knobs=_RVQ.knobs | {"target_bits"}),
    "qjl": Method("qjl", {"m": "projections"}, frozenset({"sketch_dim", "jl_dim"})),
    "polar": _POLAR,
    "polarquant": _POLAR,
    "rabitq": Method("rabitq", {"bits": "bits"}),
    # Sub-vectors have four numbers, so num_subspaces is head_dim / 4.
    "vecinfer": Method("vecinfer", {"bits": "bits"}, frozenset({"num_subspaces", "codebook", "smooth_factors"}), values="vecinfer", least_bits=2),
    "spectral": Method("spectral", {"signal": "signal_bits", "noise": "noise_bits"}, frozenset({"rotations"})),
    "commvq": _COMMVQ,
    "comm_vq": _COMMVQ,
    # One bit between minimum and maximum is worse than zeros; the published package begins at two.
    "kivi": Method(
        "kivi", {"bits": "bits", "group": "kivi_group_size"}, own_values={"bits": "value_bits", "group": "kivi_group_size"}, least_bits=2
    ),
}

_BITS = {bits: f"turboquant_mse:bits={bits}" for bits in range(1, 8)} | {8: "int8", 16: "f16"}


def method_named(name):
    if name not in METHODS:
        raise InvalidArgumentError(f"KVCacheConfig: unknown method {name!r} (known: {', '.join(METHODS)})")
    return METHODS[name]


def keys_of(method, config, bits):
    """The codec spec of the keys; parameters whose field has no value are left to the codec."""
    said = (config.bit_width_inlier, config.bit_allocation) != (None, None)
    if bits == 1 and not said:  # the field's default
        bits = method.least_bits
    return _beside_outliers(_spec(method, "bits", method.parameters, config, bits), config)


def _spec(method, name, parameters, config, bits):
    """`bits` stands for the field of that name."""
    if name in parameters.values() and bits < method.least_bits:
        raise InvalidArgumentError(f"KVCacheConfig: {name}={bits}: {method.codec} needs at least {method.least_bits}, fewer are worse than zeros")
    given = {parameter: bits if field == name else getattr(config, field) for parameter, field in parameters.items()}
    text = ",".join(f"{parameter}={value}" for parameter, value in given.items() if value is not None)
    return f"{method.codec}:{text}" if text else method.codec


def _beside_outliers(spec, config):
    if config.n_outlier_channels is None:
        return spec
    hot = _codec_of_bits("outlier_bits", config.outlier_bits if config.bit_width_outlier is None else config.bit_width_outlier)
    return f"outlier:channels={config.n_outlier_channels},hot=({hot}),rest=({spec})"


def values_of(method, config, default):
    """The codec spec of the values; `default`: of value_bits."""
    if method.values is not None and config.value_bits == default:
        return method.values
    if method.own_values is not None and config.value_bits <= 8:
        return _spec(method, "value_bits", method.own_values, config, config.value_bits)
    return _codec_of_bits("value_bits", config.value_bits)


def _codec_of_bits(name, bits):
    if bits not in _BITS:
        raise InvalidArgumentError(f"KVCacheConfig: {name}={bits} is not one of {', '.join(map(str, _BITS))}")
    return _BITS[bits]
