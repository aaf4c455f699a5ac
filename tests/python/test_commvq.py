"""Codewords that RoPE can turn: trained on a model's keys, and attention over their codes."""

import contextlib
import json
import subprocess

import pytest

torch = pytest.importorskip("torch")
import kvant  # noqa: E402
import numpy  # noqa: E402
from conftest import ROOT  # noqa: E402
from kvant.command import models  # noqa: E402
from kvant.command.recording import recording  # noqa: E402
from kvant.transformers import attach  # noqa: E402
from kvantd_process import program  # noqa: E402
from safetensors.numpy import load  # noqa: E402
from safetensors.numpy import save as safetensors  # noqa: E402

LAYER, STAGES, TRAINED, READ = 3, 11, 1024, 384  # stages of one bit per number


@pytest.fixture(scope="module")
def rows(byte6m):
    """(rope, texts): of two texts queries, keys and values [heads, tokens, 128] of one layer, f32."""
    model, tokenizer = models.load(byte6m)
    with attach(model, kvant.KVCacheConfig(model_path=byte6m)) as attachment:
        rope = attachment.spec.rope
    texts = []

    def seen(module, *of_layer):
        if module.layer_idx == LAYER:
            texts.append([part[0].clone() for part in of_layer])

    with recording(model, seen), torch.inference_mode():
        for name, tokens in (("wire.cc", TRAINED), ("store_spec.cc", READ)):
            text = next(ROOT.joinpath("protocol").rglob(name), ROOT / "client" / "sequence.cc").read_text("utf-8").encode("ascii", "ignore")
            model(input_ids=torch.tensor(list(text[:tokens]))[None], use_cache=False)
    return rope, texts


def read_back(rope, words, keys, values, queries):
    """(keys as codes give them back, attention of queries [n, heads, 128] over all tokens) of a store of keys before RoPE."""
    spec = kvant.StoreSpec(
        name="commvq", model=f"{hash(words.tobytes())}", tokenizer="none", layers=1, kv_heads=1, head_dim=128, rope=rope, key_stage="before_rope",
        dtype="f32", sink_tokens=0, keys=f"commvq:stages={STAGES}", values="f32", artifact=safetensors({"layers.0.keys.commvq": words}),
    )  # fmt: skip
    store = kvant.connect("embedded:").open_store(spec)
    with contextlib.closing(store.open([], recent_tokens=0, max_step_tokens=READ, tail="f32", label="test")) as sequence:
        sequence.reserve(READ)
        sequence.append(0, keys[:, None].contiguous(), values[:, None].contiguous())
        sequence.advance(list(range(READ)))
        back = torch.empty((READ, 1, 128))
        sequence.copy_rows(0, 0, READ, back, torch.empty_like(back))
        out = torch.empty_like(queries)
        for query in range(len(queries)):  # each a probe of all that is cached
            sequence.attend(0, queries[query : query + 1], out[query : query + 1], 128**-0.5)
    store.close()
    return back[:, 0], out


def attention(queries, keys, values):
    return torch.einsum("nhs,sd->nhd", (torch.einsum("nhd,sd->nhs", queries, keys) * 128**-0.5).softmax(-1), values)


def trained(folder, rows, turned):
    """Codewords [1, STAGES, 64, 2, 64] that kvantctl trains on rows of one KV head behind RoPE; not `turned`: as if RoPE had left them
    as they are."""
    rope, (queries, keys, values) = rows
    radians, factor = kvant.rope_frequencies(rope, 128)
    about = {"pairing": rope.pairing, "rotary_dims": rope.rotary_dims, "attention_factor": factor}
    tensors = {
        "layers.0.queries": queries[:1].numpy(),
        "layers.0.keys": keys[:1].numpy(),
        "layers.0.values": values[:1].numpy(),
        "rope.radians": numpy.array(radians) * turned,
    }
    dumped, artifact = folder / "rows", folder / "artifact"
    dumped.write_bytes(safetensors({name: numpy.ascontiguousarray(rows) for name, rows in tensors.items()}, {"rope": json.dumps(about)}))
    command = [program("kvantctl"), "calibrate", "--rows", dumped, "--artifact-out", artifact, "--commvq-bits", "1"]
    subprocess.run(command, check=True, capture_output=True)
    return load(artifact.read_bytes())["layers.0.keys.commvq"]


def turned_by(radians, factor):
    """[READ, pairs], complex: what RoPE multiplies the pairs of tokens from position 0 on with."""
    angles = torch.arange(READ)[:, None] * torch.tensor(radians, dtype=torch.float64)
    return torch.polar(torch.full_like(angles, factor), angles)


def test_trained_codewords_serve_keys_before_rope(rows, tmp_path):
    rope, (learnt, (queries, keys, values)) = rows
    words, of_turned = (trained(tmp_path, (rope, learnt), turned) for turned in (True, False))
    assert words.shape == (1, STAGES, 64, 2, 64)
    radians, factor = kvant.rope_frequencies(rope, 128)
    turns = turned_by(radians, factor)
    back_turned = torch.complex(keys[0, :, :64].double(), keys[0, :, 64:].double()) / turns
    plain, value = torch.cat([back_turned.real, back_turned.imag], -1).float(), values[0]
    asked = queries[:2, -32:].transpose(0, 1).contiguous()
    back, out = read_back(rope, words, plain, value, asked)
    coded = slice(0, READ - 128)  # the newest block stays raw

    def relative(rows):
        return float(((rows - plain)[coded] ** 2).sum() / (plain[coded] ** 2).sum())

    generator = numpy.random.default_rng(1)
    untrained, _ = read_back(rope, (generator.standard_normal(words.shape) * words.std()).astype(numpy.float32), plain, value, asked)
    assert relative(back) < 0.5 * relative(untrained)
    behind, _ = read_back(rope, of_turned, plain, value, asked)
    assert relative(back) < 0.8 * relative(behind)  # what keys have in common before RoPE is turned apart behind it
    # Attention is that over decoded rows, turned in double by the model's own cosines.
    half = torch.complex(back[:, :64].double(), back[:, 64:].double()) * turns
    expected = attention(asked.double(), torch.cat([half.real, half.imag], -1), value.double())
    assert float((out - expected).norm() / expected.norm()) < 1e-4
    exact = attention(asked.double(), keys[0].double(), value.double())
    assert float((out - exact).norm() / exact.norm()) < 0.5
