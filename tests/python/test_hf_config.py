"""config.json of models unlike Llama as a store's spec: other names, other rotary positions, and refusals that name the field."""

import json

import kvant
import pytest
from kvant.hf_config import read_config, rope_of, store_spec

LLAMA = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
OLDER = {"n_embd": 64, "n_head": 2, "n_layer": 3}


def spec(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return store_spec(folder, dtype="f32")


@pytest.mark.parametrize(
    "config, kv_heads",
    [
        (LLAMA, 2),
        ({**LLAMA, "num_key_value_heads": 1}, 1),
        ({**OLDER, "model_type": "gpt2"}, 2),
        ({**OLDER, "model_type": "gpt_bigcode"}, 1),
        ({**OLDER, "model_type": "gpt_bigcode", "multi_query": False}, 2),
        ({"d_model": 64, "n_heads": 2, "num_layers": 3, "num_kv_heads": 1}, 1),
    ],
)
def test_shapes_have_many_names(config, kv_heads, tmp_path):
    of = spec(tmp_path, config)
    assert (of.layers, of.kv_heads, of.head_dim) == (3, kv_heads, 32)


@pytest.mark.parametrize(
    "fields, pairing, theta, rotary_dims",
    [
        ({}, "half_split", 10000, 0),
        ({"rope_theta": 5e5, "partial_rotary_factor": 0.5}, "half_split", 5e5, 16),
        ({"model_type": "gpt_neox", "rotary_pct": 0.25, "rotary_emb_base": 1000}, "half_split", 1000, 8),
        ({"model_type": "cohere"}, "adjacent", 10000, 0),
        ({"model_type": "gptj", "rotary_dim": 16}, "adjacent", 10000, 16),
        ({"model_type": "opt"}, "none", 10000, 0),
        # Layers that are turned by different laws.
        ({"rope_theta": 1e6, "rope_local_base_freq": 1e4}, "none", 10000, 0),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}, "none", 10000, 0),
        ({"no_rope_layers": [1, 1, 0]}, "none", 10000, 0),
        ({"no_rope_layers": [1, 1, 1]}, "half_split", 10000, 0),
    ],
)
def test_rotary_positions(fields, pairing, theta, rotary_dims, tmp_path):
    rope = spec(tmp_path, {**LLAMA, **fields}).rope
    assert (rope.pairing, rope.rotary_dims) == (pairing, rotary_dims)
    assert rope.theta == theta


@pytest.mark.parametrize(
    "config, message",
    [
        ({"hidden_size": 64, "num_hidden_layers": 3, "model_type": "rwkv"}, "a model rwkv has no num_attention_heads"),
        ({**LLAMA, "num_hidden_layers": 0}, "no num_hidden_layers"),
        ({**LLAMA, "v_head_dim": 16}, "v_head_dim 16"),
        ({**LLAMA, "rope_interleave": True}, "rope_interleave is not known"),
    ],
)
def test_what_is_not_known_is_refused_by_name(config, message, tmp_path):
    with pytest.raises(kvant.UnsupportedError, match=message):
        spec(tmp_path, config)


def test_a_name_of_its_own_does_not_hide_a_usual_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "n_embd": 128, "rotary_pct": None}))
    config = read_config(tmp_path)
    assert config["hidden_size"] == 64 and rope_of(config).rotary_dims == 0
