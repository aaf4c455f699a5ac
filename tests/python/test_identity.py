"""The identity of a checkpoint: the recipe of client/examples/README.md, which the reference engine follows too."""

import json

import kvant
import pytest
from conftest import ROOT
from kvant.hf_config import rope_of
from kvant.identity import canonical_json


def test_the_model_of_the_tree_has_the_reference_engines_identity(byte6m):
    golden = (ROOT / "tests" / "golden" / "model_identity.txt").read_text(encoding="utf-8").split()
    assert kvant.model_identity(byte6m) == golden[-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [  # RFC 8785, appendix B
        (0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9007199254740992, "9007199254740992"),
        (295147905179352825856, "295147905179352830000"),
        (9.999999999999997e22, "9.999999999999997e+22"),
        (1e23, "1e+23"),
        (999999999999999700000, "999999999999999700000"),
        (1e21, "1e+21"),
        (0.000001, "0.000001"),
        (9.999999999999997e-7, "9.999999999999997e-7"),
        (333333333.33333329, "333333333.3333333"),
        (-0.0000033333333333333333, "-0.0000033333333333333333"),
        (1424953923781206.2, "1424953923781206.2"),
    ],
)
def test_numbers_are_printed_as_ecmascript_prints_them(value, text):
    assert canonical_json(value) == text


def test_names_are_sorted_by_utf16(tmp_path):
    assert canonical_json({"\ue000": 1, "\U0001f600": 2, "a": [True, None, "\u00e9"]}) == '{"a":[true,null,"\u00e9"],"\U0001f600":2,"\ue000":1}'


def config(**fields):
    return {"hidden_size": 256, "num_attention_heads": 4, "max_position_embeddings": 4096, **fields}


def test_rope_of_configurations():
    assert rope_of(config(rope_theta=500000.0)).theta == 500000.0
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    rope = rope_of(config(rope_scaling=llama3))
    assert (rope.scaling, rope.factor, rope.original_positions) == ("llama3", 8.0, 8192)
    dynamic = rope_of(config(rope_scaling={"type": "dynamic", "factor": 4.0}))
    assert (dynamic.original_positions, dynamic.context_tokens) == (4096, 16384)
    assert rope_of(config(partial_rotary_factor=0.5)).rotary_dims == 32
    with pytest.raises(kvant.UnsupportedError, match="rope_interleaved"):
        rope_of(config(rope_interleaved=True))
    with pytest.raises(kvant.UnsupportedError, match="unknown_kind"):
        rope_of(config(rope_scaling={"rope_type": "unknown_kind"}))
    with pytest.raises(kvant.InvalidArgumentError, match="rope_theta"):
        rope_of(config(rope_theta=1.0, rope_parameters={"rope_theta": 2.0}))


def test_weights_and_configuration_count_and_names_of_tools_do_not(tmp_path):
    fields = {"model_type": "llama", "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(FileNotFoundError, match="safetensors"):
        kvant.model_identity(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = kvant.model_identity(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**fields, "transformers_version": "5"}))
    assert kvant.model_identity(tmp_path) == first
    (tmp_path / "config.json").write_text(json.dumps({**fields, "hidden_size": 16}))
    assert kvant.model_identity(tmp_path) != first


def test_a_model_is_found_by_path_name_or_what_was_loaded_from_it(byte6m, tmp_path, monkeypatch):
    digest = kvant.model_identity(byte6m)

    class Loaded:
        name_or_path = str(byte6m)

    assert kvant.model_identity(Loaded()) == kvant.model_identity(str(byte6m)) == digest
    with pytest.raises(FileNotFoundError, match="some/model"):
        kvant.model_identity("some/model")
    with pytest.raises(FileNotFoundError, match="no/such/model/at all"):
        kvant.model_identity("no/such/model/at all")
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--some--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / "abc").symlink_to(byte6m)
    assert kvant.model_identity("some/model") == digest
