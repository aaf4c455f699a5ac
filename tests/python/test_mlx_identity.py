"""A model without a folder is known by what it is in memory: the same model finds its blocks, another does not."""

import kvant
import pytest

mx = pytest.importorskip("mlx.core")
import kvant.mlx_lm as km  # noqa: E402
from kvant.mlx_lm.identity import adapter_identity, loaded_identity  # noqa: E402
from small_mlx_model import ids, small  # noqa: E402

TOKENS = ids(64)


def test_every_weight_and_argument_counts():
    first = loaded_identity(small())
    assert loaded_identity(small()) == first
    changed = small()
    changed.layers[1].mlp.up_proj.weight[3, 4] += 1e-3
    assert loaded_identity(changed) != first
    assert loaded_identity(small(rope_theta=20000.0)) != first
    changed = small()
    changed.set_dtype(mx.float16)
    assert loaded_identity(changed) != first


def found(model, **fields):
    """Tokens of TOKENS that the model's caches hold from the start; computes them then."""
    km.patch_mlx_lm(model, kvant.KVCacheConfig(keys="f32", values="f32", block_tokens=16, recent_tokens=0, salt="identity", **fields))
    caches = km.make_prompt_cache(model, TOKENS[0].tolist())
    held = km.cached_tokens(caches)
    if held < TOKENS.shape[1]:
        model(TOKENS[:, held:], cache=caches)
    km.unpatch_mlx_lm(model)
    return held


def test_the_same_model_finds_its_blocks_and_another_does_not():
    assert found(small()) == 0
    assert found(small()) == 64
    assert found(small(rope_theta=20000.0)) == 0
    # What changes keys and values beside the model.
    for fields in ({"seed": 1}, {"sliding_window": 8}, {"adapter": "another"}):
        assert found(small(), **fields) == 0
        assert found(small(), **fields) == 64


def test_an_adapter_is_its_files(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapters.safetensors").write_bytes(b"rows")
    first = adapter_identity(tmp_path)
    (tmp_path / "adapters.safetensors").write_bytes(b"other rows")
    assert adapter_identity(tmp_path) != first
