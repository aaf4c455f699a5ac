"""Codewords that RoPE can turn: trained on a model's keys, and attention over their codes."""

import contextlib

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")
import kvant  # noqa: E402
import numpy  # noqa: E402
from conftest import ROOT  # noqa: E402
from kvant.calibration.rope import Turns, turns_of  # noqa: E402
from kvant.command import models  # noqa: E402
from kvant.command.codewords import Codewords  # noqa: E402
from kvant.command.recording import recording  # noqa: E402
from kvant.transformers import attach  # noqa: E402
from safetensors.numpy import save as safetensors  # noqa: E402

LAYER, STAGES, TRAINED, READ = 3, 4, 1024, 384


@pytest.fixture(scope="module")
def rows(byte6m):
    """(rope, turns, texts): of two texts queries, keys and values [heads, tokens, 128] of one layer, f32."""
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
    return rope, turns_of(rope, 128, TRAINED), texts


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


def trained(keys, turns):
    """Codewords [1, STAGES, 64, 2, 64] from keys behind RoPE, by turns that are undone first."""
    kept = Codewords(turns, bits=1, stages=STAGES)
    kept.keep(LAYER, keys, 0)
    return kept.of(LAYER).numpy().astype(numpy.float32)


def test_trained_codewords_serve_keys_before_rope(rows):
    rope, turns, ((_, learnt, _), (queries, keys, values)) = rows
    none = Turns(turns.first, turns.second, torch.ones_like(turns.cosines), torch.zeros_like(turns.sines))
    words, of_turned = (trained(learnt[:1], by) for by in (turns, none))
    assert words.shape == (1, STAGES, 64, 2, 64)
    plain, value = turns.undone(keys[:1].double(), 0)[0].float(), values[0]
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
    half = torch.complex(back[:, :64].double(), back[:, 64:].double()) * torch.complex(turns.cosines, turns.sines)[:READ]
    expected = attention(asked.double(), torch.cat([half.real, half.imag], -1), value.double())
    assert float((out - expected).norm() / expected.norm()) < 1e-4
    exact = attention(asked.double(), keys[0].double(), value.double())
    assert float((out - exact).norm() / exact.norm()) < 0.5
