"""Models that the tree does not have: KVANT_MLX_MODELS names folders of checkpoints, separated by colons."""

import os

import kvant
import pytest

mx = pytest.importorskip("mlx.core")
import kvant.mlx_lm as km  # noqa: E402
import mlx_lm  # noqa: E402

PROMPT = "The lighthouse keeper had lived on the island for thirty years. Every evening he climbed the stairs, lit the lamp and wrote down what he saw."


@pytest.mark.parametrize("path", [path for path in os.environ.get("KVANT_MLX_MODELS", "").split(":") if path])
def test_an_f32_plan_writes_200_tokens_of_the_engines_own(path):
    model, tokenizer = mlx_lm.load(path)
    model.set_dtype(mx.float32)
    exact = mlx_lm.generate(model, tokenizer, PROMPT, max_tokens=200)
    for placement in ("local", "service"):
        config = kvant.KVCacheConfig(model_path=path, keys="f32", values="f32", block_tokens=32, recent_tokens=0, placement=placement)
        km.patch_mlx_lm(model, config)
        assert mlx_lm.generate(model, tokenizer, PROMPT, max_tokens=200) == exact
    km.unpatch_mlx_lm(model)
