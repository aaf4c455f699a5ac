"""Digests by which engines find each other's blocks. The recipe is that of client/examples/README.md in the source tree, which the
reference engine follows too: engines that fill in a store's spec by it share prefixes."""

import contextlib
import json
import pathlib

import xxhash

LEFT_OUT = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id"}
)


def _number(value):
    """A number as ECMAScript prints it (RFC 8785, section 3.2.2.3), from Python's shortest digits."""
    value = float(value)
    if value == 0:
        return "0"
    digits = repr(abs(value))
    mantissa, _, power = digits.partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    point = len(whole) + int(power or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    power = ("-" if point < 1 else "+") + str(abs(point - 1))
    return sign + digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + "e" + power


def canonical_json(value):
    """RFC 8785: no white space, fields sorted by UTF-16 code units, numbers as ECMAScript prints them."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(canonical_json(name) + ":" + canonical_json(value[name]) for name in names) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(canonical_json, value)) + "]"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return _number(value)


def _digest_file(path):
    state = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while piece := file.read(1 << 24):
            state.update(piece)
    return state.hexdigest()


def checkpoint(model):
    """The folder of a checkpoint, or its GGUF file, as a path. `model` is that path, the name of a model that huggingface_hub has
    downloaded, or a loaded model of transformers, which knows where it comes from.

    Raises FileNotFoundError where there is no such thing.
    """
    path = pathlib.Path(getattr(model, "name_or_path", model))
    if path.exists():
        return path
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        with contextlib.suppress(HFValidationError):
            config = try_to_load_from_cache(str(path), "config.json")
            if isinstance(config, str):
                return pathlib.Path(config).parent
    except ImportError:
        pass
    raise FileNotFoundError(f"checkpoint: {str(path)!r} is no folder, no GGUF file, and no model that huggingface_hub has downloaded")


def model_identity(model):
    """Digest of what computes keys and values: a checkpoint's config.json and weights (*.safetensors), or its GGUF file, which holds
    both. `model`: see checkpoint(). The same for every engine.

    Raises FileNotFoundError if config.json or the weights are missing.
    """
    folder = checkpoint(model)
    if folder.is_file():
        return xxhash.xxh3_128_hexdigest(f"kvant model 1\ngguf {_digest_file(folder)}\n".encode())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    counted = canonical_json({name: value for name, value in config.items() if name not in LEFT_OUT})
    weights = sorted(folder.glob("*.safetensors"), key=lambda file: file.name.encode())
    if not weights:
        raise FileNotFoundError(f"model identity: no *.safetensors in {folder}")
    lines = "kvant model 1\nconfig " + xxhash.xxh3_128_hexdigest(counted.encode()) + "\n"
    for file in weights:
        lines += file.name + " " + _digest_file(file) + "\n"
    return xxhash.xxh3_128_hexdigest(lines.encode())


def tokenizer_identity(model):
    """Digest of a checkpoint's tokenizer.json, or of its GGUF file, which holds its tokenizer. `model`: see checkpoint()."""
    path = checkpoint(model)
    return _digest_file(path if path.is_file() else path / "tokenizer.json")
