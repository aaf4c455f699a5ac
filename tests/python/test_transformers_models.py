"""kvant caches in models with sliding windows, soft caps and attention sinks: small ones with random weights, against transformers' own
eager attention."""

import json
import os
import pathlib
import shutil

import kvant
import pytest

torch = pytest.importorskip("torch")
import kvant.transformers as kt  # noqa: E402
from kvant.command import main, models  # noqa: E402
from kvant.command.recording import recording  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GptOssConfig,
    GPTNeoXConfig,
    JambaConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen3Config,
    RwkvConfig,
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

PLAIN = {name: value for name, value in SIZES.items() if name != "head_dim"}
# Those of models before Llama, where hidden_size and the like have their own names.
OLDER = {"vocab_size": 128, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}
SMALL = {"n_embd": 64, "n_layer": 3, "n_head": 2, "n_positions": 512}

MODELS = {
    "sliding window": MistralConfig(**{**SIZES, "num_key_value_heads": 1}, sliding_window=24),
    "soft cap and windows in turns": Gemma2Config(**SIZES, sliding_window=24, attn_logit_softcapping=2.0, query_pre_attn_scalar=32),
    "sinks and windows in turns": GptOssConfig(**SIZES, sliding_window=24, num_local_experts=2, num_experts_per_tok=1),
    "normalized keys": Qwen3Config(**{**SIZES, "num_key_value_heads": 4}),
    "biased projections, heads of 80": LlamaConfig(**{**SIZES, "head_dim": 80}, attention_bias=True),
    "sixteen query heads for one KV head of 256": LlamaConfig(**{**SIZES, "head_dim": 256, "num_attention_heads": 16, "num_key_value_heads": 1}),
    "heads of 96": Phi3Config(**{**SIZES, "hidden_size": 384, "head_dim": 96}),
    "half of a head is turned": PhiConfig(**PLAIN, partial_rotary_factor=0.5),
    "a quarter of a head is turned": GPTNeoXConfig(**OLDER, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2),
    "neighbouring channels are turned": CohereConfig(**PLAIN),
    "some neighbouring channels are turned": GPTJConfig(**OLDER, **SMALL, rotary_dim=16),
    "two laws of rotary positions": Gemma3TextConfig(**{**SIZES, "num_hidden_layers": 6}, sliding_window=24, query_pre_attn_scalar=32),
    "learned positions": GPT2Config(**OLDER, **SMALL),
    "learned positions, one KV head": GPTBigCodeConfig(**OLDER, **SMALL),
    "a decoder beside its base model": OPTConfig(
        **OLDER, hidden_size=64, ffn_dim=96, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=512, word_embed_proj_dim=64
    ),
}

REFUSED = {
    "layers of JambaForCausalLM keep LinearAttentionLayer": JambaConfig(**SIZES, num_experts=2, attn_layer_period=2, attn_layer_offset=1),
    "v_head_dim 24: keys and values of different sizes": DeepseekV3Config(
        **{**PLAIN, "num_key_value_heads": 4}, kv_lora_rank=32, q_lora_rank=32, qk_rope_head_dim=16, qk_nope_head_dim=32,
        v_head_dim=24, n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "a model rwkv has no num_attention_heads": RwkvConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2),
}  # fmt: skip


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


@pytest.mark.parametrize("message", REFUSED)
def test_models_that_kvant_cannot_serve_are_refused_by_name(message, tmp_path):
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(REFUSED[message]).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(kvant.UnsupportedError, match=message):
        kt.attach(AutoModelForCausalLM.from_pretrained(tmp_path))


@pytest.mark.parametrize("kind", ["soft cap and windows in turns", "sinks and windows in turns", "two laws of rotary positions", "learned positions"])
def test_recording_leaves_attention_as_it_is(kind, tmp_path):
    model = make(MODELS[kind], tmp_path)
    ids = torch.randint(1, 128, (1, 90), generator=torch.Generator().manual_seed(2))
    seen = {}
    with torch.no_grad():
        expected = model(ids).logits
        with recording(model, lambda module, *rows: seen.setdefault(module.layer_idx, []).append(rows)):
            got = torch.cat([logits for _, logits in models.passes(model, models.whole_cache(model), ids, 30, models.progress(90, "", "json"))], 1)
    assert (got - expected).abs().max() < 2e-4 * expected.abs().max()
    assert [len(passed) for passed in seen.values()] == [3] * model.config.num_hidden_layers
    assert all(rows[1].shape[2] == 30 for passed in seen.values() for rows in passed)


@pytest.mark.parametrize("kind", ["sinks and windows in turns", "two laws of rotary positions", "some neighbouring channels are turned", "learned positions"])
def test_commands_serve_models_unlike_llama(kind, byte6m, tmp_path, capsys):
    make(MODELS[kind], tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(byte6m / name, tmp_path)
    (tmp_path / "text").write_text("keys and values " * 30)
    text = [str(tmp_path), "--text", str(tmp_path / "text"), "--tokens", "400", "--window", "400", "--step", "40", "-o", "json"]
    artifact = str(tmp_path / "artifact")
    plans = ["f32", "turboquant_mse:bits=4,gauge=matrix/f32", "gauge:kind=pair,codes=(turboquant_mse)/f32", "gauge:kind=bias/f32"]
    assert main(["calibrate", *text, "--artifact-out", artifact]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["quality", *text, "--skip", "200", "--artifact", artifact, "--plans", *plans]) == 0, capsys.readouterr().err
    exact, *coded = json.loads(capsys.readouterr().out)["plans"]
    assert abs(exact["kl"]) < 1e-6
    assert all(abs(plan["kl"]) < 0.05 for plan in coded)


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
