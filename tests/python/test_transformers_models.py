"""kvant caches in models with sliding windows, soft caps and attention sinks: small ones with random weights, against transformers' own
eager attention."""

import os
import pathlib

import kvant
import pytest

torch = pytest.importorskip("torch")
import kvant.transformers as kt  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GptOssConfig,
    Llama4TextConfig,
    MambaConfig,
    MistralConfig,
    Qwen3Config,
)

SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": None,
    "bos_token_id": None,
}

MODELS = {
    "sliding window": MistralConfig(**{**SIZES, "num_key_value_heads": 1}, sliding_window=24),
    "soft cap and windows in turns": Gemma2Config(**SIZES, sliding_window=24, attn_logit_softcapping=2.0, query_pre_attn_scalar=32),
    "sinks and windows in turns": GptOssConfig(**SIZES, sliding_window=24, num_local_experts=2, num_experts_per_tok=1),
    "normalized keys": Qwen3Config(**{**SIZES, "num_key_value_heads": 4}),
}


def make(config, folder):
    """A model with random weights, loaded from files as others would load it."""
    torch.manual_seed(1)
    made = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            # Attention that is far from uniform, and sinks that take part.
            parameter.mul_(6.0) if "q_proj" in name or "k_proj" in name else parameter.normal_(0, 1) if "sinks" in name else None
    made.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_those_of_eager_attention(kind, tmp_path):
    model = make(MODELS[kind], tmp_path)
    ids = torch.randint(1, 128, (2, 90), generator=torch.Generator().manual_seed(2))
    padding = torch.ones_like(ids)
    padding[1, :17] = 0
    with torch.no_grad():
        positions = (padding.cumsum(-1) - 1).clamp(min=0)
        expected = model(ids, attention_mask=padding, position_ids=positions).logits
        with kt.attach(model, kvant.KVCacheConfig(keys="f32", values="f32", block_tokens=16, recent_tokens=16)):
            cache = kt.KvantCache(model)
            parts = [model(ids[:, :60], attention_mask=padding[:, :60], cache=cache).logits]
            for column in range(60, 90):
                parts.append(model(ids[:, column : column + 1], attention_mask=padding[:, : column + 1], cache=cache).logits)
            # The padded row's keys stand where an unpadded text has them.
            found = kt.KvantCache(model, ids[1:, 17:])
            rest = model(ids[1:, 17 + found.get_seq_length() :], cache=found).logits
    got = torch.cat(parts, 1)
    # f32 sums of some hundred products of magnitude 1 in another order, through four layers.
    assert torch.isfinite(got).all()
    assert (got - expected)[padding.bool()].abs().max() < 2e-4 * expected.abs().max()
    assert [row.length for row in cache.rows] == [90, 73]
    assert found.cached_tokens[0] >= 32
    assert (rest - expected[1:, 17 + found.cached_tokens[0] :]).abs().max() < 2e-4 * expected.abs().max()


def test_models_that_keep_more_than_keys_and_values_are_refused(tmp_path):
    mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2))
    with pytest.raises(kvant.UnsupportedError, match="Mamba"):
        kt.attach(mamba)


def test_a_mask_of_the_models_own_is_refused(tmp_path):
    chunked = {**SIZES, "intermediate_size_mlp": 96, "num_local_experts": 1, "attention_chunk_size": 16}
    model = make(Llama4TextConfig(**chunked, no_rope_layers=[1] * 4), tmp_path)
    with kt.attach(model, kvant.KVCacheConfig(keys="f32", values="f32")), torch.no_grad():
        with pytest.raises(kvant.UnsupportedError, match="mask of its own"):
            model(torch.arange(1, 40)[None], cache=kt.KvantCache(model))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    model = AutoModelForCausalLM.from_config(MODELS["normalized keys"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        kt.attach(model, kvant.KVCacheConfig(model_path=str(tmp_path / "nowhere")))


def test_a_gguf_file_is_named_by_its_bytes(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF one")
    first = kvant.model_identity(path)
    assert first != kvant.tokenizer_identity(path) and len(first) == 32
    path.rename(tmp_path / "other.gguf")
    assert kvant.model_identity(tmp_path / "other.gguf") == first
    path.write_bytes(b"GGUF two")
    assert kvant.model_identity(path) != first


@pytest.mark.skipif("KVANT_TEST_GGUF" not in os.environ, reason="KVANT_TEST_GGUF names no GGUF file")
@pytest.mark.parametrize("placement", ["local", "service"])
def test_a_model_from_a_gguf_file_writes_its_own_text(placement):
    path = pathlib.Path(os.environ["KVANT_TEST_GGUF"])
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    inputs = tokenizer(pathlib.Path(__file__).read_text(encoding="utf-8")[:2000], return_tensors="pt")
    options = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False}
    exact = model.generate(**inputs, **options)
    with kt.attach(model, kt.Settings(str(path), keys="f32", values="f32", salt=placement, placement=placement)):
        assert torch.equal(model.generate(**inputs, cache=kt.KvantCache(model, **inputs), **options), exact)
        cache = kt.KvantCache(model, **inputs)
        assert cache.cached_tokens[0] >= 128
        assert torch.equal(model.generate(**inputs, cache=cache, **options), exact)
