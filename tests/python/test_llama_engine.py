"""llama.cpp itself in two processes over one kvantd: what one has decoded, the other finds, and goes on with the same text. On the small
model of the tree, or on the GGUF file that KVANT_TEST_GGUF names."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("cyllama")
pytest.importorskip("gguf")
import byte6m_gguf  # noqa: E402

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def model(byte6m, tmp_path_factory):
    if path := os.environ.get("KVANT_TEST_GGUF"):
        return path
    path = tmp_path_factory.mktemp("gguf") / "byte6m.gguf"
    byte6m_gguf.convert(byte6m, path)
    return str(path)


def process(mode, model, socket, text, **options):
    done = subprocess.run(
        [sys.executable, HERE / "llama_engine.py", mode, model, socket, json.dumps({"text": text, **options})],
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
def test_a_raw_plan_goes_on_with_llama_cpps_own_text(model, kvantd, prompt, by, params, plan):
    options = {"by": by, "params": params, "settings": {"keys": plan, "values": plan}}
    first = process("write", model, kvantd, prompt, **options)
    second = process("read", model, kvantd, prompt, **options)
    assert first["evaluated"] == first["prompt"] and first["count"] == first["split"] > 0
    assert second["count"] == first["split"] and second["evaluated"] == second["prompt"] - second["count"]
    assert second["greedy"] == first["greedy"]


def test_codes_hold_less_and_are_found(model, kvantd, prompt):
    first = process("write", model, kvantd, prompt)
    second = process("read", model, kvantd, prompt)
    assert second["count"] == first["split"] and second["evaluated"] == second["prompt"] - second["count"]
    assert first["held_bytes_per_token"] < first["state_bytes_per_token"] / 3.4  # 4.125 bits and sinks, from 16
    print(f"\n{second['prompt']} tokens, {second['count']} found, {second['evaluated']} decoded")
    print(f"{first['state_bytes_per_token']:.0f} bytes per token in llama.cpp's state, {first['held_bytes_per_token']:.0f} in the store")
    print(f"llama.cpp:   {first['text']!r}\nover codes:  {second['text']!r}")
