"""llama.cpp itself in two processes over one kvantd: what one has decoded, the other finds, and goes on with the same text. Needs a GGUF
file, named by KVANT_TEST_GGUF, and the cyllama wheel (pip install cyllama==0.2.18)."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("cyllama")
MODEL = os.environ.get("KVANT_TEST_GGUF")
pytestmark = pytest.mark.skipif(not MODEL, reason="KVANT_TEST_GGUF names no GGUF file")
HERE = pathlib.Path(__file__).parent


def process(mode, socket, text, **options):
    done = subprocess.run(
        [sys.executable, HERE / "llama_engine.py", mode, MODEL, socket, json.dumps({"text": text, **options})],
        capture_output=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("by", "params", "plan"),
    [
        ("sequence", {}, "f16"),
        ("sequence", {"flash_attn_type": 0}, "f16"),  # values transposed
        ("cache", {}, "f16"),
        ("cache", {"flash_attn_type": 0}, "f16"),
        ("cache", {"type_k": 0, "type_v": 0}, "f32"),
    ],
    ids=str,
)
def test_a_raw_plan_goes_on_with_llama_cpps_own_text(kvantd, prompt, by, params, plan):
    options = {"by": by, "params": params, "settings": {"keys": plan, "values": plan}}
    first = process("write", kvantd, prompt, **options)
    second = process("read", kvantd, prompt, **options)
    assert first["evaluated"] == first["prompt"] and first["count"] == first["split"] > 0
    assert second["count"] == first["split"] and second["evaluated"] == second["prompt"] - second["count"]
    assert second["greedy"] == first["greedy"]


def test_codes_hold_less_and_are_found(kvantd, prompt):
    first = process("write", kvantd, prompt)
    second = process("read", kvantd, prompt)
    assert second["count"] == first["split"] and second["evaluated"] == second["prompt"] - second["count"]
    assert first["held_bytes_per_token"] < first["state_bytes_per_token"] / 3.4  # 4.125 bits and sinks, from 16
    print(f"\n{second['prompt']} tokens, {second['count']} found, {second['evaluated']} decoded")
    print(f"{first['state_bytes_per_token']:.0f} bytes per token in llama.cpp's state, {first['held_bytes_per_token']:.0f} in the store")
    print(f"llama.cpp:   {first['text']!r}\nover codes:  {second['text']!r}")
