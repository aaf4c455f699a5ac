"""Writes the queries, keys and values that a model computes of a text, for codecs to be tried on."""

from kvant.command import models


def add_arguments(command):
    models.add_text_arguments(command, 2048)
    command.add_argument("--rows-out", metavar="FILE", required=True, help="the safetensors file to write")


def run(arguments):
    import torch
    from safetensors.torch import save_file
    from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    import kvant

    model, tokenizer = models.load(arguments.model)
    ids = models.tokens_of(tokenizer, models.read_text(arguments.text), 1)[: arguments.tokens]
    queries = {}

    def recording(module, query, *rest, **options):
        queries.setdefault(module.layer_idx, []).append(query[0])
        return sdpa_attention_forward(module, query, *rest, **options)

    AttentionInterface.register("kvant_rows", recording)
    AttentionMaskInterface.register("kvant_rows", sdpa_mask)
    model.set_attn_implementation("kvant_rows")
    cache = DynamicCache(config=model.config)
    with models.progress(len(ids), "rows", arguments.output) as progress:
        for _ in models.passes(model, cache, ids, arguments.step, progress):
            pass
    tensors = {}
    for index, layer in enumerate(cache.layers):
        if layer.keys.shape[2] != len(ids):
            raise ValueError(f"rows: layer {index} keeps {layer.keys.shape[2]} of {len(ids)} tokens; choose fewer --tokens")
        tensors[f"layers.{index}.queries"] = torch.cat(queries[index], dim=1).contiguous()
        tensors[f"layers.{index}.keys"] = layer.keys[0].contiguous()
        tensors[f"layers.{index}.values"] = layer.values[0].contiguous()
    metadata = {"model": kvant.model_identity(arguments.model), "tokens": str(len(ids)), "stage": "after_rope", "axes": "heads, tokens, head_dim"}
    save_file(tensors, arguments.rows_out, metadata)
    return {"rows": arguments.rows_out, "tokens": len(ids), "layers": len(cache.layers)}


def show(result):
    print(f"{result['rows']}: queries, keys and values of {result['layers']} layers and {result['tokens']} tokens")
