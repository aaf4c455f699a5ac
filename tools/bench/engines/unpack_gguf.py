#!/usr/bin/env python3
"""Writes the model of a GGUF file (llama or qwen2, any quantization) as a folder that mlx_lm and transformers load, in float16.

  unpack_gguf.py MODEL.gguf FOLDER

Needs the packages gguf, safetensors and tokenizers. The weights are those that the quantized ones stand for; rows of q and k, which GGUF
holds in the order of adjacent rotary pairs, go back to halves. The tokenizer is byte-level BPE from the file's vocabulary and merges.
"""
import json
import pathlib
import re
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INNER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
CONTROL = 3  # a token's type


def halves(rows, heads):
    """Rows of adjacent rotary pairs as two halves of each head."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def weights_of(reader, kind, heads, kv_heads):
    weights = {}
    for tensor in reader.tensors:
        rows = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        base, _, suffix = tensor.name.rpartition(".")
        layer = re.fullmatch(r"blk\.(\d+)\.(.*)", base)
        if layer and kind == "llama" and layer[2] in ("attn_q", "attn_k"):
            rows = halves(rows, heads if layer[2] == "attn_q" else kv_heads)
        name = f"model.layers.{layer[1]}.{INNER[layer[2]]}" if layer else OUTER[base]
        weights[f"{name}.{suffix}"] = rows.astype(np.float16)
    return weights


def tokenizer_of(field):
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ", 1)) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    digits = [pre_tokenizers.Digits(individual_digits=True)] if field("tokenizer.ggml.pre") == "smollm" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind == CONTROL])
    return tokenizer


def main():
    source, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(source)

    def field(name, default=None):
        return reader.fields[name].contents() if name in reader.fields else default

    kind = field("general.architecture")
    if kind not in CLASSES:
        sys.exit(f"{source}: architecture {kind} is not one of {', '.join(CLASSES)}")

    def of_model(name, default=None):
        return field(f"{kind}.{name}", default)

    heads, kv_heads, width = of_model("attention.head_count"), of_model("attention.head_count_kv"), of_model("embedding_length")
    weights = weights_of(reader, kind, heads, kv_heads)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokens = field("tokenizer.ggml.tokens")
    config = {
        "architectures": [CLASSES[kind]], "model_type": kind, "hidden_act": "silu", "hidden_size": width, "head_dim": width // heads,
        "intermediate_size": of_model("feed_forward_length"), "num_hidden_layers": of_model("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "rms_norm_eps": float(of_model("attention.layer_norm_rms_epsilon")),
        "rope_theta": float(of_model("rope.freq_base", 10000.0)), "max_position_embeddings": of_model("context_length"),
        "vocab_size": len(tokens), "tie_word_embeddings": "lm_head.weight" not in weights,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"), "eos_token_id": field("tokenizer.ggml.eos_token_id"),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tokenizer_of(field).save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": tokens[config[f"{name}_token_id"]] for name in ("bos", "eos")}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))


if __name__ == "__main__":
    main()
