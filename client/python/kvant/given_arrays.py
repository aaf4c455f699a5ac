"""Arrays of KVCacheConfig as the artifact that codecs read them from: codebooks, smooth factors and rotations in the shapes of the
published packages."""

import numpy as np

from kvant._core import InvalidArgumentError, UnsupportedError

_WORDS, _PART = 256, 4  # of vecinfer's codebooks
_NORMAL_PARTS = 2048


def given(config):
    """Names of the fields that hold arrays."""
    return [name for name in ("codebook", "smooth_factors", "rotations") if getattr(config, name) is not None]


def artifact_of(config, layers, kv_heads, head_dim):
    """The bytes of a safetensors file with the tensors that config's arrays are, for a model of so many layers and KV heads."""
    from safetensors.numpy import save

    if config.artifact:
        raise InvalidArgumentError(f"KVCacheConfig: {given(config)[0]} and artifact are two sources of one calibration; give either")
    tensors = {}
    for layer in range(layers):
        of_layer = _LAYER_TENSORS[config.method](config, layer, layers, kv_heads, head_dim)
        tensors |= {f"layers.{layer}.{name}": np.ascontiguousarray(tensor, np.float32) for name, tensor in of_layer.items()}
    return save(tensors)


def _vecinfer(config, layer, layers, kv_heads, head_dim):
    words = _of_layer(config, "codebook", layer, layers, [kv_heads, _WORDS, _PART])
    smooth = _of_layer(config, "smooth_factors", layer, layers, [kv_heads, head_dim])
    if words is None or smooth is None:
        missing = "codebook" if words is None else "smooth_factors"
        raise InvalidArgumentError(f"KVCacheConfig: method 'vecinfer' wants {missing} beside {given(config)[0]}")
    if not (smooth > 0).all():
        raise InvalidArgumentError(f"KVCacheConfig: smooth_factors of layer {layer} are not all positive")
    books = np.stack([_for_rows_of_unit_size(book, layer) for book in words])
    return {"keys.smooth": smooth, "keys.codebook": books, "values.codebook": books}


def _spectral(config, layer, layers, kv_heads, head_dim):
    """Rotations are pairs: directions as columns, and their variances."""
    entries = config.rotations
    if not isinstance(entries, (list, tuple)) or len(entries) != layers:
        raise InvalidArgumentError(f"KVCacheConfig: rotations must be a list with an entry for each of {layers} layers")
    entry = entries[layer]
    if not isinstance(entry, (list, tuple)) or len(entry) != 2:
        raise UnsupportedError(
            f"KVCacheConfig: rotations[{layer}] must be a pair (directions as columns [head_dim, head_dim], their variances [head_dim]): codes of "
            "directions are as wide as rows vary there. `kvant calibrate` measures both and writes them as `artifact`"
        )
    columns = _shaped(entry[0], f"rotations[{layer}][0]", [kv_heads, head_dim, head_dim])
    variances = _shaped(entry[1], f"rotations[{layer}][1]", [kv_heads, head_dim])
    if (variances < 0).any():
        raise InvalidArgumentError(f"KVCacheConfig: rotations[{layer}][1] holds negative variances")
    return {"keys.mean": np.zeros_like(variances), "keys.basis": columns.swapaxes(1, 2), "keys.deviation": np.sqrt(variances)}


def _commvq(config, layer, layers, kv_heads, head_dim):
    stages = (config.bits * head_dim + 6) // 12
    return {"keys.commvq": _of_layer(config, "codebook", layer, layers, [kv_heads, stages, 64, 2, head_dim // 2])}


_LAYER_TENSORS = {"vecinfer": _vecinfer, "spectral": _spectral, "commvq": _commvq, "comm_vq": _commvq}


def _of_layer(config, name, layer, layers, shape):
    """A field's array for one layer: a list or tuple has one for each layer, any other array is for all of them. None for None."""
    field = getattr(config, name)
    if field is None:
        return None
    if not isinstance(field, (list, tuple)):
        return _shaped(field, name, shape)
    if len(field) != layers:
        raise InvalidArgumentError(f"KVCacheConfig: {name} is a list of {len(field)} arrays, the model has {layers} layers")
    return _shaped(field[layer], f"{name}[{layer}]", shape)


def _shaped(array, name, shape):
    """f64 of `shape`; without its first axis, that of KV heads, an array is for all of them."""
    try:
        array = np.asarray(array, np.float64)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"KVCacheConfig: {name} is no array of numbers, but {type(array).__name__}") from None
    if list(array.shape) not in (shape, shape[1:]):
        raise InvalidArgumentError(f"KVCacheConfig: {name} has shape {list(array.shape)}, {shape} or {shape[1:]} is wanted")
    if not np.isfinite(array).all():
        raise InvalidArgumentError(f"KVCacheConfig: {name} holds NaN or infinity")
    return np.broadcast_to(array, shape)


def _for_rows_of_unit_size(words, layer):
    """Words for rows whose root mean square is 1, which is what vecinfer's are, from words for rows of any one size: scaled as fits parts of
    normal rows best, which parts of rotated rows are."""
    size = np.sqrt((words**2).mean())
    if size == 0:
        raise InvalidArgumentError(f"KVCacheConfig: codebook of layer {layer} is all zeros")
    parts = np.random.default_rng(0).standard_normal((_NORMAL_PARTS, _PART))
    scales = np.geomspace(0.5, 2, 33) / size

    def error(scale):
        scaled = words * scale
        return float(((scaled**2).sum(1) - 2 * parts @ scaled.T).min(1).mean())

    return words * min(scales, key=error)
