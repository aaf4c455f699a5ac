#!/usr/bin/env python3
"""Computes the identity of a checkpoint by the recipe in client/examples/llama/model_identity.h, independently of the engine.

Run it from the root of the tree: python3 tests/golden/make_model_identity.py tests/models/byte6m > tests/golden/model_identity.txt
Needs xxh128sum (Debian: xxhash). Prints the canonical config.json, then the lines whose digest is the identity, then the identity.
"""
import json
import pathlib
import subprocess
import sys
from decimal import Decimal

LEFT_OUT = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id"}


def xxh128(data):
    return subprocess.run(["xxh128sum"], input=data, capture_output=True, check=True).stdout.split()[0].decode()


def number(value):
    """ECMAScript's Number::toString, from Python's shortest digits."""
    value = float(value)
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits, point = "".join(map(str, digits)), len(digits) + exponent
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = digits[:point] + "." + digits[point:]
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + "e" + ("-" if point < 1 else "+") + str(abs(point - 1))
    return "-" * sign + text


def canonical(value):
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(canonical(name) + ":" + canonical(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return number(value)


folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
text = canonical({name: value for name, value in config.items() if name not in LEFT_OUT})
lines = "kvant model 1\nconfig " + xxh128(text.encode()) + "\n"
for file in sorted(folder.glob("*.safetensors"), key=lambda file: file.name.encode()):
    lines += file.name + " " + xxh128(file.read_bytes()) + "\n"
print(text)
print(lines, end="")
print(xxh128(lines.encode()))
